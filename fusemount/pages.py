"""Folders as the kernel reads them: page after page of packed names, cut out of longer runs packed at once."""

import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate

from fusemount import packed
from fusemount.packed import Attributes

_RUN_NAMES = 1024
_KEPT_RUNS = 16
_KEPT_FOR_S = 1.0

Entries = Sequence[tuple[bytes, Attributes, int]]
"""(name, attributes, offset to go on from), in the order of the offsets."""


class _Run:
    """Packed entries that follow offset *after*. Where there are none, the folder ends at *after*."""

    def __init__(self, after: int, entries: Entries) -> None:
        pieces = [packed.folder_entry(attributes, name, offset) for name, attributes, offset in entries]
        self.born = time.monotonic()
        self._offsets = [after, *(offset for _, _, offset in entries)]
        self._ends = [0, *accumulate(map(len, pieces))]
        self._bytes = b"".join(pieces)

    def page(self, after: int, size: int) -> bytes | None:
        """Whole entries behind offset *after*, of at most *size* bytes; None where this run does not have them."""
        index = bisect_left(self._offsets, after)
        is_inside = index < len(self._offsets) - 1 and self._offsets[index] == after
        if not is_inside:
            return None
        start = self._ends[index]
        return self._bytes[start : self._ends[bisect_right(self._ends, start + size) - 1]]


class Pages:
    """The runs that were read last, of several folders."""

    def __init__(self) -> None:
        self._runs: OrderedDict[int, _Run] = OrderedDict()

    def page(self, folder: int, after: int, size: int, read: Callable[[int], Entries]) -> bytes:
        """The names of the row *folder* behind offset *after*, in at most *size* bytes; *read* gets the next ones."""
        run = self._runs.get(folder)
        if run is not None and time.monotonic() - run.born < _KEPT_FOR_S:
            found = run.page(after, size)
            if found is not None:
                return found
        entries = read(_RUN_NAMES)
        if not entries:
            return b""
        run = self._runs[folder] = _Run(after, entries)
        self._runs.move_to_end(folder)
        while len(self._runs) > _KEPT_RUNS:
            self._runs.popitem(last=False)
        return run.page(after, size) or b""

    def forget(self, folder: int) -> None:
        """The names of the row *folder* changed."""
        self._runs.pop(folder, None)
