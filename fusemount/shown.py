"""Which listings the kernel was shown, known to all daemon processes of a mount.

It may go on with a listing that it has, whichever process answers, as long as that is the latest.
"""

import struct
from pathlib import Path

from fusemount.slots import Slots

_FILE_NAME = "shown"
_SLOTS = 65536


class Shown:
    """By row of a directory, when the listing was taken that the kernel was shown last (`Node.listed_at`)."""

    def __init__(self, folder: Path | None) -> None:
        self._slots = Slots(None if folder is None else folder / _FILE_NAME, _SLOTS)

    def note(self, row: int, listed_at: float) -> None:
        """Whatever the kernel keeps of *row* from now on is of this listing, or a later one."""
        self._slots.put(row, row, _bits(listed_at))

    def is_latest(self, row: int, listed_at: float) -> bool:
        """Whether what the kernel may keep of *row* is of the listing that was taken at *listed_at*."""
        return self._slots.get(row) == (row, _bits(listed_at))

    def forget(self, row: int) -> None:
        """The names in *row* changed."""
        if self._slots.get(row)[0] == row:
            self._slots.put(row, 0, 0)


def _bits(number: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", number))[0])
