"""The tiers of one node: which folder a file's blocks live in, what is open, and whether there is room for more.

Several processes share the folders; the bytes in each are counted by all together (`usage`). What has to go when a
tier is full is the keeper's business (`keeper`).
"""

import random
import sqlite3
import threading
from collections import OrderedDict
from pathlib import Path

from blockcache.bell import Bell
from blockcache.cachefile import CacheFile
from blockcache.catalog import Catalog, Node
from blockcache.flightlocks import FlightLocks
from blockcache.ledger import Ledger
from blockcache.limits import kept_files
from blockcache.place import Place
from blockcache.session import Session
from blockcache.uncached import UncachedFile
from datamodel.client import Tier
from datamodel.errors import Unavailable
from obs import logs

Buffer = bytes | bytearray | memoryview

log = logs.get("blockcache")

_OVERSIZE_TURNS = 1 / 8
_UNKNOWN_SHARE = 1 / 16


class Tiers:
    """Cache files by node. Any thread may call.

    *folder*, that of the last tier, holds what the processes share beside the tiers: locks, the state of the session.
    *flight_locks* are held, by row, by who fetches a small file.

    Raises:
        Unavailable: a folder cannot be made or written.
        Conflict: too many processes share them.
    """

    def __init__(self, tiers: tuple[Tier, ...], catalog: Catalog, block_bytes: int) -> None:
        self.folder, self._block_bytes = Path(tiers[-1].path), block_bytes
        self._clock = catalog.clock
        self._mutex = threading.Lock()  # never held over a system call
        self._oversize = threading.Lock()
        self._open: OrderedDict[int, CacheFile] = OrderedDict()
        self._kept_files = kept_files()
        self._promised = [0] * len(tiers)
        self._is_refusing = False
        where = str(self.folder)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.session = Session(self.folder)
            self.bell = Bell(self.folder / "keeper.bell")
            self.flight_locks = FlightLocks(self.folder / "flights.lock")
            self.places: list[Place] = []
            known = catalog.cached_by_tier()
            for index, tier in enumerate(tiers):
                where, initial = tier.path, known.get(index, 0)
                self.places.append(Place(index, tier, block_bytes, self.session, self.flight_locks, initial))
        except OSError as error:
            raise Unavailable(f"tier {where!r}: {error.strerror}; its folder must be writable") from error
        self._evictions = [place.usage.evictions for place in self.places]
        self._ledger = Ledger(catalog, self.places)

    @property
    def quota_bytes(self) -> int:
        return sum(place.tier.quota_bytes for place in self.places)

    @property
    def cached_bytes(self) -> int:
        """What all processes have stored, or are about to."""
        return sum(place.usage.used for place in self.places)

    def status(self) -> tuple[tuple[str, int, int], ...]:
        """Of each tier its path, its quota in bytes, and the bytes in it."""
        return tuple((place.tier.path, place.tier.quota_bytes, place.usage.used) for place in self.places)

    @property
    def has_room(self) -> bool:
        """Whether more may be fetched than somebody waits for."""
        return not all(place.is_pressed for place in self.places)

    def is_complete(self, id: int) -> bool:
        """Whether the whole file is in a tier."""
        return any(place.has_complete(id) for place in self.places)

    # ---- files ---------------------------------------------------------------------------------------------------

    def file(self, node: Node) -> CacheFile:
        """The cache file of *node*, whose size and version are pinned. A file already in a tier stays there.

        Where the medium refuses, what is given out holds nothing, and the next call tries again.
        """
        with self._mutex:
            found = self._open.get(node.id)
            if found is not None:
                self._open.move_to_end(node.id)
        if found is not None and not found.is_evicted:
            return found
        try:
            found = self._find(node)
        except OSError as error:
            return self._without_tier(node, error)
        self._is_refusing = False
        self._keep_open(node.id, found)
        return found

    def _keep_open(self, id: int, file: CacheFile) -> None:
        with self._mutex:
            self._open[id] = file
            self._open.move_to_end(id)
            surplus = len(self._open) - self._kept_files
            dropped = [self._open.popitem(last=False) for _ in range(surplus)]
        del dropped  # closed here, not under the lock, unless somebody still reads

    def _find(self, node: Node) -> CacheFile:
        size = node.size or 0
        empty: dict[int, CacheFile] = {}
        for place in self.places:
            if place.keeps_whole(size):
                file = empty[place.index] = place.open(node)
                if file.has(0):
                    return file
            elif place.may_hold(node):
                return place.open(node)
        place = self._roomiest(size)
        return empty.get(place.index) or place.open(node)

    def _roomiest(self, size: int) -> Place:
        """The nearest tier that a file of *size* fits in, beside what was placed a moment ago; else the last.

        A file that fits nowhere is kept as far as the last tier admits it.
        """
        for place in self.places[:-1]:
            if place.fits(self._promised[place.index] + size) and not place.is_oversize(size):
                if not place.keeps_whole(size):  # that one is counted as soon as it comes
                    self._promised[place.index] += size
                return place
        return self.places[-1]

    def _without_tier(self, node: Node, error: OSError) -> CacheFile:
        stem = self.places[-1].stem(node.id)
        self._note_refusal(stem, error)
        return UncachedFile(stem, node.size or 0, self._block_bytes)

    def _note_refusal(self, stem: str, error: OSError) -> None:
        if not self._is_refusing:
            log.warning("tier.refused", path=stem, error=str(error))
        self._is_refusing = True

    # ---- storing -------------------------------------------------------------------------------------------------

    def store(self, id: int, file: CacheFile, first: int, data: memoryview) -> bool:
        """Store *data*, whole blocks from *first*, if the file's tier has room. True if the file is complete now.

        The caller holds the locks of the blocks. Their bytes are his to deliver in any case.
        """
        if not file.is_oversize:
            return self._store(id, file, first, data)
        # One block at a time, each knowing of all others that were kept: together they must not pass the file's share.
        with self._oversize:
            for start in range(0, len(data), file.block_bytes):
                self._store(id, file, first + start // file.block_bytes, data[start : start + file.block_bytes])
        return False  # it has no room to be complete

    def _store(self, id: int, file: CacheFile, first: int, data: memoryview) -> bool:
        if not self.reserve(file, len(data)):
            return False
        offset = stored = 0
        is_complete = False
        try:
            for block in range(first, first - (-len(data) // file.block_bytes)):
                length = file.length(block)
                if not file.has(block):  # who came to the lock before us may have stored it
                    file.write(block, data[offset : offset + length])
                    stored += length
                offset += length
            is_complete = file.try_complete()
        except OSError as error:
            self._note_refusal(str(file.stem), error)
        if stored < len(data):
            self.places[file.tier].usage.release(len(data) - stored)
        self.note_stored(id, file, stored)
        return is_complete

    def store_whole(self, node: Node, data: Buffer) -> CacheFile | None:
        """Store a file of at most one block; its cache file, or None where no tier takes it.

        Single flight is the caller's business; if another process stores it too, no harm is done.
        """
        with self._mutex:
            file = self._open.get(node.id)
        if file is None or file.is_evicted:
            place = self._roomiest(node.size or 0)
            file = place.new(node) if place.keeps_whole(node.size or 0) else self.file(node)
        if file.is_complete or self.store(node.id, file, 0, memoryview(data)):
            return file
        return None

    def reserve(self, file: CacheFile, count: int) -> bool:
        """Set *count* bytes aside in *file*'s tier, to be written and then told by `note_stored`.

        False where they are to be delivered without being kept. The keeper is told where room gets short.
        """
        if file.is_evicted:
            return False  # nobody would ever find it, nor give its room back
        place = self.places[file.tier]
        if file.is_oversize and not self._makes_way(place, file, count):
            return False
        is_reserved = place.reserve(count)
        if not is_reserved or place.is_pressed:
            self.bell.ring()
        return is_reserved

    def _makes_way(self, place: Place, file: CacheFile, count: int) -> bool:
        """Whether *count* more bytes may be kept of a file that is too large for its tier.

        What came first stays: a file that is read through again and again finds its first part cached every time,
        where giving up the least recently used would leave nothing of use. Now and then a random block makes way
        nevertheless, so that what is cached follows readers who go elsewhere.
        """
        if file.cached_bytes() + count <= place.share_bytes:
            return True
        if random.random() >= _OVERSIZE_TURNS:
            return False
        freed = file.shrink(count)
        place.usage.free(freed)
        return freed >= count

    def note_stored(self, id: int, file: CacheFile, count: int) -> None:
        """*count* bytes of *id* that were reserved are in *file* now."""
        place = self.places[file.tier]
        self._promised[file.tier] = max(0, self._promised[file.tier] - count)
        unknown, files = self._ledger.note_stored(id, file, count)
        is_needed = place.is_pressed and unknown > place.tier.quota_bytes * _UNKNOWN_SHARE
        if is_needed or files > self._kept_files:
            self._flush_early()

    def _flush_early(self) -> None:
        """The keeper can only evict what the catalog knows of, and what it does not know is held open."""
        try:
            self._ledger.flush()
        except sqlite3.Error as error:  # housekeeping tries again, and says so if that fails as well
            log.debug("catalog.refused", error=str(error))

    # ---- what is known of them -----------------------------------------------------------------------------------

    def note_use(self, id: int) -> None:
        self._ledger.note_use(id, self._clock())

    def flush(self) -> None:
        """Tell the catalog what was used and stored since the last time.

        Raises:
            sqlite3.Error: it cannot be told now; nothing is forgotten.
        """
        self._promised = [0] * len(self.places)
        self._ledger.flush()

    def forget(self, id: int) -> None:
        """Let go of *id*, which is about to be evicted."""
        self._ledger.forget(id)
        with self._mutex:
            self._open.pop(id, None)

    def release_evicted(self) -> bool:
        """Let go of what was evicted, by whichever process, so that its room is free; False if nothing was lately."""
        evictions = [place.usage.evictions for place in self.places]
        if evictions == self._evictions:
            return False
        self._evictions = evictions
        with self._mutex:
            held = list(self._open.items())
        gone = [id for id, file in held if file.is_evicted]
        with self._mutex:
            dropped = [self._open.pop(id, None) for id in gone]
        del held, dropped  # closed here, not under the lock
        return True

    def close(self) -> None:
        """Let go of everything; call `flush` before."""
        with self._mutex:
            self._open.clear()
        for place in self.places:
            place.usage.close()
        self.flight_locks.close()
        self.bell.close()
        self.session.close()
