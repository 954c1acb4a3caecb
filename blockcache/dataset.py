"""A dataset as its readers see it: names from the tree, bytes from the tiers or fetched. Core of client and worker.

A file's bytes come from the version pinned when it was opened. A source that has another one by now makes the read
fail with VersionChanged, and the name leads to a new row: never a mix of two versions.
"""

import contextlib
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from blockcache.assemble import identity_of
from blockcache.cachefile import CacheFile
from blockcache.catalog import CATALOG_NAME, Catalog, Node
from blockcache.crawl import Crawler
from blockcache.fetch import Fetcher, Flight, Target
from blockcache.keeper import Gone, Keeper
from blockcache.limits import kept_files
from blockcache.origin import Origin
from blockcache.small import SmallFiles
from blockcache.tiers import Tiers
from blockcache.tree import OnChange, Tree
from datamodel.client import ClientConfig
from datamodel.errors import Corrupt, Unavailable, VersionChanged
from obs import logs
from obs.metrics import READ_BYTES

log = logs.get("blockcache")

Buffer = bytes | bytearray | memoryview

_KEEP_PERIOD_S, _SHORTEST_PAUSE_S = 1.0, 0.05
_ATTEMPTS = 3


@dataclass(slots=True)
class ReadCounters:
    """Since this process started: reads served wholly from the cache, reads that had to fetch, bytes delivered."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0


class CachedDataset:
    """Made by `open_dataset`. Runs in one trio loop; its state is consistent between awaits.

    *on_complete* hears, in a thread, of each file whose last block was stored, and *on_fetched* of each small file
    fetched ahead of its readers, with its content; *on_evict* of the row id and incarnation of each evicted one;
    *on_change* of names that lead to something else now.
    """

    def __init__(
        self,
        config: ClientConfig,
        origins: dict[str, Origin],
        on_complete: Callable[[Catalog, Node], None],
        on_evict: Callable[[int, int], None],
        on_fetched: Callable[[Node, memoryview], None],
        on_change: OnChange,
    ) -> None:
        self.config, self.origins = config, origins
        self.catalog = Catalog(Path(config.catalog_folder, CATALOG_NAME))
        identities = {source.path: identity_of(source) for source in config.sources}
        self.tree = Tree(self.catalog, origins, config.listing_ttl_s, on_change, identities)
        self.tiers = Tiers(config.tiers, self.catalog, config.block_bytes)
        self.counters = ReadCounters()
        self._on_evict = on_evict
        self.keeper = Keeper(self.tiers, self.catalog, lambda node: on_complete(self.catalog, node))
        complete = partial(on_complete, self.catalog)
        self._fetcher = Fetcher(self.tiers, complete)
        self._small = SmallFiles(self.tree, self.tiers, config.block_bytes, complete, on_fetched)
        lists_all = config.crawl and not config.workers.replicas  # they do it for all their clients
        self.crawler = Crawler(self.tree, lambda: self.keeper.is_keeper, self._is_fetching, lists_all=lists_all)
        self._misses_seen = 0
        self._targets: OrderedDict[int, Target] = OrderedDict()
        self._kept_files = kept_files()

    def start(self, nursery: trio.Nursery) -> None:
        """Run fetches and housekeeping in *nursery*."""
        self._fetcher.nursery = self._small.nursery = nursery
        nursery.start_soon(self.keep)
        nursery.start_soon(self.crawler.run)

    def _is_fetching(self) -> bool:
        """Whether a reader had to wait for a source since the last call."""
        seen, self._misses_seen = self._misses_seen, self.counters.misses
        return seen != self.counters.misses

    async def open(self, id: int) -> Node:
        """The file *id* with its version known; for a small one, that takes fetching it.

        Raises:
            VersionChanged: the source has another version; the name leads to a new row now.
            Unavailable: the source is away, and the version was never asked for.
        """
        node = self.tree.node(id)
        if not self._small.takes(node):
            return await self.tree.pin(id)
        self._small.note_read(node, is_missing=not node.version)
        return await self.tree.pin(id) if node.version else (await self._small.get(node))[0]

    def target(self, id: int) -> Target:
        """The file *id* for reading. It is remembered, so that an open file reads on after its row went.

        Raises:
            VersionChanged: the row is gone, or its version was never pinned.
        """
        target = self._targets.get(id)
        # Where the row went, an evicted file must not be made again: nobody would ever evict it.
        if target is None or (target.file.is_evicted and self.catalog.get(id) is not None):
            node = target.node if target else self.tree.node(id)
            if node.size is None or not node.version:
                raise VersionChanged(f"{node.name!r}: not pinned")
            origin, path = (target.origin, target.path) if target else self.tree.where(node)
            target = self._targets[id] = Target(node, self.tiers.file(node), origin, path)
            while len(self._targets) > self._kept_files:
                self._targets.popitem(last=False)
        self._targets.move_to_end(id)
        self.tiers.note_use(id)
        return target

    async def read(self, id: int, offset: int, size: int, scratch: memoryview | None = None) -> Buffer:
        """Up to *size* bytes of file *id* from *offset*; fewer only at its end.

        Where they are at hand they may be put into *scratch*, so use them before anything else is read with it.

        Raises:
            VersionChanged: the source has another version and these bytes were not cached.
            DeadlineExceeded: no source delivered.
        """
        if id not in self._targets and (whole := await self._read_small(id)) is not None:
            self.counters.bytes += len(whole[offset : offset + size])
            return whole[offset : offset + size]
        target = self.target(id)
        size = max(0, min(size, target.file.size - offset))
        if not size:
            return b""
        for _ in range(_ATTEMPTS):
            try:
                data = await self._read(target, offset, size, scratch)
            except Corrupt as error:
                log.info("block.missed", path=target.path, error=str(error))  # by whom it was found, it was logged
                continue  # the block is marked absent now, so it is fetched again
            except VersionChanged:
                await self.tree.renew(target.node)
                raise
            self.counters.bytes += size
            return data
        raise Unavailable(f"{target.path!r}: its cache file stays corrupt")

    def _is_small_and_here(self, id: int) -> bool:
        """Whether *id* is a small file that is complete in the cache; that somebody reads it is noted then."""
        node = self.catalog.get(id)
        if node is None or not node.version or not self._small.takes(node) or not self.tiers.is_complete(id):
            return False
        self._small.note_read(node, is_missing=False)
        return True

    async def _read_small(self, id: int) -> memoryview | None:
        """The content of *id*, if it is a small file that had to be fetched."""
        node = self.tree.node(id)
        if not self._small.takes(node):
            return None
        is_missing = not node.version or not self.tiers.is_complete(id)
        self._small.note_read(node, is_missing=is_missing)
        if not is_missing:
            return None
        _, data = await self._small.get(node)
        if data is not None:
            self.counters.misses += 1
            READ_BYTES.labels("fetch").inc(len(data))
        return data

    def cached_bytes(self, id: int) -> int:
        """Of file *id*, as far as is known without looking at the medium."""
        target = self._targets.get(id)
        if target is not None and not target.file.is_evicted:
            return target.file.cached_bytes()
        return self.catalog.known([id]).get(id, 0)

    def is_open(self, id: int) -> bool:
        """Whether file *id* is remembered as being read, so that its version is pinned."""
        return id in self._targets

    def read_now(self, id: int, offset: int, size: int, scratch: memoryview) -> Buffer | None:
        """As `read`, where the bytes are at hand; None where they have to be fetched, verified or waited for."""
        if id not in self._targets and not self._is_small_and_here(id):
            return None
        target = self.target(id)
        size = max(0, min(size, target.file.size - offset))
        if not size:
            return b""
        block_bytes = target.file.block_bytes
        first, last = offset // block_bytes, (offset + size - 1) // block_bytes
        if not all(target.file.has(block) for block in range(first, last + 1)):
            return None
        data = target.file.read_now(offset, size, scratch)
        if data is not None:
            goes_on, window = target.streams.advance(offset, size, block_bytes)
            if window:
                self._fetcher.ahead(target, -(-goes_on // block_bytes), window // block_bytes)
            self.counters.hits += 1
            self.counters.bytes += size
            READ_BYTES.labels("cache").inc(size)
        return data

    async def _read(self, target: Target, offset: int, size: int, scratch: memoryview | None) -> Buffer:
        block_bytes = target.file.block_bytes
        first, last = offset // block_bytes, (offset + size - 1) // block_bytes
        flights = self._fetcher.want(target, range(first, last + 1))
        goes_on, window = target.streams.advance(offset, size, block_bytes)
        if window:
            self._fetcher.ahead(target, -(-goes_on // block_bytes), window // block_bytes)
        if not flights:
            self.counters.hits += 1
            READ_BYTES.labels("cache").inc(size)
            now = target.file.read_now(offset, size, scratch)
            return now if now is not None else await trio.to_thread.run_sync(target.file.read, offset, size)
        self.counters.misses += 1
        READ_BYTES.labels("fetch").inc(size)
        for flight in flights.values():
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
        if first == last and (data := flights[first].data) is not None:
            return data[offset - first * block_bytes :][:size]
        return await trio.to_thread.run_sync(_assemble, target, flights, offset, size)

    async def prepare(self, id: int) -> CacheFile | None:
        """File *id* if it is complete in the cache and sound, so that the kernel may read it by itself."""
        target = self.target(id)
        if not target.file.try_complete():
            return None
        if await trio.to_thread.run_sync(target.file.is_sound):
            return target.file  # not asked for again: it may have been evicted while we checked, and started afresh
        log.error("file.corrupt", path=target.path)
        return None

    async def keep(self) -> None:
        """Housekeeping, for ever: tell the catalog what was used, learn what is stored, evict above the watermark."""
        while True:
            has_evicted = False
            try:
                has_evicted = await self._keep_once()
            except (OSError, sqlite3.Error) as error:  # a full disk must not end the mount
                log.error("housekeeping.failed", error=str(error))
            if not has_evicted:  # bytes that nobody can evict yet must not keep us busy
                await trio.sleep(_SHORTEST_PAUSE_S)
            with trio.move_on_after(_KEEP_PERIOD_S):
                await self.tiers.bell.wait_ringing(self.keeper.is_keeper)

    async def _keep_once(self) -> bool:
        """Whether something had to go to make room."""
        await trio.to_thread.run_sync(self.tiers.flush)
        if self.tiers.release_evicted():
            self._release_evicted()
        if not await trio.to_thread.run_sync(self.keeper.keeps):
            return False
        self.tiers.bell.silence()
        has_evicted = False
        while await self._let_go(self.keeper.relieve):
            has_evicted = True
        await self._let_go(self.keeper.take_orphans)
        await trio.to_thread.run_sync(self.keeper.tidy)
        return has_evicted

    async def _let_go(self, make_room: Callable[[], list[Gone]]) -> bool:
        gone = await trio.to_thread.run_sync(make_room)
        for one in gone:
            if one.incarnation is not None:
                self._on_evict(one.id, one.incarnation)
        return bool(gone)

    def _release_evicted(self) -> None:
        """An evicted file takes its room until the last who has it open lets go. Orphans stay: see `target`."""
        evicted = [id for id, target in self._targets.items() if target.file.is_evicted and not target.flights]
        for id in evicted:
            if self.catalog.get(id) is not None:
                del self._targets[id]


def _assemble(target: Target, flights: dict[int, Flight], offset: int, size: int) -> bytes:
    """In a thread: the bytes from the cache file, or, where a block could not be stored, from its flight."""
    if all(flight.data is None for flight in flights.values()):
        return target.file.read(offset, size)
    parts: list[bytes | memoryview] = []
    while size:
        block, start = divmod(offset, target.file.block_bytes)
        count = min(size, target.file.length(block) - start)
        data = flights[block].data if block in flights else None
        parts.append(target.file.read(offset, count) if data is None else data[start : start + count])
        offset, size = offset + count, size - count
    return b"".join(parts)  # copy: only when the cache has no room


@contextlib.asynccontextmanager
async def open_dataset(
    config: ClientConfig,
    origins: dict[str, Origin],
    *,
    on_complete: Callable[[Catalog, Node], None] = lambda catalog, node: None,
    on_evict: Callable[[int, int], None] = lambda id, incarnation: None,
    on_fetched: Callable[[Node, memoryview], None] = lambda node, data: None,
    on_change: OnChange = lambda directory, names: None,
) -> AsyncIterator[CachedDataset]:
    """The dataset of *config* over *origins* (by absolute path); its tasks end with the block.

    Raises:
        Unavailable: a tier's folder cannot be used.
    """
    dataset = CachedDataset(config, origins, on_complete, on_evict, on_fetched, on_change)
    try:
        async with trio.open_nursery() as nursery:
            dataset.start(nursery)
            try:
                yield dataset
            finally:
                nursery.cancel_scope.cancel()
    finally:
        try:
            dataset.tiers.flush()
        except sqlite3.Error as error:  # a full disk; the next keeper counts what is there
            log.error("housekeeping.failed", error=str(error))
        dataset.keeper.close()
        dataset.tiers.close()
        for origin in origins.values():
            origin.close()
