"""Files whose source was waited for in vain a moment ago, known to all daemon processes of a mount.

To the kernel a read-ahead that failed is no answer: it asks again at once, for the first page alone and maybe another
process, and the reader would wait for a source that is away twice as long as it was promised.

A small file beside the catalog holds it: slots of 16 bytes, little endian, each a row (u64) and the monotonic time in
ms (u64) until which it counts. Rows share slots, and two processes may write one at the same time: what gets lost that
way costs some patience and nothing else.
"""

import mmap
import os
import struct
from pathlib import Path

_FILE_NAME = "given-up"
_MOMENT_S = 2.0
_SLOT = struct.Struct("<QQ")
_SLOTS = 1024


class GivenUp:
    """Rows of files, each for a moment after `note`. *now* is seconds of `time.monotonic`.

    Without a *folder*, or where that cannot be written, each process knows only what it saw itself.
    """

    def __init__(self, folder: Path | None) -> None:
        self._slots = _shared(folder / _FILE_NAME) if folder is not None else mmap.mmap(-1, _SLOTS * _SLOT.size)

    def note(self, row: int, now: float) -> None:
        _SLOT.pack_into(self._slots, row % _SLOTS * _SLOT.size, row, int((now + _MOMENT_S) * 1000))

    def has(self, row: int, now: float) -> bool:
        noted, until_ms = _SLOT.unpack_from(self._slots, row % _SLOTS * _SLOT.size)
        # A time further away was written in another boot.
        return bool(noted == row and now * 1000 < until_ms <= (now + _MOMENT_S) * 1000)


def _shared(path: Path) -> mmap.mmap:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _SLOTS * _SLOT.size)  # a hole on a full disk would kill who writes into it
            return mmap.mmap(fd, _SLOTS * _SLOT.size)
        finally:
            os.close(fd)
    except OSError:
        return mmap.mmap(-1, _SLOTS * _SLOT.size)
