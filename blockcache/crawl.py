"""Lists what nobody asked for yet, so that totals are true and names are there before they are wanted.

It runs in the one process of a mount that keeps the cache, or in a worker. Upper levels come first; what is listed is
remembered in the catalog, so the next process goes on where this one ended. Old listings are taken again at leisure,
and at once where somebody asked for a refresh. It gives way to readers, and knows nothing of what they read.
"""

import contextlib
import math
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import trio

from blockcache.catalog import ROOT_ID, Node
from blockcache.origin import Origin
from blockcache.tree import Tree
from datamodel.errors import HeadraceError, NotFound, Unavailable, VersionChanged
from obs import logs

log = logs.get("blockcache")

_AT_ONCE = 4
_PAGE = 100
_LOOK_S = 1.0
"""How often new requests and new directories are looked for."""
_AGE_S = 600.0
"""A listing older than this is taken again, asked for or not."""
_REST = 19.0
"""Seconds of rest for each second of taking listings again: a twentieth of the time, whatever a listing costs."""
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 2.0, 60.0
_BUSY_LOOK_S, _BUSY_LOOKS = 0.05, 20
_MOST_LEVELS, _LONGEST_PATH_BYTES = 64, 4096
_TROUBLED_LOOK_S = 10.0


@dataclass(slots=True)
class _Visit:
    """How one round goes: directories that it is done with, and sources that do not answer."""

    entered: int = 0
    away: dict[Origin, HeadraceError] = field(default_factory=dict)

    def check(self) -> None:
        if self.away:
            raise next(iter(self.away.values()))


class Crawler:
    """Walks *tree* while *is_keeper*; *is_busy* tells whether readers wait for a source right now.

    Without *lists_all* it does no more than refresh what was asked for. In every process it hears what others changed.
    """

    def __init__(
        self,
        tree: Tree,
        is_keeper: Callable[[], bool],
        is_busy: Callable[[], bool] = lambda: False,
        *,
        lists_all: bool = True,
    ) -> None:
        self._tree, self._catalog = tree, tree.catalog
        self._is_keeper, self._is_busy, self._lists_all = is_keeper, is_busy, lists_all
        self._forgives_at = -math.inf

    @property
    def is_complete(self) -> bool:
        """Whether everything that can be listed was, by whichever process."""
        return self._catalog.is_complete

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._for_ever, self._tree.hear, _LOOK_S, lambda: True)
            nursery.start_soon(self._for_ever, self._reserve, _LOOK_S, self._is_keeper)
            nursery.start_soon(self._for_ever, self.refresh_as_asked, _LOOK_S, self._is_keeper)
            nursery.start_soon(self._for_ever, self.look_at_troubled, _TROUBLED_LOOK_S, lambda: True)
            if self._lists_all:
                nursery.start_soon(self._for_ever, self.list_unlisted, _LOOK_S, self._is_keeper)
                nursery.start_soon(self._for_ever, self.list_old, _LOOK_S, self._is_keeper)

    async def _for_ever(
        self, work: Callable[[], Awaitable[None]], period_s: float, is_mine: Callable[[], bool]
    ) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            await trio.sleep(period_s)
            if not is_mine():
                continue
            try:
                await work()
                backoff_s = _FIRST_BACKOFF_S
            except (HeadraceError, sqlite3.Error) as error:  # a full disk must not end the mount
                log.warning("crawl.broken_off", error=str(error))
                await trio.sleep(backoff_s)
                backoff_s = min(_LAST_BACKOFF_S, 2 * backoff_s)

    async def _reserve(self) -> None:
        await trio.to_thread.run_sync(self._catalog.reserve)

    # ---- what it does -------------------------------------------------------------------------------------------

    async def list_unlisted(self) -> None:
        """List every directory that never was, and those found in them.

        Raises:
            Unavailable: a source is away; the others were listed.
        """
        visit = _Visit()
        while await self._enter_all(self._unlisted(), visit):
            pass
        visit.check()

    async def list_old(self) -> None:
        """Take the oldest listings again, as far as they are due. Raises as `list_unlisted`."""
        if trio.current_time() >= self._forgives_at:
            self._forgives_at = trio.current_time() + _AGE_S
            await trio.to_thread.run_sync(self._catalog.forgive)
            await trio.to_thread.run_sync(self._catalog.prune_changes)
        while page := self._catalog.listed_before(self._catalog.clock() - _AGE_S, _PAGE):
            begun, visit = trio.current_time(), _Visit()
            await self._enter_all(iter(page), visit)
            visit.check()
            await trio.sleep((trio.current_time() - begun) * _REST)

    async def refresh_as_asked(self) -> None:
        """Do what `Catalog.request_refresh` asked for. A source that is away ends a refresh with a warning."""
        for request, path in await trio.to_thread.run_sync(self._catalog.refreshes):
            try:
                await self._refresh(path)
            except HeadraceError as error:
                log.warning("refresh.failed", path=path, error=str(error))
            else:
                log.info("refresh.done", path=path)
            await trio.to_thread.run_sync(self._catalog.end_refresh, request)

    async def look_at_troubled(self) -> None:
        """Ask each source that failed this process last time: its recovery shows although nobody reads from it."""
        for origin in self._tree.origins:
            if origin.problem:
                with contextlib.suppress(HeadraceError):  # it is still in trouble, and its problem says so
                    await trio.to_thread.run_sync(_ask, origin, abandon_on_cancel=True)

    # ---- one directory ------------------------------------------------------------------------------------------

    async def _enter_all(self, ids: Iterator[int], visit: _Visit) -> bool:
        """Enter each of *ids*; whether anything came of it."""
        before = visit.entered
        await _at_once(ids, partial(self._enter, visit))
        return visit.entered > before

    async def _enter(self, visit: _Visit, id: int) -> None:
        """List directory *id*, or leave it out where that leads nowhere. A source that is away is not asked."""
        await self._give_way()
        if id == ROOT_ID and self._tree.is_split:
            await self._tree.list_again(id)
            return
        try:
            above = self._above(id)
            origin, path = self._tree.where(above[0])
            if origin in visit.away:
                return
            visit.entered += 1
            if len(above) > _MOST_LEVELS or len(path.encode(errors="surrogateescape")) > _LONGEST_PATH_BYTES:
                self._leave_out(id, path, "it lies too deep")
                return
            await self._tree.list_again(id)
            if await trio.to_thread.run_sync(self._is_loop, above):
                self._leave_out(id, path, "it shows a directory above it", children=True)
        except (NotFound, VersionChanged):
            return  # gone meanwhile, and dropped
        except HeadraceError as error:
            if isinstance(error, Unavailable) or not path:
                visit.away[origin] = error
                visit.entered -= 1
            else:
                self._leave_out(id, path, str(error), for_now=True)

    def _leave_out(self, id: int, path: str, reason: str, *, children: bool = False, for_now: bool = False) -> None:
        log.warning("crawl.left_out", path=path, reason=reason)
        self._catalog.leave_out(id, children=children, for_now=for_now)

    def _is_loop(self, above: list[Node]) -> bool:
        return any(self._catalog.repeats(above[0].id, node.id) for node in above[1:])

    def _above(self, id: int) -> list[Node]:
        """Directory *id* and all above it up to the root."""
        nodes = [self._tree.node(id)]
        while nodes[-1].id != ROOT_ID:
            nodes.append(self._tree.node(nodes[-1].parent))
        return nodes

    async def _refresh(self, path: str) -> None:
        await trio.to_thread.run_sync(self._catalog.doubt_all)
        self._tree.doubt()
        node, is_found = self._deepest_known(path)
        if not node.is_dir:
            await self._tree.renew(node)
            return
        if not is_found:
            await self._tree.list_again(node.id)
            return
        waiting = deque([node.id])
        while waiting:
            level, waiting = waiting, deque()
            await _at_once(iter(level), partial(self._list_and_go_down, waiting))

    async def _list_and_go_down(self, waiting: deque[int], id: int) -> None:
        with contextlib.suppress(NotFound, VersionChanged):  # gone meanwhile, and dropped
            await self._tree.list_again(id)
            for file in await trio.to_thread.run_sync(self._catalog.unvouched, id):
                await self._tree.renew(self._tree.node(file))
            waiting.extend(await trio.to_thread.run_sync(self._catalog.listed_folders, id))

    def _deepest_known(self, path: str) -> tuple[Node, bool]:
        """The row that leads furthest towards *path*, and whether it is that of *path*."""
        node = self._tree.node(ROOT_ID)
        for name in filter(None, path.split("/")):
            below = self._catalog.lookup(node.id, name)
            if below is None:
                return node, False
            node = below
        return node, True

    # ---- pace ---------------------------------------------------------------------------------------------------

    def _unlisted(self) -> Iterator[int]:
        after = 0
        while page := self._catalog.unlisted(after, _PAGE):
            yield from page
            after = page[-1]

    async def _give_way(self) -> None:
        """Let readers go first, but not for ever."""
        for _ in range(_BUSY_LOOKS):
            if not self._is_busy():
                return
            await trio.sleep(_BUSY_LOOK_S)


def _ask(origin: Origin) -> None:
    """By a listing: what its root is, some sources know without asking."""
    for _ in origin.list(""):
        return


async def _at_once(ids: Iterator[int], work: Callable[[int], Awaitable[None]]) -> None:
    """Do *work* for each of *ids*, some at a time; the first error ends it."""
    problems: list[Exception] = []

    async def take() -> None:
        for id in ids:
            try:
                await work(id)
            except (HeadraceError, sqlite3.Error) as error:
                problems.append(error)
            if problems:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(take)
    if problems:
        raise problems[0]
