"""Getting missing blocks: one fetch per block however many want it, and sequential readers served ahead.

`Fetcher.want` starts what is missing and returns flights to await. A flight carries its bytes until nobody needs them,
so a tier that is full or broken costs the cache, never the read. In one process a dictionary joins readers; between
processes the lock on the block's map entry does, which dies with its holder.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from blockcache.buffers import RUN_BYTES, Buffers
from blockcache.cachefile import CacheFile
from blockcache.catalog import Node
from blockcache.fromstart import block_sink
from blockcache.origin import Origin
from blockcache.patience import patiently
from blockcache.streams import Streams
from blockcache.tiers import Tiers
from datamodel.errors import HeadraceError, Unavailable
from obs import logs

log = logs.get("blockcache")

_DEMAND_REQUESTS, _AHEAD_REQUESTS = 12, 10
_AHEAD_QUEUE = 4
_WHOLE_FILE_BYTES = 4 << 20
_OTHER_PROCESS_POLL_S = 0.002


class Flight:
    """One block on its way. After `done`: *error*, or its bytes in *data*, or it is in the cache file."""

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: HeadraceError | None = None
        self.data: memoryview | None = None


@dataclass(slots=True)
class Front:
    """One read of a whole file from its start, for a source that knows no ranges. *error* counts after `done`."""

    done: trio.Event = field(default_factory=trio.Event)
    error: HeadraceError | None = None


@dataclass(slots=True)
class Target:
    """A file being read: its row, its cache file, where it comes from, and its flights by block."""

    node: Node
    file: CacheFile
    origin: Origin
    path: str
    streams: Streams = field(default_factory=Streams)
    flights: dict[int, Flight] = field(default_factory=dict)
    front: Front | None = None


_Fetch = Callable[[Target, range, trio.CapacityLimiter], Awaitable[None]]
_Limiters = dict[Origin, trio.CapacityLimiter]


class Fetcher:
    """Runs fetches in `nursery`, each in a thread of a bounded pool of its source's own: a source that is slow or away
    must not hold up the others. Between awaits its state is consistent.

    *on_complete* is called in such a thread with the row of a file whose last block was stored.
    """

    nursery: trio.Nursery
    """Set before the first read."""

    def __init__(self, tiers: Tiers, on_complete: Callable[[Node], None]) -> None:
        self._tiers, self._on_complete = tiers, on_complete
        self._buffers = Buffers()
        self._demand: _Limiters = {}
        self._ahead: _Limiters = {}

    def want(self, target: Target, blocks: Iterable[int]) -> dict[int, Flight]:
        """Flights for those of *blocks* that are not in the cache file, started now if they were not yet."""
        missing = [block for block in blocks if not target.file.has(block)]
        if missing:
            is_small = target.node.size is not None and target.node.size <= _WHOLE_FILE_BYTES
            wanted = self._absent(target, range(target.file.blocks) if is_small else missing)
            self._launch(target, wanted, self._fetch_wanted, self._demand)
        return {block: target.flights[block] for block in missing if block in target.flights}

    def ahead(self, target: Target, first: int, count: int) -> None:
        """Start fetching up to *count* blocks from *first*, unless enough of that waits for its turn already.

        What another process is fetching is left to it.
        """
        limiter = self._ahead.get(target.origin)
        if target.origin.has_ranges and (not limiter or limiter.statistics().tasks_waiting < _AHEAD_QUEUE):
            absent = self._absent(target, range(first, min(first + count, target.file.blocks)))
            mine = [block for block in absent if target.file.try_lock(block)]
            self._launch(target, mine, self._fetch_locked, self._ahead)

    def _absent(self, target: Target, blocks: Iterable[int]) -> list[int]:
        return [block for block in blocks if block not in target.flights and not target.file.has(block)]

    def _launch(self, target: Target, blocks: Sequence[int], fetch: _Fetch, limiters: _Limiters) -> None:
        tokens = _DEMAND_REQUESTS if limiters is self._demand else _AHEAD_REQUESTS
        limiter = limiters.setdefault(target.origin, trio.CapacityLimiter(tokens))
        for run in _runs(blocks, max(1, RUN_BYTES // target.file.block_bytes)):
            started = {block: Flight() for block in run}
            target.flights.update(started)
            self.nursery.start_soon(self._guard, target, started, fetch, limiter)

    async def _guard(
        self, target: Target, started: dict[int, Flight], fetch: _Fetch, limiter: trio.CapacityLimiter
    ) -> None:
        """Land the flights *started*, with an error those that *fetch* did not get.

        A block that landed and found no room may be on its way again by then: that flight is somebody else's.
        """
        error: HeadraceError | None = None
        try:
            await fetch(target, range(min(started), max(started) + 1), limiter)
        except HeadraceError as known:
            error = known
        except Exception as unknown:  # a task's top: a bug in one fetch must not end the mount
            log.exception("fetch.failed", path=target.path)
            error = Unavailable(f"{target.path!r}: {unknown}")
        except BaseException:
            error = Unavailable(f"{target.path!r}: the fetch was called off")
            raise
        finally:
            self._land(target, [block for block in started if target.flights.get(block) is started[block]], error)

    async def _fetch_wanted(self, target: Target, run: range, limiter: trio.CapacityLimiter) -> None:
        if target.origin.has_ranges is None:
            await patiently(partial(self._ask_for_ranges, target, limiter), target.origin.name, target.path)
        if not target.origin.has_ranges:
            await self._read_from_start(target, set(run))
            return
        mine = [block for block in run if target.file.try_lock(block)]
        for span in _runs(mine, len(run)):
            await self._fetch_locked(target, span, limiter)
            self._land(target, span, None)
        for block in set(run).difference(mine):
            await self._await_other_process(target, block, limiter)
            self._land(target, (block,), None)

    async def _ask_for_ranges(self, target: Target, limiter: trio.CapacityLimiter) -> None:
        ask = target.origin.stat
        await trio.to_thread.run_sync(ask, target.path, limiter=limiter, abandon_on_cancel=True)

    def _land(self, target: Target, blocks: Iterable[int], error: HeadraceError | None) -> None:
        for block in blocks:
            if (flight := target.flights.pop(block, None)) is not None:
                flight.error = error
                flight.done.set()

    async def _fetch_locked(self, target: Target, span: range, limiter: trio.CapacityLimiter) -> None:
        """Fetch *span*, whose locks are ours, and give them back; another process may have stored part of it before."""
        try:
            for missing in _runs([block for block in span if not target.file.has(block)], len(span)):
                await self._fetch_span(target, missing, limiter)
        finally:
            for block in span:
                target.file.unlock(block)

    async def _read_from_start(self, target: Target, waiting: set[int]) -> None:
        """Have the blocks *waiting* landed; all runs of a file share one read of it."""
        while not waiting.isdisjoint(target.flights):
            if target.front is not None:
                front = target.front
                await front.done.wait()
                if front.error is not None:
                    raise front.error
                continue
            front = target.front = Front()
            try:
                await patiently(
                    lambda: trio.to_thread.run_sync(self._read_front, target, abandon_on_cancel=True),
                    target.origin.name,
                    target.path,
                )
            except HeadraceError as error:
                front.error = error
                raise
            finally:
                target.front = None
                front.done.set()

    def _read_front(self, target: Target) -> None:
        """In a thread: one read from the start, after which no block is on its way."""

        def take(block: int, data: memoryview) -> None:
            is_new = not target.file.has(block)
            if is_new and self._tiers.store(target.node.id, target.file, block, data):
                self._on_complete(target.node)
            trio.from_thread.run_sync(land, block, data)

        def land(block: int, data: memoryview) -> None:
            if (flight := target.flights.get(block)) is not None:
                flight.data = data
            self._land(target, (block,), None)

        sink = block_sink(target.file, self._buffers, take)
        target.origin.read_from_start(target.path, target.node.version, sink)

    async def _await_other_process(self, target: Target, block: int, limiter: trio.CapacityLimiter) -> None:
        while not target.file.try_lock(block):
            if target.file.has(block):
                return
            await trio.sleep(_OTHER_PROCESS_POLL_S)
        await self._fetch_locked(target, range(block, block + 1), limiter)

    async def _fetch_span(self, target: Target, span: range, limiter: trio.CapacityLimiter) -> None:
        data = await patiently(
            lambda: trio.to_thread.run_sync(self._fetch, target, span, limiter=limiter, abandon_on_cancel=True),
            target.origin.name,
            target.path,
        )
        for block in span:
            start = (block - span.start) * target.file.block_bytes
            target.flights[block].data = data[start : start + target.file.length(block)]

    def _fetch(self, target: Target, span: range) -> memoryview:
        """In a thread: read *span* from the origin and store it if the tier has room."""
        file = target.file
        offset = span.start * file.block_bytes
        data = self._buffers.take(min(span.stop * file.block_bytes, file.size) - offset)
        target.origin.read_range(target.path, target.node.version, offset, data)
        if self._tiers.store(target.node.id, file, span.start, data):
            self._on_complete(target.node)
        return data


def _runs(blocks: Sequence[int], limit: int) -> Iterator[range]:
    """Ascending *blocks* as contiguous ranges of at most *limit*."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or blocks[index] != blocks[index - 1] + 1 or index - start == limit:
            yield range(blocks[start], blocks[index - 1] + 1)
            start = index
