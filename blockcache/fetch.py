"""Getting missing blocks: one fetch per block however many want it, and sequential readers served ahead.

`Fetcher.want` starts what is missing and returns flights to await. A flight carries its bytes until nobody needs them,
so a tier that is full or broken costs the cache, never the read. In one process a dictionary joins readers; between
processes the lock on the block's map entry does, which dies with its holder.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import trio

from blockcache.cachefile import CacheFile
from blockcache.catalog import Node
from blockcache.origin import Origin
from blockcache.tiers import Tiers
from blockcache.uncached import UncachedFile
from datamodel.errors import Corrupt, DeadlineExceeded, HeadraceError, Unavailable
from obs import logs

log = logs.get("blockcache")

_PARALLEL_REQUESTS = 12
_RUN_BYTES = 4 << 20
_WHOLE_FILE_BYTES = 4 << 20
_AHEAD_BYTES = 32 << 20
_SEQUENTIAL_SLACK_BYTES = 4 << 20
_RETRY_FOR_S = 15.0
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.1, 3.0
_OTHER_PROCESS_POLL_S = 0.003


class Flight:
    """One block on its way. After `done`: *error*, or the block is in the cache file or in *data*."""

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: HeadraceError | None = None
        self.data: memoryview | None = None


@dataclass(slots=True)
class Stream:
    """How one file is being read: where a sequential reader would go on, and how far ahead of it we are (bytes)."""

    next_offset: int = 0
    window: int = 0

    def advance(self, offset: int, size: int, block_bytes: int) -> int:
        """Note a read and return the bytes to fetch ahead of it: doubling while sequential, none when random."""
        if -_SEQUENTIAL_SLACK_BYTES <= offset - self.next_offset <= _SEQUENTIAL_SLACK_BYTES:
            self.window = min(_AHEAD_BYTES, max(block_bytes, 2 * self.window))
            self.next_offset = max(self.next_offset, offset + size)
        else:
            self.window, self.next_offset = 0, offset + size
        return self.window


@dataclass(slots=True)
class Target:
    """A file being read: its row, its cache file, where it comes from, and its flights by block."""

    node: Node
    file: CacheFile
    origin: Origin
    path: str
    stream: Stream = field(default_factory=Stream)
    flights: dict[int, Flight] = field(default_factory=dict)


class Fetcher:
    """Runs fetches in `nursery`, each in a thread of a bounded pool. Between awaits its state is consistent.

    *on_complete* is called in such a thread with the row of a file whose last block was stored.
    """

    nursery: trio.Nursery
    """Set before the first read."""

    def __init__(self, tiers: Tiers, on_complete: Callable[[Node], None]) -> None:
        self._tiers, self._on_complete = tiers, on_complete
        self._limiter = trio.CapacityLimiter(_PARALLEL_REQUESTS)

    def want(self, target: Target, blocks: Iterable[int]) -> dict[int, Flight]:
        """Flights for those of *blocks* that are not in the cache file, started now if they were not yet."""
        missing = [block for block in blocks if not target.file.has(block)]
        if missing and target.node.size is not None and target.node.size <= _WHOLE_FILE_BYTES:
            self._start(target, range(target.file.blocks))
        else:
            self._start(target, missing)
        return {block: target.flights[block] for block in missing if block in target.flights}

    def ahead(self, target: Target, first: int, count: int) -> None:
        """Start fetching up to *count* blocks from *first*, unless the pool is busy with what readers wait for."""
        if self._limiter.statistics().tasks_waiting < _PARALLEL_REQUESTS:
            self._start(target, range(first, min(first + count, target.file.blocks)))

    def _start(self, target: Target, blocks: Iterable[int]) -> None:
        run: list[int] = []
        limit = max(1, _RUN_BYTES // target.file.block_bytes)
        for block in blocks:
            if block in target.flights or target.file.has(block):
                continue
            if run and (block != run[-1] + 1 or len(run) == limit):
                self._launch(target, run)
                run = []
            target.flights[block] = Flight()
            run.append(block)
        if run:
            self._launch(target, run)

    def _launch(self, target: Target, run: list[int]) -> None:
        self.nursery.start_soon(self._fetch_run, target, run)

    async def _fetch_run(self, target: Target, run: list[int]) -> None:
        locked: list[int] = []
        try:
            for block in run:
                if not await self._lock(target.file, block):
                    continue  # another process stored it meanwhile
                locked.append(block)
            if locked:
                await self._fetch_with_retries(target, locked[0], locked[-1])
        except HeadraceError as error:
            for block in run:
                target.flights[block].error = error
        except Exception as error:  # a task's top: a bug in one fetch must not end the mount
            log.exception("fetch.failed", path=target.path)
            for block in run:
                target.flights[block].error = Unavailable(f"{target.path!r}: {error}")
        finally:
            for block in locked:
                target.file.unlock(block)
            for block in run:
                target.flights.pop(block).done.set()

    async def _lock(self, file: CacheFile, block: int) -> bool:
        """True when *block* is ours to fetch, False when it is there."""
        while not file.try_lock(block):
            if file.has(block):
                return False
            await trio.sleep(_OTHER_PROCESS_POLL_S)
        if file.has(block):
            file.unlock(block)
            return False
        return True

    async def _fetch_with_retries(self, target: Target, first: int, last: int) -> None:
        give_up = trio.current_time() + _RETRY_FOR_S
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                buffer, is_stored = await trio.to_thread.run_sync(
                    self._fetch, target, first, last, limiter=self._limiter, abandon_on_cancel=True
                )
            except (Unavailable, Corrupt) as error:
                wait_s = max(getattr(error, "retry_after_s", None) or 0.0, backoff_s * random.uniform(0.5, 1.5))
                if trio.current_time() + wait_s > give_up:
                    message = f"{target.path!r}: given up after {_RETRY_FOR_S:.0f} s: {error}"
                    raise DeadlineExceeded(message) from error
                log.warning("fetch.retried", source=target.origin.name, path=target.path, error=str(error))
                backoff_s = min(_LAST_BACKOFF_S, 2 * backoff_s)
                await trio.sleep(wait_s)
                continue
            if is_stored:
                self._tiers.note_stored(target.node.id, target.file, len(buffer))
            for block in range(first, last + 1):
                if not target.file.has(block) and block in target.flights:
                    start = (block - first) * target.file.block_bytes
                    target.flights[block].data = memoryview(buffer)[start : start + target.file.length(block)]
            return

    def _fetch(self, target: Target, first: int, last: int) -> tuple[bytearray, bool]:
        """In a thread: read blocks *first* to *last* from the origin and store them if the tier has room."""
        file = target.file
        offset = first * file.block_bytes
        buffer = bytearray(min((last + 1) * file.block_bytes, file.size) - offset)
        view = memoryview(buffer)
        target.origin.read_range(target.path, target.node.version, offset, view)
        if isinstance(file, UncachedFile) or not self._tiers.admits(file, len(buffer)):
            return buffer, False
        try:
            for block in range(first, last + 1):
                start = block * file.block_bytes - offset
                file.write(block, view[start : start + file.length(block)])
            if file.try_complete():
                self._on_complete(target.node)
        except OSError as error:
            log.warning("store.refused", path=target.path, error=str(error))
        return buffer, True
