"""The tiers of one node: which folder a file's blocks live in, what is open, and what has to go when a quota is full.

Several processes share the folders. Whoever holds the lock of the first tier, the keeper, evicts for all; the kernel
passes the lock on when its holder dies. A new keeper first looks through the folders for what a killed process left.
"""

import contextlib
import fcntl
import os
import time
from collections import OrderedDict
from pathlib import Path

from blockcache import cachefile
from blockcache.cachefile import CacheFile
from blockcache.catalog import Catalog, Node
from blockcache.limits import kept_files
from blockcache.uncached import UncachedFile
from datamodel.client import Tier
from datamodel.errors import Unavailable
from obs import logs
from obs.metrics import EVICTED_BYTES

log = logs.get("blockcache")


class Tiers:
    """Cache files by node. Call from one thread, but for `CacheFile.read` and `write` of what `file()` gave out.

    Raises:
        Unavailable: a tier's folder cannot be made or written.
    """

    def __init__(self, tiers: tuple[Tier, ...], catalog: Catalog, block_bytes: int) -> None:
        self._tiers, self._catalog, self._block_bytes = tiers, catalog, block_bytes
        self._open: OrderedDict[int, CacheFile] = OrderedDict()
        self._uses: dict[int, float] = {}
        self._grown: dict[int, CacheFile] = {}
        self._sizes: dict[int, int] = {}
        self._kept_files = kept_files()
        self._used = [0] * len(tiers)
        self._written = 0
        self.cached_bytes = catalog.cached_bytes()
        for tier in tiers:
            try:
                for folder in range(256):
                    Path(tier.path, "blocks", f"{folder:02x}").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Unavailable(f"tier {tier.path!r}: {error.strerror}; its folder must be writable") from error
        self._lock_fd = os.open(Path(tiers[0].path, "keeper.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_keeper = False
        self._is_refusing = False

    @property
    def quota_bytes(self) -> int:
        return sum(tier.quota_bytes for tier in self._tiers)

    def file(self, node: Node) -> CacheFile:
        """The cache file of *node*, whose size and version are pinned. A file already in a tier stays there.

        Where the medium refuses, what is given out holds nothing, and the next call tries again.
        """
        found = self._open.get(node.id)
        if found is None or found.is_evicted:
            assert node.size is not None
            stem = self._stem(node.id, node.size)
            try:
                found = CacheFile(stem, node.size, node.version, self._block_bytes)
            except OSError as error:
                return self._without_tier(stem, node.size, error)
            self._is_refusing = False
            self._open[node.id] = found
            while len(self._open) > self._kept_files:
                self._open.popitem(last=False)  # closed when its last user lets go of it
        self._open.move_to_end(node.id)
        return found

    def _without_tier(self, stem: Path, size: int, error: OSError) -> CacheFile:
        if not self._is_refusing:
            log.warning("tier.refused", path=str(stem), error=str(error))
        self._is_refusing = True
        with contextlib.suppress(OSError):
            stem.parent.mkdir(parents=True, exist_ok=True)  # somebody may have emptied the folder
        return UncachedFile(stem, size, self._block_bytes)

    def note_use(self, id: int) -> None:
        self._uses[id] = time.time()

    def admits(self, count: int) -> bool:
        """Whether *count* more bytes may be stored now; if not, bytes are delivered without being kept."""
        return self.cached_bytes + self._written + count <= self.quota_bytes

    def note_stored(self, id: int, file: CacheFile, count: int) -> None:
        """*count* more bytes of *id* are in *file*, which is held until `take_uses` has asked it for its size."""
        self._written += count
        self._grown[id] = file
        if len(self._grown) > self._kept_files:
            self._settle(next(iter(self._grown)))

    def forget(self, id: int) -> None:
        """Drop what is remembered of *id*; `remove` its files then."""
        for memory in (self._open, self._uses, self._grown, self._sizes):
            memory.pop(id, None)

    def remove(self, id: int) -> None:
        """Unlink what is cached of *id*; who has the file open reads on. May be called from any thread."""
        for index in range(len(self._tiers)):
            cachefile.remove(self._path(index, id))

    def take_uses(self) -> list[tuple[int, int | None, float]]:
        """What to `Catalog.note_use` since the last call."""
        for id in list(self._grown):
            self._settle(id)
        uses, sizes = self._uses, self._sizes
        self._uses, self._sizes = {}, {}
        return [(id, sizes.get(id), uses.get(id, 0.0)) for id in uses.keys() | sizes.keys()]

    def _settle(self, id: int) -> None:
        file = self._grown.pop(id)
        if not file.is_evicted:
            self._sizes[id] = file.cached_bytes()

    def note_total(self, cached_bytes: int) -> None:
        """What all processes have stored, as the catalog knows it after `note_use`."""
        self.cached_bytes, self._written = cached_bytes, 0

    def keeps(self) -> bool:
        """Whether it is this process that evicts. The first time it is, what was left behind is put in order."""
        if not self._is_keeper:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._sweep()
            self._is_keeper = True
        return True

    def victims(self) -> list[int]:
        """Ids to evict now, least recently used first; none below the high watermark."""
        if self.cached_bytes <= sum(tier.quota_bytes * tier.high for tier in self._tiers):
            return []
        excess = self.cached_bytes - sum(tier.quota_bytes * tier.low for tier in self._tiers)
        victims = []
        for id, size in self._catalog.least_used(10_000):
            if excess <= 0:
                break
            excess -= size
            victims.append(id)
            EVICTED_BYTES.inc(size)
        log.info("cache.evicted", files=len(victims), cached_bytes=self.cached_bytes)
        return victims

    def close(self) -> None:
        self._open.clear()
        os.close(self._lock_fd)

    def _sweep(self) -> None:
        """Remove files that have no row, and count those that a killed process had no time to count."""
        found: dict[int, int] = {}
        for tier in self._tiers:
            for path in Path(tier.path, "blocks").glob("??/*"):
                if path.stem.isdecimal():
                    found[int(path.stem)] = found.get(int(path.stem), 0) + _stored_bytes(path)
        known = self._catalog.known(found)
        for id in found.keys() - known.keys():
            self.remove(id)
        self._catalog.note_use([(id, found[id], 0.0) for id, size in known.items() if not size])
        log.info("cache.swept", files=len(known), removed=len(found) - len(known))

    def _stem(self, id: int, size: int) -> Path:
        for index in range(len(self._tiers)):
            stem = self._path(index, id)
            if stem.with_suffix(".map").exists():
                return stem
        return self._path(self._roomiest(size), id)

    def _roomiest(self, size: int) -> int:
        """The nearest tier whose quota the file fits in beside what was put there by this process, else the last."""
        for index, tier in enumerate(self._tiers):
            if self._used[index] + size <= tier.quota_bytes * tier.high:
                self._used[index] += size
                return index
        return len(self._tiers) - 1

    def _path(self, index: int, id: int) -> Path:
        return Path(self._tiers[index].path, "blocks", f"{id % 256:02x}", str(id))


def _stored_bytes(path: Path) -> int:
    try:
        return 0 if path.suffix == ".map" else path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0  # evicted or renamed meanwhile
