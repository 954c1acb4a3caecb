"""One dataset file in the cache: a sparse data file with the same offsets, and beside it the map of its blocks.

While blocks are missing the data file is `<id>.part`; when all are there it is renamed to `<id>`, and only then may
the kernel read it by passthrough. `<id>.map` holds a header and, per block, its checksum. Eviction unlinks both:
who has the file open goes on safely.

Map format, little endian: magic 8 bytes, block size u32, block count u32, file size u64, version digest 8 bytes, boot
digest 8 bytes, mtime of the complete data file in ns u64; then per block: state u32 (1 = present), CRC-32 u32.

Trust: data is written before its map entry, so a killed process leaves nothing wrong. What another process or an
earlier boot wrote is believed only after its checksum was compared, once per process and block; a complete file is
spared that where boot and mtime are those recorded when it became complete.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import weakref
import zlib
from pathlib import Path

from datamodel.errors import Corrupt

_MAGIC = b"HRMAP\x00\x00\x02"
_HEADER = struct.Struct("<8sIIQ8s8sQ16x")
_ENTRY = struct.Struct("<II")
_LOCK = struct.Struct("hhqqi4x")  # struct flock
_F_OFD_SETLK = 37
_MTIME_OFFSET = 40
_BOOT_OFFSET = 32


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()


_BOOT = _digest(Path("/proc/sys/kernel/random/boot_id").read_text())


class CacheFile:
    """Opened, and made if missing, for one version of one file. `read` and `write` may run in several threads at once.

    Single flight between processes: `try_lock(block)` takes an open-file-description lock on the block's map entry,
    which the kernel frees when the holder dies.
    """

    def __init__(self, stem: Path, size: int, version: str, block_bytes: int) -> None:
        self._stem = stem
        self.size, self.block_bytes = size, block_bytes
        self.blocks = -(-size // block_bytes)
        self._header = _HEADER.pack(_MAGIC, block_bytes, self.blocks, size, _digest(version), _BOOT, 0)
        self._map_bytes = _HEADER.size + self.blocks * _ENTRY.size
        self._map_fd = self._open_map()
        try:
            self.is_complete, self._fd = self._open_data()
            self._map = mmap.mmap(self._map_fd, self._map_bytes)
        except BaseException:
            os.close(self._map_fd)
            raise
        fcntl.flock(self._map_fd, fcntl.LOCK_UN)
        self._first_missing = 0
        # Closed when the last user lets go: a read in a thread may outlive the eviction.
        weakref.finalize(self, _close, self._map, self._map_fd, self._fd)
        self._trusted = bytearray(b"\x01" if self._is_untouched() else b"\x00") * self.blocks

    def _open_map(self) -> int:
        """The map for this version, locked as a whole, so that nobody evicts or completes the file meanwhile."""
        path = self._stem.with_suffix(".map")
        while True:
            fd = _lock_map(path, os.O_CREAT)
            length = os.fstat(fd).st_size
            if length == self._map_bytes and os.pread(fd, _BOOT_OFFSET, 0) == self._header[:_BOOT_OFFSET]:
                return fd
            # Never cut an old map: who has it mapped would be killed by the kernel. Unlinked, it serves them on.
            _unlink(self._stem, with_map=length > 0)
            if not length:
                os.ftruncate(fd, self._map_bytes)
                os.pwrite(fd, self._header, 0)
                return fd
            os.close(fd)

    def _open_data(self) -> tuple[bool, int]:
        try:
            return True, os.open(self._stem, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        fd = os.open(self._stem.with_suffix(".part"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(fd).st_size != self.size:
            os.ftruncate(fd, self.size)
        return False, fd

    @property
    def stem(self) -> Path:
        """Path of the complete data file, whether it is complete or not."""
        return self._stem

    @property
    def fd(self) -> int:
        """The data file; valid as long as this object, also after eviction."""
        return self._fd

    def length(self, block: int) -> int:
        """Bytes of *block*: the last one may be short."""
        return min(self.block_bytes, self.size - block * self.block_bytes)

    def has(self, block: int) -> bool:
        return bool(_ENTRY.unpack_from(self._map, _HEADER.size + block * _ENTRY.size)[0] == 1)

    def cached_bytes(self) -> int:
        if not self.blocks:
            return 0
        with memoryview(self._map) as raw, raw[_HEADER.size :].cast("I") as words:
            present = sum(words[::2])  # states are 0 and 1; files have up to millions of blocks
        last = self.blocks - 1
        return present * self.block_bytes - (self.block_bytes - self.length(last) if self.has(last) else 0)

    def read_now(self, offset: int, size: int, into: memoryview | None = None) -> memoryview | None:
        """As `read`, but only if that needs neither verifying nor waiting for the medium; else None.

        The bytes stand at the start of *into*, if that is given and long enough.
        """
        for block in range(offset // self.block_bytes, (offset + size - 1) // self.block_bytes + 1):
            if not self._trusted[block]:
                return None
        data = memoryview(bytearray(size)) if into is None or len(into) < size else into[:size]
        try:
            return data if os.preadv(self._fd, [data], offset, os.RWF_NOWAIT) == size else None
        except OSError:
            return None  # EAGAIN: not in the page cache; EOPNOTSUPP: this file system cannot tell

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that are in present blocks; blocks that this process did not write are verified when first met.

        Raises:
            Corrupt: a block does not match its checksum; it is marked absent, so the next read fetches it.
        """
        for block in range(offset // self.block_bytes, (offset + size - 1) // self.block_bytes + 1):
            if not self._trusted[block]:
                self._verify(block)
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            self.discard(range(offset // self.block_bytes, (offset + size - 1) // self.block_bytes + 1))
            raise Corrupt(f"cache file {self._stem.name}: {len(data)} of {size} bytes at {offset}")
        return data

    def write(self, block: int, data: memoryview) -> None:
        """Store *block*; data first, then its map entry.

        Raises:
            OSError: the medium is full or broken; the block stays absent.
        """
        checksum, offset = zlib.crc32(data), block * self.block_bytes
        while data:
            written = os.pwrite(self._fd, data, offset)
            offset, data = offset + written, data[written:]
        _ENTRY.pack_into(self._map, _HEADER.size + block * _ENTRY.size, 1, checksum)
        self._trusted[block] = 1

    def discard(self, blocks: range) -> None:
        """Mark *blocks* absent."""
        for block in blocks:
            _ENTRY.pack_into(self._map, _HEADER.size + block * _ENTRY.size, 0, 0)
        self._first_missing = min(self._first_missing, blocks.start)
        if self.is_complete:
            self.is_complete = False
            self._rename(self._stem, self._stem.with_suffix(".part"))

    def try_lock(self, block: int) -> bool:
        """Whether this process may fetch *block* now; False while another process does."""
        try:
            fcntl.fcntl(self._map_fd, _F_OFD_SETLK, self._lock_of(fcntl.F_WRLCK, block))
        except BlockingIOError:
            return False
        return True

    def unlock(self, block: int) -> None:
        fcntl.fcntl(self._map_fd, _F_OFD_SETLK, self._lock_of(fcntl.F_UNLCK, block))

    def try_complete(self) -> bool:
        """Rename to the complete form if every block is there. True if the file is complete, whoever renamed it."""
        if self.is_complete:
            return True
        while self._first_missing < self.blocks and self.has(self._first_missing):
            self._first_missing += 1
        if self._first_missing < self.blocks:
            return False
        mtime = os.fstat(self._fd).st_mtime_ns
        self._map[_MTIME_OFFSET : _MTIME_OFFSET + 8] = struct.pack("<Q", mtime)
        self._map[_BOOT_OFFSET : _BOOT_OFFSET + 8] = _BOOT
        self.is_complete = self._rename(self._stem.with_suffix(".part"), self._stem)
        return self.is_complete

    def is_sound(self) -> bool:
        """Whether a complete file may be handed to the kernel: every block trusted, or verified now."""
        try:
            for block in range(self.blocks):
                if not self._trusted[block]:
                    self._verify(block)
        except Corrupt:
            return False
        self._map[_MTIME_OFFSET : _MTIME_OFFSET + 8] = struct.pack("<Q", os.fstat(self._fd).st_mtime_ns)
        self._map[_BOOT_OFFSET : _BOOT_OFFSET + 8] = _BOOT
        return True

    @property
    def is_evicted(self) -> bool:
        """The files are unlinked: what is here can be read, but nothing stored here will be found again."""
        return os.fstat(self._map_fd).st_nlink == 0

    def _rename(self, old: Path, new: Path) -> bool:
        """False where the file was evicted: what stands under its names now, if anything, is another one."""
        fcntl.flock(self._map_fd, fcntl.LOCK_EX)
        try:
            if self.is_evicted:
                return False
            with contextlib.suppress(FileNotFoundError):  # another process did it
                old.rename(new)
            return new.exists()
        finally:
            fcntl.flock(self._map_fd, fcntl.LOCK_UN)

    def _is_untouched(self) -> bool:
        """Whether this is a complete file that nobody wrote to since it became complete, in this boot."""
        if not self.is_complete or self._map[_BOOT_OFFSET : _BOOT_OFFSET + 8] != _BOOT:
            return False
        status = os.fstat(self._fd)
        recorded = struct.unpack_from("<Q", self._map, _MTIME_OFFSET)[0]
        return bool(status.st_mtime_ns == recorded and status.st_size == self.size)

    def _verify(self, block: int) -> None:
        state, checksum = _ENTRY.unpack_from(self._map, _HEADER.size + block * _ENTRY.size)
        data = os.pread(self._fd, self.length(block), block * self.block_bytes)
        if state != 1 or len(data) != self.length(block) or zlib.crc32(data) != checksum:
            self.discard(range(block, block + 1))
            raise Corrupt(f"cache file {self._stem.name}: block {block} does not match its checksum")
        self._trusted[block] = 1

    def _lock_of(self, kind: int, block: int) -> bytes:
        return _LOCK.pack(kind, os.SEEK_SET, _HEADER.size + block * _ENTRY.size, _ENTRY.size, 0)


def remove(stem: Path) -> None:
    """Evict: unlink data and map. Open descriptors stay readable."""
    try:
        fd = _lock_map(stem.with_suffix(".map"), 0)
    except FileNotFoundError:
        _unlink(stem, with_map=False)
        return
    try:
        _unlink(stem, with_map=True)
    finally:
        os.close(fd)


def _lock_map(path: Path, flags: int) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # evicted while we waited


def _unlink(stem: Path, *, with_map: bool) -> None:
    for path in (stem, stem.with_suffix(".part"), *([stem.with_suffix(".map")] if with_map else [])):
        path.unlink(missing_ok=True)


def _close(map_: mmap.mmap, map_fd: int, fd: int) -> None:
    map_.close()
    os.close(map_fd)
    os.close(fd)
