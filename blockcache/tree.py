"""The dataset's names: what the catalog knows, kept as fresh as `listing_ttl_s` asks, from the sources on demand.

A source that is away costs a warning as long as the catalog has an answer.
"""

import contextlib
import time
from collections import OrderedDict
from weakref import WeakValueDictionary

import trio

from blockcache.catalog import ROOT_ID, Catalog, Listed, Node
from blockcache.origin import Origin
from datamodel.errors import Corrupt, HeadraceError, NotFound, PermissionRefused, Unavailable, VersionChanged
from obs import logs
from ufs.base import Stat

log = logs.get("blockcache")

_REMEMBERED = 65536
_THREADS = 16


class Tree:
    """Names over *origins* (by absolute path in the dataset). State is consistent between awaits."""

    def __init__(self, catalog: Catalog, origins: dict[str, Origin], listing_ttl_s: float) -> None:
        self.catalog = catalog
        self._listing_ttl_s = listing_ttl_s
        self._sources: dict[int, Origin] = {}
        self._checked: OrderedDict[int, float] = OrderedDict()
        self._listing: WeakValueDictionary[int, trio.Lock] = WeakValueDictionary()  # gone with its last user
        self._limiter = trio.CapacityLimiter(_THREADS)
        if "/" in origins:
            self._sources[ROOT_ID] = origins["/"]
            return
        catalog.record_listing(ROOT_ID, [Listed(path[1:], True, None, None) for path in origins], now=time.time())
        for path, origin in origins.items():
            row = catalog.lookup(ROOT_ID, path[1:])
            assert row is not None
            self._sources[row.id] = origin

    @property
    def source_ids(self) -> tuple[int, ...]:
        """Rows of the sources' roots."""
        return tuple(self._sources)

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
        known = self.catalog.lookup(parent, name)
        if known is not None and (known.is_dir or known.size is not None) and self._is_fresh(known):
            return known
        directory = self.node(parent)
        if known is None and self._is_listed(directory):
            raise NotFound(f"{name!r}: no such file or folder")
        return await self._ask(directory, name, known)

    async def resolve(self, path: str) -> Node:
        """The row at *path*, POSIX and relative to the dataset's root; "" is the root.

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
        if node.version and self._is_fresh(node):
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
        lock = self._listing.setdefault(id, trio.Lock())
        async with lock:
            directory = self.node(id)
            if self._is_listed(directory):
                return
            origin, path = self.where(directory)
            try:
                entries = await trio.to_thread.run_sync(origin.list, path, limiter=self._limiter)
                entries = await self._with_sizes(origin, path, entries)
                await trio.to_thread.run_sync(
                    self.catalog.record_listing, id, entries, time.time(), limiter=self._limiter
                )
            except (Unavailable, Corrupt) as error:
                if directory.listed_at is None:
                    raise
                log.warning("listing.stale", source=origin.name, path=path, error=str(error))

    async def _with_sizes(self, origin: Origin, path: str, entries: list[Listed]) -> list[Listed]:
        """*entries*, those without a size asked for one by one; without those that are gone by now."""
        sized: dict[str, Listed] = {entry.name: entry for entry in entries}
        unknown = iter([entry for entry in entries if not entry.is_dir and entry.size is None])
        problems: list[HeadraceError] = []

        async def measure() -> None:
            for entry in unknown:
                child = f"{path}/{entry.name}" if path else entry.name
                try:
                    stat = await trio.to_thread.run_sync(origin.stat, child, limiter=self._limiter)
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

        def ask() -> Node:
            return self.catalog.record(directory.id, _listed(name, origin.stat(child)))

        try:
            node = await trio.to_thread.run_sync(ask, limiter=self._limiter, abandon_on_cancel=True)
        except NotFound:
            if known is not None:
                self.catalog.forget(known.id)
            raise
        except (Unavailable, Corrupt) as error:
            if known is None or (not known.is_dir and known.size is None):
                raise
            log.warning("attributes.stale", source=origin.name, path=child, error=str(error))
            node = known
        self._checked[node.id] = time.monotonic()
        while len(self._checked) > _REMEMBERED:
            self._checked.popitem(last=False)
        return node

    def _is_fresh(self, node: Node) -> bool:
        checked = self._checked.get(node.id)
        if node.id in self._sources or (checked is not None and time.monotonic() - checked < self._listing_ttl_s):
            return True
        parent = self.catalog.get(node.parent)
        return parent is not None and self._is_listed(parent)

    def _is_listed(self, directory: Node) -> bool:
        if directory.id == ROOT_ID and ROOT_ID not in self._sources:
            return True  # its entries are the sources, which only a new configuration changes
        return directory.listed_at is not None and 0 <= time.time() - directory.listed_at < self._listing_ttl_s


def _listed(name: str, stat: Stat) -> Listed:
    return Listed(name, stat.is_dir, None if stat.is_dir else stat.size, stat.mtime_ns, stat.version)
