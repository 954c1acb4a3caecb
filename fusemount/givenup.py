"""Files whose source was waited for in vain a moment ago, known to all daemon processes of a mount.

To the kernel a read-ahead that failed is no answer: it asks again at once, for the first page alone and maybe another
process, and the reader would wait for a source that is away twice as long as it was promised.

What gets lost where rows share a slot, or two processes write one at the same time, is some patience and nothing else.
"""

from pathlib import Path

from fusemount.slots import Slots

_FILE_NAME = "given-up"
_MOMENT_S = 2.0
_SLOTS = 1024


class GivenUp:
    """Rows of files, each for a moment after `note`. *now* is seconds of `time.monotonic`.

    Without a *folder*, or where that cannot be written, each process knows only what it saw itself.
    """

    def __init__(self, folder: Path | None) -> None:
        self._slots = Slots(None if folder is None else folder / _FILE_NAME, _SLOTS)

    def note(self, row: int, now: float) -> None:
        self._slots.put(row, row, int((now + _MOMENT_S) * 1000))

    def has(self, row: int, now: float) -> bool:
        noted, until_ms = self._slots.get(row)
        # A time further away was written in another boot.
        return noted == row and now * 1000 < until_ms <= (now + _MOMENT_S) * 1000
