"""Small files: each fetched whole by one request that also tells its version, and ahead of readers that go on.

A reader of one small file will mostly want its neighbours, in whatever order: so each read of a directory's files earns
a fetch of some more of them, in the order of the directory, and that starts with the second read. What is fetched ahead
is fetched in batches, because a thread's turn costs as much as a file.
"""

import math
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter

import trio

from blockcache.catalog import Listed, Node
from blockcache.flightlocks import FlightLocks
from blockcache.origin import Origin
from blockcache.patience import patiently
from blockcache.tiers import Tiers
from blockcache.tree import Tree
from datamodel.errors import (
    HeadraceError,
    NotFound,
    PermissionRefused,
    Precondition,
    Unavailable,
    UserError,
    VersionChanged,
)
from obs import logs

log = logs.get("blockcache")

_DEMAND_REQUESTS = 16
_BATCH, _BATCH_BYTES = 8, 1 << 20
_PAGE = 24
_PER_READ, _PER_EARLIER_READ, _MOST_PER_READ = 16, 4, 256  # files that one read earns, more the more came before
_MOST_EARNED = 4096
_SWEEPS = 64
_BATCHES_OF_NEAR_SOURCE, _BATCHES_OF_FAR_SOURCE = 2, 24
_NEAR_S = 0.002
_OTHER_PROCESS_POLL_S = 0.002


class WholeFlight:
    """One small file on its way. After `done`: *error*, or its row and, unless another process stored it, *data*."""

    __slots__ = ("data", "done", "error", "is_ahead", "node", "origin", "path")

    def __init__(self, node: Node, origin: Origin, path: str, *, is_ahead: bool = False) -> None:
        self.node, self.origin, self.path, self.is_ahead = node, origin, path, is_ahead
        self.done = trio.Event()
        self.error: HeadraceError | None = None
        self.data: memoryview | None = None


@dataclass(slots=True)
class _Sweep:
    """How far a directory's files were fetched ahead: up to row *cursor*, beginning and ending with row *start*.

    *last* is the row that was read last; *earned* is how many files may still be fetched.
    """

    start: int
    cursor: int
    last: int
    reads: int = 0
    earned: int = 0
    has_turned: bool = False
    is_running: bool = False


@dataclass(slots=True)
class _Source:
    """What is known of a source's speed: seconds per file, and the threads that it is worth."""

    demand: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_DEMAND_REQUESTS))
    ahead: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_BATCHES_OF_NEAR_SOURCE))


class SmallFiles:
    """Files of at most *limit* bytes. Runs in one trio loop; its state is consistent between awaits.

    *on_complete* hears, in a thread, of each stored file; *on_fetched* of those fetched ahead, with their content.
    """

    nursery: trio.Nursery
    """Set before the first read."""

    def __init__(
        self,
        tree: Tree,
        tiers: Tiers,
        limit: int,
        on_complete: Callable[[Node], None],
        on_fetched: Callable[[Node, memoryview], None],
    ) -> None:
        self._tree, self._tiers, self._limit = tree, tiers, limit
        self._on_complete, self._on_fetched = on_complete, on_fetched
        self._locks: FlightLocks = tiers.flight_locks
        self._flights: dict[int, WholeFlight] = {}
        self._sweeps: OrderedDict[int, _Sweep] = OrderedDict()
        self._sources: dict[Origin, _Source] = {}
        self._threads = trio.CapacityLimiter(math.inf)  # each source has its own limit

    def takes(self, node: Node) -> bool:
        """Whether *node* is a small file."""
        return not node.is_dir and node.link_target is None and node.size is not None and node.size <= self._limit

    async def get(self, node: Node) -> tuple[Node, memoryview | None]:
        """*node* with its version pinned and its content; None for content that another process stored meanwhile.

        Raises:
            VersionChanged: the source has something else under this name, to which the name leads now.
            DeadlineExceeded: the source did not deliver.
        """
        while True:
            flight = self._flights.get(node.id)
            if flight is None:
                flight = self._flights[node.id] = WholeFlight(node, *self._tree.where(node))
                self.nursery.start_soon(self._fetch_one, flight)
            await flight.done.wait()
            if not (flight.is_ahead and isinstance(flight.error, Unavailable)):
                break  # what was fetched ahead gave up at once; a reader has more patience
        if flight.error is not None:
            if isinstance(flight.error, VersionChanged):
                await self._tree.renew(node)
            raise flight.error
        return flight.node, flight.data

    def note_read(self, node: Node, *, is_missing: bool) -> None:
        """A reader came for *node*, and perhaps had to wait for it: it has earned a look at its neighbours."""
        sweep = self._sweeps.get(node.parent)
        if sweep is None or (is_missing and self._is_done(sweep)):
            sweep = self._sweeps[node.parent] = _Sweep(node.id, node.id, node.id)
            while len(self._sweeps) > _SWEEPS:
                self._sweeps.popitem(last=False)
        self._sweeps.move_to_end(node.parent)
        if node.id == sweep.last:
            return  # one file, however many read it
        sweep.last = node.id
        sweep.reads += 1
        earned = min(_MOST_PER_READ, _PER_READ + sweep.reads * _PER_EARLIER_READ)
        sweep.earned = min(_MOST_EARNED, sweep.earned + earned)
        if not sweep.is_running and not self._is_done(sweep):
            sweep.is_running = True
            self.nursery.start_soon(self._sweep, node.parent, sweep)

    # ---- one file, for a reader who waits ----------------------------------------------------------------------------

    async def _fetch_one(self, flight: WholeFlight) -> None:
        source = self._sources.setdefault(flight.origin, _Source())
        try:
            if await self._gets_turn(flight):
                try:
                    if not self._find_stored(flight):
                        await patiently(lambda: self._demand(flight, source), flight.origin.name, flight.path)
                finally:
                    self._locks.unlock(flight.node.id)
        except HeadraceError as error:
            flight.error = error
        except Exception as error:  # a task's top: a bug in one fetch must not end the mount
            log.exception("fetch.failed", path=flight.path)
            flight.error = Unavailable(f"{flight.path!r}: {error}")
        finally:
            self._land([flight])

    async def _demand(self, flight: WholeFlight, source: _Source) -> None:
        await trio.to_thread.run_sync(self._fetch, [flight], limiter=source.demand, abandon_on_cancel=True)

    async def _gets_turn(self, flight: WholeFlight) -> bool:
        """Wait for the lock of the file; False if another process stored it meanwhile."""
        while not self._locks.try_lock(flight.node.id):
            if self._find_stored(flight):
                return False
            await trio.sleep(_OTHER_PROCESS_POLL_S)
        return True

    def _find_stored(self, flight: WholeFlight) -> bool:
        """Whether another process fetched the file while we waited for our turn."""
        node = self._tree.catalog.get(flight.node.id)
        if node is None or not node.version or not self._tiers.is_complete(node.id):
            return False
        flight.node = node
        return True

    def _land(self, flights: Iterable[WholeFlight]) -> None:
        for flight in flights:
            del self._flights[flight.node.id]
            flight.done.set()

    # ---- many files, ahead of readers --------------------------------------------------------------------------------

    def _is_done(self, sweep: _Sweep) -> bool:
        return sweep.has_turned and sweep.cursor >= sweep.start

    async def _sweep(self, id: int, sweep: _Sweep) -> None:
        """Fetch as much as is earned. An error ends it; the next reader who finds a file missing starts it again."""
        try:
            directory = self._tree.node(id)
            async with trio.open_nursery() as nursery:
                while sweep.earned > 0 and not self._is_done(sweep) and self._tiers.has_room:
                    for batch in self._next_batches(directory, sweep):
                        source = self._sources.setdefault(batch[0].origin, _Source())
                        await source.ahead.acquire_on_behalf_of(batch[0])
                        nursery.start_soon(self._fetch_batch, batch, source, nursery.cancel_scope)
                    await trio.lowlevel.checkpoint()
        except VersionChanged:
            log.info("ahead.ended", directory=id, error="it is gone")
        finally:
            sweep.is_running = False

    def _next_batches(self, directory: Node, sweep: _Sweep) -> list[list[WholeFlight]]:
        page = self._tree.catalog.children(directory.id, sweep.cursor, _PAGE)
        if not page:
            sweep.has_turned, sweep.cursor = True, 0
            return []
        sweep.cursor = page[-1].id
        origin, folder = self._tree.where(directory)
        batches: list[list[WholeFlight]] = [[]]
        room = _BATCH_BYTES
        for node in page:
            if not self.takes(node) or node.id in self._flights or self._tiers.is_complete(node.id):
                continue
            if len(batches[-1]) == _BATCH or room <= 0:
                batches.append([])
                room = _BATCH_BYTES
            room -= node.size or 0
            path = f"{folder}/{node.name}" if folder else node.name
            batches[-1].append(WholeFlight(node, origin, path, is_ahead=True))
        sweep.earned -= max(1, sum(map(len, batches)))
        return batches if batches[0] else []

    async def _fetch_batch(self, batch: list[WholeFlight], source: _Source, scope: trio.CancelScope) -> None:
        # Meanwhile a reader may have come for one of them, and may be gone again.
        mine = [flight for flight in batch if flight.node.id not in self._flights]
        mine = [flight for flight in mine if not self._tiers.is_complete(flight.node.id)]
        mine = [flight for flight in mine if self._locks.try_lock(flight.node.id)]  # another process may be faster
        self._flights.update((flight.node.id, flight) for flight in mine)
        try:
            started = perf_counter()
            await trio.to_thread.run_sync(
                self._fetch, mine, self._on_fetched, limiter=self._threads, abandon_on_cancel=True
            )
            is_near = perf_counter() - started < _NEAR_S * max(1, len(mine))
            source.ahead.total_tokens = _BATCHES_OF_NEAR_SOURCE if is_near else _BATCHES_OF_FAR_SOURCE
        except HeadraceError as error:
            log.info("ahead.ended", path=batch[0].path, error=str(error))
            scope.cancel()
        except Exception:  # a task's top: a bug in fetching ahead must not end the mount
            log.exception("ahead.failed", path=batch[0].path)
            scope.cancel()
        finally:
            source.ahead.release_on_behalf_of(batch[0])
            for flight in mine:
                self._locks.unlock(flight.node.id)
                if flight.data is None and flight.error is None:
                    flight.error = Unavailable(f"{flight.path!r}: was to be fetched ahead, which ended early", 0.0)
            self._land(mine)

    # ---- in a thread -------------------------------------------------------------------------------------------------

    def _fetch(self, flights: list[WholeFlight], on_stored: Callable[[Node, memoryview], None] | None = None) -> None:
        """Fetch and store; a file that cannot be had gets its error, but a source that fails ends it."""
        found: list[tuple[WholeFlight, Listed, memoryview]] = []
        for flight in flights:
            try:
                stat, content = flight.origin.read_whole(flight.path, self._limit)
            except Precondition as error:
                flight.error = VersionChanged(f"{flight.path!r}: has grown at the source: {error}")
                continue
            except (NotFound, PermissionRefused, UserError) as error:
                flight.error = error
                continue
            entry = Listed(flight.node.name, False, stat.size, stat.mtime_ns or None, stat.version)
            found.append((flight, entry, memoryview(content)))
        if not found:
            return
        try:
            rows = self._tree.catalog.pin([(flight.node.id, entry) for flight, entry, _ in found])
        except sqlite3.Error as error:
            # What cannot be pinned must not be read: the next read of the same file may meet another version.
            raise Unavailable(f"the catalog cannot be written: {error}") from error
        for (flight, _, data), row in zip(found, rows, strict=True):
            if row is None:
                flight.error = VersionChanged(f"{flight.path!r}: the source has another version by now")
                continue
            flight.node, flight.data = row, data
            if self._tiers.store_whole(row, data) is not None:
                self._on_complete(row)
            if on_stored is not None:
                on_stored(row, data)
