"""What one process has used and stored since it last told the catalog."""

import threading
from collections.abc import Sequence

from blockcache.cachefile import CacheFile
from blockcache.catalog import Catalog, Use
from blockcache.place import Place


class Ledger:
    """Thread-safe. *most_files* limits how many cache files it holds open until it has asked them for their size."""

    def __init__(self, catalog: Catalog, places: Sequence[Place], most_files: int) -> None:
        self._catalog, self._places, self._most_files = catalog, places, most_files
        self._mutex = threading.Lock()
        self._flushing = threading.Lock()
        self._uses: dict[int, float] = {}
        self._grown: dict[int, tuple[CacheFile, Place]] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._counts = [0] * len(places)

    def note_use(self, id: int, now: float) -> None:
        self._uses[id] = now

    def note_stored(self, id: int, file: CacheFile, place: Place, count: int) -> int:
        """*count* bytes that were reserved in *place* are in *file* now; how many there the catalog does not know."""
        with self._mutex:
            self._grown[id] = file, place
            self._counts[place.index] += count
            unknown, is_much = self._counts[place.index], len(self._grown) > self._most_files
        if is_much:
            self._measure()
        return unknown

    def forget(self, id: int) -> None:
        """Say no more of *id*: it is evicted."""
        with self._mutex:
            for memory in (self._uses, self._grown, self._sizes):
                memory.pop(id, None)

    def flush(self) -> None:
        """Tell the catalog.

        Raises:
            sqlite3.Error: it cannot be told now; nothing is forgotten.
        """
        with self._flushing:
            with self._mutex:
                counts, self._counts = self._counts, [0] * len(self._places)
            self._measure()
            with self._mutex:
                uses, self._uses = self._uses, {}
                sizes, self._sizes = self._sizes, {}
            try:
                if uses or sizes:
                    self._catalog.note_use(_as_uses(uses, sizes))
            except BaseException:
                self._put_back(uses, sizes, counts)
                raise
        for place, count in zip(self._places, counts, strict=True):
            place.usage.settle(count)

    def _measure(self) -> None:
        """Ask what has grown for its size, and let go of it."""
        with self._mutex:
            grown, self._grown = self._grown, {}
        sizes = {id: (file.cached_bytes(), place.index) for id, (file, place) in grown.items() if not file.is_evicted}
        with self._mutex:
            self._sizes.update(sizes)

    def _put_back(self, uses: dict[int, float], sizes: dict[int, tuple[int, int]], counts: list[int]) -> None:
        with self._mutex:
            self._uses = uses | self._uses
            self._sizes = sizes | self._sizes
            self._counts = [old + new for old, new in zip(counts, self._counts, strict=True)]


def _as_uses(uses: dict[int, float], sizes: dict[int, tuple[int, int]]) -> list[Use]:
    unchanged = (None, 0)
    return [
        Use(id, size, uses.get(id, 0.0), tier)
        for id in uses.keys() | sizes.keys()
        for size, tier in [sizes.get(id, unchanged)]
    ]
