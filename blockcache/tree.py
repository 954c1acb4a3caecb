"""The dataset's names: what the catalog knows, kept as fresh as `listing_ttl_s` asks, from the sources on demand.

A source that is away costs a warning as long as the catalog has an answer. Ages are taken by the catalog's clock, which
is not the system's: one that is set forth or back makes no listing fresh for ever, nor all of them old at once.
"""

import contextlib
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar
from weakref import WeakValueDictionary

import trio

from blockcache.catalog import ROOT_ID, Catalog, Listed, Listing, Node
from blockcache.origin import Origin
from datamodel.errors import (
    Corrupt,
    HeadraceError,
    NotFound,
    PermissionRefused,
    Unavailable,
    UserError,
    VersionChanged,
)
from obs import logs
from ufs.base import Stat

log = logs.get("blockcache")

T = TypeVar("T")
R = TypeVar("R")

OnChange = Callable[[int, tuple[str, ...]], None]
"""(row of a directory, names in it): readers would see something else below these names now."""

_EXCUSED = 65536
_EXCUSED_FOR_S = 10.0
_THREADS = 16
_TROUBLES = (Unavailable, Corrupt, PermissionRefused, UserError)
"""With which a source does not say that a name is gone, so that what is known of it stays true for all we know."""


class Tree:
    """Names over *origins* (by absolute path in the dataset). State is consistent between awaits.

    *identities* tell, by the same paths, which source it is: names of another one are dropped. *on_change* is called
    between awaits, whichever process of the mount noticed the change.
    """

    def __init__(
        self,
        catalog: Catalog,
        origins: dict[str, Origin],
        listing_ttl_s: float,
        on_change: OnChange = lambda directory, names: None,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        self.catalog, self._on_change = catalog, on_change
        self._listing_ttl_s = listing_ttl_s
        self._sources: dict[int, Origin] = {}
        self._excused: OrderedDict[int, float] = OrderedDict()
        self._listing: WeakValueDictionary[int, trio.Lock] = WeakValueDictionary()  # gone with its last user
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._last_change, self._doubted_at = catalog.last_change(), catalog.doubted_at
        catalog.adopt(identities or {})
        if "/" in origins:
            self._sources[ROOT_ID] = origins["/"]
            return
        self._roots = [Listed(path[1:], True, None, None) for path in origins]
        catalog.record_listing(ROOT_ID, self._roots, now=catalog.clock())
        for path, origin in origins.items():
            row = catalog.lookup(ROOT_ID, path[1:])
            assert row is not None
            self._sources[row.id] = origin

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple(self._sources.values())

    @property
    def is_split(self) -> bool:
        """Whether the root shows the sources as directories, and is none of them itself."""
        return ROOT_ID not in self._sources

    def node(self, id: int) -> Node:
        """The row *id*. Raises VersionChanged when it is gone, so that the reader looks its name up again."""
        node = self.catalog.get(id)
        if node is None:
            raise VersionChanged(f"node {id}: the source has another version by now")
        return node

    def where(self, node: Node) -> tuple[Origin, str]:
        """The source of *node* and its path there."""
        names: list[str] = []
        while node.id not in self._sources:
            names.append(node.name)
            node = self.node(node.parent)
        return self._sources[node.id], "/".join(reversed(names))

    async def lookup(self, parent: int, name: str) -> Node:
        """The child *name* of directory *parent*; a file's size is known.

        Raises:
            NotFound: no such name. Unavailable: the source is away and the catalog does not know.
        """
        known, listed_at = self.catalog.find(parent, name)
        is_listed = self._is_listed(parent, listed_at)
        if known is not None and (known.is_dir or known.size is not None) and self._is_fresh(known, is_listed):
            return known
        if known is None and is_listed:
            raise NotFound(f"{name!r}: no such file or folder")
        return await self._ask(self.node(parent), name, known)

    async def resolve(self, path: str) -> Node:
        """The row at *path*, POSIX and relative to the dataset's root; "" is the root. Symbolic links are not followed.

        Raises:
            NotFound: no such path.
        """
        node = self.node(ROOT_ID)
        for name in filter(None, path.split("/")):
            if name in (".", "..") or not node.is_dir:
                raise NotFound(f"{path!r}: no such file or folder")
            node = await self.lookup(node.id, name)
        return node

    async def pin(self, id: int) -> Node:
        """The file *id* with its version known, asked for not longer than `listing_ttl_s` ago.

        Raises:
            VersionChanged: the source has another version; the name leads to a new row now.
            Unavailable: the source is away, and the version was never asked for.
        """
        node = self.node(id)
        if node.version and self._is_fresh(node, self._is_parent_listed(node)):
            return node
        current = await self._ask(self.node(node.parent), node.name, node)
        if not current.version:
            raise Unavailable(f"{node.name!r}: cannot be opened while its source is away: it is listed, but not cached")
        if current.id != id:
            raise VersionChanged(f"{node.name!r}: the source has another version by now")
        return current

    async def renew(self, node: Node) -> None:
        """The source said that *node* is outdated: find out what it has now."""
        with contextlib.suppress(NotFound, VersionChanged):
            await self._ask(self.node(node.parent), node.name, node)

    async def ensure_listed(self, id: int) -> None:
        """Make sure that the catalog holds the listing of directory *id*, with sizes; read it with `catalog.children`.

        Raises:
            Unavailable: the source is away and the directory was never listed.
        """
        directory = self.node(id)
        if self._is_listed(id, directory.listed_at):
            return
        try:
            async with self._lock(id):
                directory = self.node(id)
                if not self._is_listed(id, directory.listed_at):  # nobody did while we waited
                    await self._list(directory)
        except _TROUBLES as error:
            if directory.listed_at is None:
                raise
            origin, path = self.where(directory)
            log.warning("listing.stale", source=origin.name, path=path, error=str(error))

    async def list_again(self, id: int) -> None:
        """Take the listing of directory *id* from its source now.

        Raises:
            NotFound: it is gone, and forgotten. Unavailable and others: as the source says.
        """
        async with self._lock(id):
            await self._list(self.node(id))

    async def hear(self) -> None:
        """Learn what other processes of the mount changed since the last call."""
        self.catalog.forget_rows()
        while True:
            changes = await self._in_thread(self.catalog.changes, self._last_change)
            if changes.last == self._last_change:
                return
            self._last_change = changes.last
            if changes.is_all:
                self.doubt()
            for directory, names in changes.names.items():
                self._on_change(directory, names)

    def doubt(self) -> None:
        """Have heard that single names are to be asked for again."""
        self._doubted_at = self.catalog.doubted_at
        self._excused.clear()

    # ---- asking the source --------------------------------------------------------------------------------------

    def _lock(self, directory: int) -> trio.Lock:
        return self._listing.setdefault(directory, trio.Lock())

    async def _list(self, directory: Node) -> None:
        if directory.id == ROOT_ID and self.is_split:
            self.catalog.record_listing(ROOT_ID, self._roots, now=self.catalog.clock())
            return
        origin, path = self.where(directory)
        taking = _Taking(self.catalog, directory.id, origin.list(path), self._on_change)
        sized: list[Listed] = []
        try:
            while (unsized := await self._in_thread(taking.go_on, sized)) is not None:
                sized = await self._with_sizes(origin, path, unsized)
        except NotFound as error:
            if directory.id in self._sources:
                origin.problem = f"its own folder is gone: {error}"
                raise Unavailable(f"source {origin.name!r}: {origin.problem}") from error
            self._tell_forgotten(await self._in_thread(self.catalog.forget, directory.id))
            raise

    async def _in_thread(self, function: Callable[[T], R], argument: T) -> R:
        try:
            return await trio.to_thread.run_sync(function, argument, limiter=self._limiter, abandon_on_cancel=True)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the catalog of names cannot be written: {error}; is its disk full?") from error

    async def _with_sizes(self, origin: Origin, path: str, entries: list[Listed]) -> list[Listed]:
        """*entries*, those without a size asked for one by one; without those that are gone by now."""
        sized: dict[str, Listed] = {entry.name: entry for entry in entries}
        unknown = iter([entry for entry in entries if not entry.is_dir and entry.size is None])
        problems: list[HeadraceError] = []

        async def measure() -> None:
            for entry in unknown:
                child = f"{path}/{entry.name}" if path else entry.name
                try:
                    stat = await self._in_thread(origin.stat, child)
                except NotFound:
                    del sized[entry.name]  # it went between the listing and the question
                except PermissionRefused:
                    continue  # one forbidden file must not hide its neighbours; opening it will say so
                except HeadraceError as error:
                    problems.append(error)
                else:
                    sized[entry.name] = _listed(entry.name, stat)
                if problems:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(_THREADS):
                nursery.start_soon(measure)
        if problems:
            raise problems[0]
        return list(sized.values())

    async def _ask(self, directory: Node, name: str, known: Node | None) -> Node:
        origin, path = self.where(directory)
        child = f"{path}/{name}" if path else name

        def ask(_: None) -> tuple[Node, bool]:
            return self.catalog.record_change(directory.id, _listed(name, origin.stat(child)))

        try:
            node, is_changed = await self._in_thread(ask, None)
        except NotFound:
            if known is not None:
                self._tell_forgotten(await self._in_thread(self.catalog.forget, known.id))
            raise
        except _TROUBLES as error:
            if known is None or (not known.is_dir and known.size is None):
                raise
            log.warning("attributes.stale", source=origin.name, path=child, error=str(error))
            self._excuse(known.id)
            return known
        if is_changed:
            self._on_change(directory.id, (name,))
        return node

    def _tell_forgotten(self, forgotten: tuple[int, str] | None) -> None:
        if forgotten is not None:
            self._on_change(forgotten[0], (forgotten[1],))

    # ---- what is believed ---------------------------------------------------------------------------------------

    def _excuse(self, id: int) -> None:
        """Its source is away: do not ask for it again at once."""
        self._excused[id] = self.catalog.clock() + min(_EXCUSED_FOR_S, self._listing_ttl_s)
        while len(self._excused) > _EXCUSED:
            self._excused.popitem(last=False)

    def _is_fresh(self, node: Node, is_parent_listed: bool) -> bool:
        if node.id in self._sources or self._excused.get(node.id, 0.0) > self.catalog.clock():
            return True
        checked_at = node.checked_at
        if checked_at is not None and checked_at > self._doubted_at and self._is_recent(checked_at):
            return True
        # Where listings do not show a change of content, a version that was once asked for is to be asked for again.
        return is_parent_listed and (node.is_vouched or not node.version)

    def _is_parent_listed(self, node: Node) -> bool:
        parent = self.catalog.get(node.parent)
        return parent is not None and self._is_listed(parent.id, parent.listed_at)

    def _is_listed(self, directory: int, listed_at: float | None) -> bool:
        if directory == ROOT_ID and self.is_split:
            return True
        return listed_at is not None and self._is_recent(listed_at)

    def _is_recent(self, moment: float) -> bool:
        return 0 <= self.catalog.clock() - moment < self._listing_ttl_s


class _Taking:
    """A listing on its way from its source into the catalog; runs in a thread."""

    def __init__(self, catalog: Catalog, directory: int, batches: Iterator[list[Listed]], on_change: OnChange) -> None:
        self._catalog, self._directory, self._batches, self._on_change = catalog, directory, batches, on_change
        self._listing: Listing | None = None

    def go_on(self, batch: list[Listed]) -> list[Listed] | None:
        """Record *batch* and all that follow it. Where sizes are wanting it returns the batch: go on with them."""
        if self._listing is None:
            self._listing = self._catalog.begin_listing(self._directory)
        self._tell(self._listing.add(batch))
        for following in self._batches:
            if any(entry.size is None and not entry.is_dir for entry in following):
                return following
            self._tell(self._listing.add(following))
        for dropped in self._listing.finish(self._catalog.clock()):
            self._tell(dropped)
        return None

    def _tell(self, names: tuple[str, ...]) -> None:
        if names:
            trio.from_thread.run_sync(self._on_change, self._directory, names)


def _listed(name: str, stat: Stat) -> Listed:
    size = None if stat.is_dir else stat.size
    mtime_ns = stat.mtime_ns or None if stat.is_dir else stat.mtime_ns
    return Listed(name, stat.is_dir, size, mtime_ns, stat.version, stat.link_target, stat.is_executable)
