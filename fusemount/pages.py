"""Folders as the kernel reads them: page after page of packed names, cut out of longer runs packed at once."""

import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable

from blockcache.catalog import Name
from fusemount import packed
from fusemount.packed import Look, PackNames

_FEWEST_NAMES, _SHORTEST_ENTRY_BYTES = 256, 160
_KEPT_RUNS = 16
_KEPT_FOR_S = 1.0


class _Run:
    """The packed *names* that follow offset *after*; each one's offset is its row."""

    def __init__(self, after: int, names: list[Name], pack: PackNames, look: Look) -> None:
        self.born = time.monotonic()
        self._bytes, ends = pack(names, look)
        self._offsets = [after, *(name[0] for name in names)]
        self._ends = [0, *ends]

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

    def __init__(self, pack: PackNames, look: Look) -> None:
        self._pack, self._look = pack, look
        self._runs: OrderedDict[int, _Run] = OrderedDict()

    def page(self, folder: int, after: int, size: int, read: Callable[[int], list[Name]]) -> bytes:
        """The names of the row *folder* behind offset *after*, in at most *size* bytes; *read* gets the next ones."""
        run = self._runs.get(folder)
        if run is not None and time.monotonic() - run.born < _KEPT_FOR_S:
            found = run.page(after, size)
            if found is not None:
                return found
        # About as many as fit: another process of the mount may be asked for the next page.
        names = read(max(_FEWEST_NAMES, size // _SHORTEST_ENTRY_BYTES))
        if not names:
            return b""
        run = self._runs[folder] = _Run(after, names, self._pack, self._look)
        self._runs.move_to_end(folder)
        while len(self._runs) > _KEPT_RUNS:
            self._runs.popitem(last=False)
        return run.page(after, size) or b""

    def entry(self, name: Name) -> bytes:
        """The answer to a lookup of *name*, with which an entry of a page begins."""
        return self._pack([name], self._look)[0][: packed.ENTRY_BYTES]

    def forget(self, folder: int) -> None:
        """The names of the row *folder* changed."""
        self._runs.pop(folder, None)
