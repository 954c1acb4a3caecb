"""A dataset file of many blocks in the cache: a sparse data file with the same offsets, beside it a map of its blocks.

While blocks are missing the data file is `<id>.part`; when all are there it is renamed to `<id>`, and only then may
the kernel read it by passthrough. `<id>.map` holds a header and, per block, its checksum. Eviction unlinks both:
who has the file open goes on safely.

Map format, little endian: magic 8 bytes, block size u32, block count u32, file size u64, version digest 8 bytes,
session digest 8 bytes, mtime of the complete data file in ns u64, digest of the run that made the map 8 bytes, padding
8 bytes; then per block: state u8 (1 = present), generation
u24, CRC-32 u32. All of it is allocated when it is made, for a mapped page that the full medium cannot take would be
the end of the process.

Trust: data is written before its map entry, so a killed process leaves nothing wrong, and what the processes of one run
store in a map that they made is believed by all of them. What may be older is believed only after its checksum was
compared, once per process and block; a complete file is spared that where session and mtime are those recorded when it
became complete.

Holes: only a file too large for its tier loses blocks while it is open (`shrink`). Whoever punches holds the block's
lock, through a descriptor of its own, so that it excludes writers of its own process as well. It clears the entry,
counts its generation up, and only then punches. A reader compares the entry before and after it has read: bytes that
the hole has already swallowed can be seen only after the punch, hence after the entry changed; and a block that was
punched and stored again in between has another generation. The page cache orders the two, for reading and punching
a page take the same lock. Passthrough is no concern, as such a file is never complete.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import random
import struct
import threading
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path

from blockcache.cachefile import BlockGone, CacheFile, count_corrupt, create_own, digest, open_own, unlink_own
from blockcache.flightlocks import lock_range
from datamodel.errors import Corrupt

_MAGIC = b"HRMAP\x00\x00\x03"
_HEADER = struct.Struct("<8sIIQ8s8sQ8s8x")
_ENTRY_BYTES = 8
_SESSION_OFFSET, _MTIME_OFFSET, _RUN_OFFSET = 32, 40, 48
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_libc = ctypes.CDLL(None, use_errno=True)


class SparseFile(CacheFile):
    """Opened, and made if missing, for one version of one file.

    Single flight between processes: `try_lock(block)` takes an open-file-description lock on the block's map entry.

    Raises:
        OSError: the medium is full, broken or read-only.
    """

    def __init__(self, stem: str, size: int, version: str, block_bytes: int, session: bytes, run: bytes = b"") -> None:
        super().__init__(stem, size, block_bytes)
        self._session, self._run = session, run
        self._header = _HEADER.pack(_MAGIC, block_bytes, self.blocks, size, digest(version), session, 0, run)
        self._map_bytes = _HEADER.size + self.blocks * _ENTRY_BYTES
        self._map_fd = self._open_map()
        try:
            self._is_complete, self._fd = self._open_data()
            self._map = mmap.mmap(self._map_fd, self._map_bytes)
        except BaseException:
            os.close(self._map_fd)
            raise
        fcntl.flock(self._map_fd, fcntl.LOCK_UN)
        self._first_missing = 0
        self._punching = threading.Lock()
        # Closed when the last user lets go: a read in a thread may outlive the eviction.
        weakref.finalize(self, _close, self._map, self._map_fd, self._fd)
        is_believed = self._is_untouched() if self._is_complete else self._is_of_this_run()
        self._trusted = bytearray(b"\x01" if is_believed else b"\x00") * self.blocks

    def _open_map(self) -> int:
        """The map for this version, locked as a whole, so that nobody evicts or completes the file meanwhile."""
        path = f"{self._stem}.map"
        while True:
            fd = _lock_map(path, create_own)
            length = os.fstat(fd).st_size
            if length == self._map_bytes and os.pread(fd, _SESSION_OFFSET, 0) == self._header[:_SESSION_OFFSET]:
                return fd
            # Never cut an old map: who has it mapped would be killed by the kernel. Unlinked, it serves them on.
            _unlink(self._stem, with_map=length > 0)
            if length:
                os.close(fd)
                continue
            try:
                os.posix_fallocate(fd, 0, self._map_bytes)
                os.pwrite(fd, self._header, 0)
            except OSError:
                os.unlink(path)
                os.close(fd)
                raise
            return fd

    def _open_data(self) -> tuple[bool, int]:
        try:
            return True, open_own(self._stem, 0)
        except FileNotFoundError:
            pass
        fd = create_own(f"{self._stem}.part", 0)
        if os.fstat(fd).st_size != self.size:
            os.ftruncate(fd, self.size)
        return False, fd

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    @property
    def fd(self) -> int:
        return self._fd

    def has(self, block: int) -> bool:
        return self._map[_HEADER.size + block * _ENTRY_BYTES] == 1

    def cached_bytes(self) -> int:
        if not self.blocks:
            return 0
        present = self._states().count(1)
        last = self.blocks - 1
        return present * self.block_bytes - (self.block_bytes - self.length(last) if self.has(last) else 0)

    def _states(self) -> bytes:
        return self._map[_HEADER.size :: _ENTRY_BYTES]

    def read_now(self, offset: int, size: int, into: memoryview | None = None) -> memoryview | None:
        first, end = offset // self.block_bytes, (offset + size - 1) // self.block_bytes + 1
        before = self._entries(first, end)
        if before[::_ENTRY_BYTES].count(1) != end - first or not all(self._trusted[first:end]):
            return None
        data = memoryview(bytearray(size)) if into is None or len(into) < size else into[:size]
        try:
            if os.preadv(self._fd, [data], offset, self.read_flags) != size:
                return None
        except OSError:
            return None  # EAGAIN: not in the page cache; EOPNOTSUPP: this file system cannot tell
        return data if self._entries(first, end) == before else None

    def read(self, offset: int, size: int) -> bytes:
        first, end = offset // self.block_bytes, (offset + size - 1) // self.block_bytes + 1
        before = self._entries(first, end)
        for block in range(first, end):
            if not self.has(block):
                raise BlockGone(f"cache file {self.name}: block {block} is not there any more")
            if not self._trusted[block]:
                self._verify(block)
        data = os.pread(self._fd, size, offset)
        if self._entries(first, end) != before:
            raise BlockGone(f"cache file {self.name}: blocks {first} to {end - 1} were given up meanwhile")
        if len(data) != size:
            self._discard(range(first, end))
            raise count_corrupt(self._stem, f"{len(data)} of {size} bytes at {offset} are left")
        return data

    def _entries(self, first: int, end: int) -> bytes:
        return self._map[_HEADER.size + first * _ENTRY_BYTES : _HEADER.size + end * _ENTRY_BYTES]

    def write(self, block: int, data: memoryview) -> None:
        checksum, offset = zlib.crc32(data), block * self.block_bytes
        while data:
            written = os.pwrite(self._fd, data, offset)
            offset, data = offset + written, data[written:]
        at = _HEADER.size + block * _ENTRY_BYTES
        self._map[at + 4 : at + 8] = checksum.to_bytes(4, "little")
        self._trusted[block] = 1
        self._map[at] = 1  # last: from here on others believe the checksum

    def _discard(self, blocks: range) -> None:
        """Mark *blocks* absent."""
        for block in blocks:
            self._map[_HEADER.size + block * _ENTRY_BYTES] = 0
            self._trusted[block] = 0
        self._first_missing = min(self._first_missing, blocks.start)
        if self.is_complete:
            self._is_complete = False
            self._rename(self._stem, f"{self._stem}.part")

    def shrink(self, count: int) -> int:
        """Blocks at random make room: of a file that is read through again and again, every other choice would throw
        away just what is wanted next. A block that is being written or given up elsewhere is left alone.
        """
        freed = 0
        with self._punching, Path(f"/proc/self/fd/{self._map_fd}").open("r+b", buffering=0) as own:
            for _ in range(2 * count // self.block_bytes + 2):
                block = self._any_present()
                if block is None or freed >= count or not lock_range(own.fileno(), fcntl.F_WRLCK, *_entry(block)):
                    break
                if self.has(block):
                    self._punch(block)
                    freed += self.length(block)
                lock_range(own.fileno(), fcntl.F_UNLCK, *_entry(block))
        return freed

    def _any_present(self) -> int | None:
        states, start = self._states(), random.randrange(self.blocks)
        found = states.find(1, start)
        if found < 0:
            found = states.find(1, 0, start)
        return None if found < 0 else found

    def _punch(self, block: int) -> None:
        at = _HEADER.size + block * _ENTRY_BYTES
        generation = int.from_bytes(self._map[at + 1 : at + 4], "little") + 1
        self._map[at] = 0
        self._map[at + 1 : at + 4] = (generation & 0xFFFFFF).to_bytes(3, "little")
        self._first_missing = min(self._first_missing, block)
        offset, length = ctypes.c_int64(block * self.block_bytes), ctypes.c_int64(self.length(block))
        if _libc.fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), self._stem)

    def try_lock(self, block: int) -> bool:
        return lock_range(self._map_fd, fcntl.F_WRLCK, *_entry(block))

    def unlock(self, block: int) -> None:
        lock_range(self._map_fd, fcntl.F_UNLCK, *_entry(block))

    def try_complete(self) -> bool:
        if self.is_complete:
            return True
        while self._first_missing < self.blocks and self.has(self._first_missing):
            self._first_missing += 1
        if self._first_missing < self.blocks:
            return False
        self._stamp()
        self._is_complete = self._rename(f"{self._stem}.part", self._stem)
        return self.is_complete

    def is_sound(self) -> bool:
        if all(self._trusted):
            return True
        try:
            for block in range(self.blocks):
                if not self._trusted[block]:
                    self._verify(block)
        except Corrupt:
            return False
        self._stamp()
        return True

    def _stamp(self) -> None:
        """Whoever opens the complete file later in this session need not verify it."""
        mtime_ns = os.fstat(self._fd).st_mtime_ns
        self._map[_MTIME_OFFSET : _MTIME_OFFSET + 8] = struct.pack("<Q", mtime_ns)
        self._map[_SESSION_OFFSET : _SESSION_OFFSET + 8] = self._session

    @property
    def is_evicted(self) -> bool:
        return os.fstat(self._map_fd).st_nlink == 0

    def _rename(self, old: str, new: str) -> bool:
        """False where the file was evicted: what stands under its names now, if anything, is another one."""
        fcntl.flock(self._map_fd, fcntl.LOCK_EX)
        try:
            if self.is_evicted:
                return False
            with contextlib.suppress(FileNotFoundError):  # another process did it
                os.rename(old, new)
            return os.path.exists(new)
        finally:
            fcntl.flock(self._map_fd, fcntl.LOCK_UN)

    def _is_untouched(self) -> bool:
        """Whether this is a complete file that nobody wrote to since it became complete, in this session."""
        if not self.is_complete or self._map[_SESSION_OFFSET : _SESSION_OFFSET + 8] != self._session:
            return False
        status = os.fstat(self._fd)
        recorded = struct.unpack_from("<Q", self._map, _MTIME_OFFSET)[0]
        return bool(status.st_mtime_ns == recorded and status.st_size == self.size)

    def _is_of_this_run(self) -> bool:
        return bool(self._run) and self._map[_RUN_OFFSET : _RUN_OFFSET + 8] == self._run

    def _verify(self, block: int) -> None:
        before = self._entries(block, block + 1)
        data = os.pread(self._fd, self.length(block), block * self.block_bytes)
        if self._entries(block, block + 1) != before:
            raise BlockGone(f"cache file {self.name}: block {block} was given up meanwhile")
        if len(data) != self.length(block) or zlib.crc32(data) != int.from_bytes(before[4:], "little"):
            self._discard(range(block, block + 1))
            raise count_corrupt(self._stem, f"block {block} does not match its checksum")
        self._trusted[block] = 1


def remove(stem: str) -> int:
    """Evict, whichever way the file is kept: unlink all there is. Open descriptors stay readable.

    Returns how many bytes were cached of it.
    """
    try:
        fd = _lock_map(f"{stem}.map", open_own)
    except FileNotFoundError:
        return _unlink(stem, with_map=False)
    try:
        present = _present_bytes(fd)
        _unlink(stem, with_map=True)
        return present
    finally:
        os.close(fd)


def stored_bytes(map_path: str) -> int:
    """What the map at *map_path* says is present, in bytes; 0 if it is no map or gone."""
    try:
        fd = open_own(map_path, 0)
    except FileNotFoundError:
        return 0
    try:
        return _present_bytes(fd)
    finally:
        os.close(fd)


def _present_bytes(map_fd: int) -> int:
    raw = os.pread(map_fd, os.fstat(map_fd).st_size, 0)
    if len(raw) < _HEADER.size:
        return 0
    magic, block_bytes, blocks, size = _HEADER.unpack_from(raw)[:4]
    states = raw[_HEADER.size :: _ENTRY_BYTES]
    if magic != _MAGIC or not blocks or len(states) != blocks:
        return 0
    short = blocks * block_bytes - size if states[-1] == 1 else 0
    return int(states.count(1) * block_bytes - short)


def _entry(block: int) -> tuple[int, int]:
    return _HEADER.size + block * _ENTRY_BYTES, _ENTRY_BYTES


def _lock_map(path: str, open_map: Callable[[str, int], int]) -> int:
    while True:
        fd = open_map(path, 0)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # evicted while we waited


def _unlink(stem: str, *, with_map: bool) -> int:
    """Returns the size of what was complete."""
    try:
        size = os.lstat(stem).st_size
    except FileNotFoundError:
        size = 0
    for path in (stem, f"{stem}.part", *([f"{stem}.map"] if with_map else [])):
        unlink_own(path)
    return size


def _close(map_: mmap.mmap, map_fd: int, fd: int) -> None:
    map_.close()
    os.close(map_fd)
    os.close(fd)
