"""Pairs of numbers that the daemon processes of a mount share, in a small file beside the catalog.

Slots of 16 bytes, little endian: two u64. Nothing is locked: two processes that write one slot at the same time may
leave one's first number beside the other's second. So what is kept here has to be checked by what it says, and its loss
has to cost nothing but time.
"""

import mmap
import os
import struct
from pathlib import Path

_SLOT = struct.Struct("<QQ")


class Slots:
    """*count* slots in the file *path*; with None, or where that cannot be written, of this process alone."""

    def __init__(self, path: Path | None, count: int) -> None:
        self._count = count
        size = count * _SLOT.size
        self._memory = mmap.mmap(-1, size) if path is None else _shared(path, size)

    def get(self, key: int) -> tuple[int, int]:
        """What the slot that *key* falls into holds; zeros at first."""
        first, second = _SLOT.unpack_from(self._memory, key % self._count * _SLOT.size)
        return first, second

    def put(self, key: int, first: int, second: int) -> None:
        """Keep two numbers in the slot that *key* falls into, in place of what others put there."""
        _SLOT.pack_into(self._memory, key % self._count * _SLOT.size, first, second)


def _shared(path: Path, size: int) -> mmap.mmap:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)  # a hole on a full disk would kill who writes into it
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)
    except OSError:
        return mmap.mmap(-1, size)
