"""A dataset file of at most one block, cached in one piece: no map beside it, the least work for the kernel and for us.

The data file `<id>` carries its checksum in the extended attribute `user.headrace`: magic 4 bytes, mtime of the data in
ns u64, size u64, version digest 8 bytes, session digest 8 bytes, CRC-32 u32, little endian. The attribute is set last;
a file without it was never finished, whatever its length, and is replaced by whoever fetches it next. So there is
nothing to rename, and two writers at once cost a fetch, never a wrong byte: each has an inode of its own.
"""

import errno
import os
import struct
import threading
import zlib

from blockcache.cachefile import CacheFile, count_corrupt, create_own, digest, open_own, unlink_own
from blockcache.flightlocks import FlightLocks
from datamodel.errors import Corrupt

_ATTRIBUTE = "user.headrace"
_MAGIC = b"HRW1"
_HEADER = struct.Struct("<4sQQ8s8sI")


class _Descriptor:
    """Closed when its last user lets go: a read in a thread may outlive the eviction."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class WholeFile(CacheFile):
    """Known to be there only after `look` or `write`; nothing is on the medium before the latter."""

    def __init__(
        self, stem: str, size: int, version: str, block_bytes: int, session: bytes, locks: FlightLocks
    ) -> None:
        super().__init__(stem, size, block_bytes)
        self._version, self._session, self._locks = digest(version), session, locks
        self._id = int(os.path.basename(stem))
        self._held: _Descriptor | None = None
        self._checksum = 0
        self._is_trusted = False

    def look(self) -> bool:
        """Open what is there by now, if it is finished and of our version.

        Raises:
            OSError: the medium does not answer.
        """
        try:
            held = _Descriptor(open_own(self._stem, 0))
        except FileNotFoundError:
            return False
        try:
            magic, mtime_ns, size, version, session, checksum = _HEADER.unpack(os.getxattr(held.fd, _ATTRIBUTE))
        except (OSError, struct.error):  # no such attribute, or garbage: unfinished
            return False
        if (magic, size, version) != (_MAGIC, self.size, self._version):
            return False
        status = os.fstat(held.fd)
        self._is_trusted = session == self._session and (status.st_mtime_ns, status.st_size) == (mtime_ns, size)
        self._checksum, self._held = checksum, held
        return True

    @property
    def is_complete(self) -> bool:
        return self._held is not None

    @property
    def fd(self) -> int:
        return -1 if self._held is None else self._held.fd

    @property
    def is_evicted(self) -> bool:
        held = self._held
        return held is not None and os.fstat(held.fd).st_nlink == 0

    def has(self, block: int) -> bool:
        return self._held is not None

    def cached_bytes(self) -> int:
        return 0 if self._held is None else self.size

    def read_now(self, offset: int, size: int, into: memoryview | None = None) -> memoryview | None:
        held = self._held
        if held is None or not self._is_trusted:
            return None
        data = memoryview(bytearray(size)) if into is None or len(into) < size else into[:size]
        try:
            return data if os.preadv(held.fd, [data], offset, self.read_flags) == size else None
        except OSError:
            return None  # EAGAIN: not in the page cache; EOPNOTSUPP: this file system cannot tell

    def read(self, offset: int, size: int) -> bytes:
        held = self._held
        if held is None or not self._is_verified(held):
            raise Corrupt(f"cache file {self.name}: nothing is left of it")
        data = os.pread(held.fd, size, offset)
        if len(data) != size:
            self._drop(held)
            raise count_corrupt(self._stem, f"{len(data)} of {size} bytes at {offset} are left")
        return data

    def write(self, block: int, data: memoryview) -> None:
        held = self._create()
        try:
            written = os.pwrite(held.fd, data, 0)
            while written < self.size:
                written += os.pwrite(held.fd, data[written:], written)
            self._stamp(held, zlib.crc32(data))
        except BaseException:
            unlink_own(self._stem)
            raise
        self._is_trusted, self._held = True, held

    def _create(self) -> _Descriptor:
        while True:
            try:
                return _Descriptor(create_own(self._stem, os.O_EXCL))
            except FileExistsError:
                # Unfinished, of another version, or of somebody who was as fast: unlinked, it serves who has it open.
                unlink_own(self._stem)

    def _stamp(self, held: _Descriptor, checksum: int) -> None:
        mtime_ns = os.fstat(held.fd).st_mtime_ns
        header = _HEADER.pack(_MAGIC, mtime_ns, self.size, self._version, self._session, checksum)
        os.setxattr(held.fd, _ATTRIBUTE, header)
        self._checksum = checksum

    def try_lock(self, block: int) -> bool:
        is_locked = self._locks.try_lock(self._id)
        if self._held is None:
            self.look()  # another process may have stored it since we looked
        return is_locked

    def unlock(self, block: int) -> None:
        self._locks.unlock(self._id)

    def try_complete(self) -> bool:
        if self._held is None and not self.size:
            try:
                self.write(0, memoryview(b""))
            except OSError:
                return False  # nothing to read is served without a file just as well
        return self._held is not None

    def is_sound(self) -> bool:
        held = self._held
        if held is None:
            return False
        try:
            return self._is_verified(held)
        except Corrupt:
            return False

    def _is_verified(self, held: _Descriptor) -> bool:
        if not self._is_trusted:
            data = os.pread(held.fd, self.size + 1, 0)
            if len(data) != self.size or zlib.crc32(data) != self._checksum:
                self._drop(held)
                raise count_corrupt(self._stem, "it does not match its checksum")
            self._stamp(held, self._checksum)
            self._is_trusted = True
        return True

    def _drop(self, held: _Descriptor) -> None:
        """Take the bad file out of the way, unless another one stands there already."""
        self._held, self._is_trusted = None, False
        try:
            if os.path.samestat(os.stat(self._stem), os.fstat(held.fd)):
                os.unlink(self._stem)
        except FileNotFoundError:
            return  # evicted


def is_whole(stem: str) -> bool:
    """Whether a finished file in one piece is at *stem*, of whatever version."""
    try:
        return len(os.getxattr(stem, _ATTRIBUTE)) == _HEADER.size
    except OSError:
        return False  # nothing there, or unfinished; what does not answer is not to be had either


def takes_whole_files(folder: str) -> bool:
    """Whether the file system of *folder* keeps extended attributes, without which there are only sparse files.

    Raises:
        OSError: the folder cannot be written.
    """
    probe = f"{folder}/probe-{os.getpid()}-{threading.get_native_id()}"
    fd = create_own(probe, os.O_EXCL)
    try:
        os.setxattr(fd, _ATTRIBUTE, bytes(_HEADER.size))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
        return False
    finally:
        os.close(fd)
        os.unlink(probe)
    return True
