"""The tiers of one node: which folder a file's blocks live in, what is open, and what has to go when a quota is full.

Several processes share the folders. Whoever holds the lock of the first tier, the keeper, evicts for all; the kernel
passes the lock on when its holder dies. A new keeper first looks through the folders for what a killed process left.
"""

import contextlib
import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from blockcache import cachefile
from blockcache.cachefile import CacheFile
from blockcache.catalog import Catalog, Node, Use
from blockcache.limits import kept_files
from blockcache.uncached import UncachedFile
from datamodel.client import Tier
from datamodel.errors import Unavailable
from obs import logs
from obs.metrics import EVICTED_BYTES

log = logs.get("blockcache")

_VICTIMS_AT_ONCE = 10_000


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
        self._sizes: dict[int, tuple[int, int]] = {}
        self._kept_files = kept_files()
        self._folders = [Path(tier.path, "blocks") for tier in tiers]
        self.note_totals(catalog.cached_by_tier())
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

    @property
    def cached_bytes(self) -> int:
        """What all processes have stored, as of the last housekeeping."""
        return sum(self._stored)

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

    def admits(self, file: CacheFile, count: int) -> bool:
        """Whether *file*'s tier takes *count* more bytes now; if not, they are delivered without being kept."""
        tier = self._tier_of(file)
        return self._stored[tier] + self._written[tier] + count <= self._tiers[tier].quota_bytes

    def note_stored(self, id: int, file: CacheFile, count: int) -> None:
        """*count* more bytes of *id* are in *file*, which is held until `take_uses` has asked it for its size."""
        self._written[self._tier_of(file)] += count
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

    def take_uses(self) -> list[Use]:
        """What to `Catalog.note_use` since the last call."""
        for id in list(self._grown):
            self._settle(id)
        uses, sizes = self._uses, self._sizes
        self._uses, self._sizes = {}, {}
        unchanged = (None, 0)
        return [
            Use(id, size, uses.get(id, 0.0), tier)
            for id in uses.keys() | sizes.keys()
            for size, tier in [sizes.get(id, unchanged)]
        ]

    def _settle(self, id: int) -> None:
        file = self._grown.pop(id)
        if not file.is_evicted:
            self._sizes[id] = file.cached_bytes(), self._tier_of(file)

    def note_totals(self, by_tier: Mapping[int, int]) -> None:
        """What all processes have stored, as the catalog knows it after `note_use`."""
        self._stored = [by_tier.get(index, 0) for index in range(len(self._tiers))]
        self._written = [0] * len(self._tiers)
        self._promised = [0] * len(self._tiers)

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
        """Ids to evict now: of each tier above its high watermark the least recently used, down to the low one."""
        victims = []
        for index, tier in enumerate(self._tiers):
            if self._stored[index] <= tier.quota_bytes * tier.high:
                continue
            excess = self._stored[index] - tier.quota_bytes * tier.low
            for id, size in self._catalog.least_used(index, _VICTIMS_AT_ONCE):
                if excess <= 0:
                    break
                excess -= size
                victims.append(id)
                EVICTED_BYTES.inc(size)
            log.info("tier.evicted", tier=tier.path, stored_bytes=self._stored[index])
        return victims

    def close(self) -> None:
        self._open.clear()
        os.close(self._lock_fd)

    def _sweep(self) -> None:
        """Remove files that have no row, and count those that a killed process had no time to count."""
        found: dict[int, Use] = {}
        for index, folder in enumerate(self._folders):
            for path in folder.glob("??/*"):
                if path.stem.isdecimal():
                    id = int(path.stem)
                    before = found[id].cached_bytes or 0 if id in found else 0
                    found[id] = Use(id, before + _stored_bytes(path), 0.0, index)
        known = self._catalog.known(found)
        for id in found.keys() - known.keys():
            self.remove(id)
        self._catalog.note_use([found[id] for id, size in known.items() if not size])
        log.info("cache.swept", files=len(known), removed=len(found) - len(known))

    def _stem(self, id: int, size: int) -> Path:
        for index in range(len(self._tiers)):
            stem = self._path(index, id)
            if stem.with_suffix(".map").exists():
                return stem
        return self._path(self._roomiest(size), id)

    def _roomiest(self, size: int) -> int:
        """The nearest tier that a file of *size* fits in, beside what was placed a moment ago; else the last.

        A file that fits nowhere is kept as far as the last tier admits it.
        """
        for index, tier in enumerate(self._tiers):
            if self._stored[index] + self._promised[index] + size <= tier.quota_bytes * tier.high:
                self._promised[index] += size
                return index
        return len(self._tiers) - 1

    def _tier_of(self, file: CacheFile) -> int:
        return self._folders.index(file.stem.parent.parent)

    def _path(self, index: int, id: int) -> Path:
        return self._folders[index] / f"{id % 256:02x}" / str(id)


def _stored_bytes(path: Path) -> int:
    try:
        return 0 if path.suffix == ".map" else path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0  # evicted or renamed meanwhile
