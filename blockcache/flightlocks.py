"""Locks by number, shared by the processes of one cache: who holds one fetches the file of that number.

They are open-file-description locks on single bytes of one empty file, so the kernel frees them when the holder dies.
"""

import fcntl
import os
import struct
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2)
_F_OFD_SETLK, _F_OFD_SETLKW = 37, 38


def lock_range(fd: int, kind: int, start: int, length: int, *, wait: bool = False) -> bool:
    """Set a lock of *kind* (fcntl.F_WRLCK, F_RDLCK, F_UNLCK) on bytes; False if somebody else's is in the way."""
    try:
        fcntl.fcntl(fd, _F_OFD_SETLKW if wait else _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except BlockingIOError:
        return False
    return True


class FlightLocks:
    """One per process. Holding a lock twice in one process is possible: that is for the caller to see to."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_lock(self, number: int) -> bool:
        return lock_range(self._fd, fcntl.F_WRLCK, number, 1)

    def unlock(self, number: int) -> None:
        lock_range(self._fd, fcntl.F_UNLCK, number, 1)

    def close(self) -> None:
        os.close(self._fd)
