"""Memory that fetched bytes pass through: taken by size, given back when the last view of it is gone.

A fresh buffer of some MiB costs as much as copying it, because the kernel has to find and clear its pages; so a few are
kept. Whoever holds a view of one, a reader that is being answered above all, keeps it from being used again.
"""

import ctypes
import mmap
import weakref
from collections import deque

RUN_BYTES = 4 << 20
_KEPT = 8


class Buffers:
    """Thread-safe without a lock, which a garbage collection in the middle of `take` could find held."""

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=_KEPT)

    def take(self, size: int) -> memoryview:
        """A writable view of *size* bytes, whose content is undefined."""
        if size > RUN_BYTES:
            return memoryview(bytearray(size))
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, RUN_BYTES)
        # Views of a lease keep it alive, and it tells when the last one went; a memoryview could not tell.
        lease = (ctypes.c_char * size).from_buffer(memory)
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return memoryview(lease).cast("B")
