"""Reads the files of a mount with several threads, so that its cache fills; counts what it did.

Threads here are daemons on purpose: one that waits for a source that does not answer must not keep an interrupted
command from ending.
"""

import errno
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.load.walk import File, files

CACHED_ATTRIBUTE = "user.headrace.cached_percent"
_PIECE = 1 << 20
_DROP_EVERY = 32 << 20
_QUEUED = 1000
_NO_ATTRIBUTE = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS)
_MOUNT_IS_GONE = (errno.ENOTCONN, errno.ECONNABORTED)


@dataclass(frozen=True, slots=True)
class Count:
    """Files and bytes: *found* by the walk so far, of those *cached* already, *loaded* now, and files that *failed*."""

    found_files: int = 0
    found_bytes: int = 0
    cached_files: int = 0
    cached_bytes: int = 0
    loaded_files: int = 0
    loaded_bytes: int = 0
    failed: int = 0
    is_walked: bool = False
    """The walk is over, so what was found is all there is."""

    @property
    def done_files(self) -> int:
        return self.cached_files + self.loaded_files + self.failed

    @property
    def done_bytes(self) -> int:
        return self.cached_bytes + self.loaded_bytes


class Loader:
    """Loads *paths*, from `start` until `finished` is set: all read, or the mount is gone, or `stop` was called.

    *bytes_per_s* is the limit of all threads together, 0 for none. Failures wait in `failures` as (path, why).
    """

    def __init__(self, paths: Sequence[str], *, parallel: int, bytes_per_s: int) -> None:
        self._paths, self._parallel = tuple(paths), parallel
        self._rate = _Rate(bytes_per_s) if bytes_per_s else None
        self._files: queue.Queue[File | None] = queue.Queue(_QUEUED)
        self._lock = threading.Lock()
        self._count = Count()
        self._working = parallel
        self._stopping = threading.Event()
        self.failures: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.finished = threading.Event()

    @property
    def count(self) -> Count:
        return self._count

    def start(self) -> None:
        threading.Thread(target=self._find, name="walk", daemon=True).start()
        for number in range(self._parallel):
            threading.Thread(target=self._read, name=f"read {number}", daemon=True).start()

    def stop(self) -> None:
        """Begin nothing new; reads under way end as they may."""
        self._stopping.set()

    def _find(self) -> None:
        for path in self._paths:
            for file in files(path, self._fail):
                self._note(found_files=1, found_bytes=file.size)
                if not self._put(file):
                    return
        with self._lock:
            self._count = replace(self._count, is_walked=True)
        for _ in range(self._parallel):
            self._put(None)

    def _put(self, file: File | None) -> bool:
        while not self._stopping.is_set():
            try:
                self._files.put(file, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def _read(self) -> None:
        buffer = bytearray(_PIECE)
        try:
            while (file := self._next()) is not None:
                self._load(file, buffer)
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self.finished.set()

    def _next(self) -> File | None:
        while not self._stopping.is_set():
            try:
                return self._files.get(timeout=0.2)
            except queue.Empty:
                continue
        return None

    def _load(self, file: File, buffer: bytearray) -> None:
        try:
            if file.size and _is_cached(file.path):
                self._note(cached_files=1, cached_bytes=file.size)
                return
            try:
                done = self._pump(file.path, buffer)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                done = self._pump(file.path, buffer)  # it changed at its source: the name leads to the new one now
            if done:
                self._note(loaded_files=1)
        except OSError as error:
            self._fail(file.path, error)
            if error.errno in _MOUNT_IS_GONE:
                self.stop()

    def _pump(self, path: str, buffer: bytearray) -> bool:
        """Read *path* to its end; False if `stop` came before."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            offset = dropped = 0
            while not self._stopping.is_set():
                count = os.preadv(fd, [buffer], offset)
                if not count:
                    return True
                offset += count
                self._note(loaded_bytes=count)
                if offset - dropped >= _DROP_EVERY:
                    os.posix_fadvise(fd, 0, offset, os.POSIX_FADV_DONTNEED)
                    dropped = offset
                if self._rate is not None:
                    self._rate.spend(count, self._stopping)
            return False
        finally:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def _fail(self, path: str, error: OSError) -> None:
        self._note(failed=1)
        self.failures.put((path, error.strerror or str(error)))

    def _note(self, **more: int) -> None:
        with self._lock:
            self._count = replace(
                self._count, **{name: getattr(self._count, name) + count for name, count in more.items()}
            )


class _Rate:
    """At most *bytes_per_s*, for all threads together; what was not used in a while is not made up for."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s, self._lock, self._free_at = bytes_per_s, threading.Lock(), time.monotonic()

    def spend(self, count: int, stopping: threading.Event) -> None:
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._bytes_per_s
            pause_s = self._free_at - now
        stopping.wait(pause_s)


def _is_cached(path: str) -> bool:
    try:
        return os.getxattr(path, CACHED_ATTRIBUTE, follow_symlinks=False) == b"100"
    except OSError as error:
        if error.errno in _NO_ATTRIBUTE:
            return False
        raise
