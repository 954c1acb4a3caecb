"""What one process has used and stored since it last told the catalog."""

import threading
from collections.abc import Sequence

from blockcache.cachefile import CacheFile
from blockcache.catalog import Catalog, Use
from blockcache.place import Place


class Ledger:
    """Thread-safe."""

    def __init__(self, catalog: Catalog, places: Sequence[Place]) -> None:
        self._catalog, self._places = catalog, places
        self._mutex = threading.Lock()
        self._flushing = threading.Lock()
        self._uses: dict[int, float] = {}
        self._grown: dict[int, CacheFile] = {}
        self._counts = [0] * len(places)

    def note_use(self, id: int, now: float) -> None:
        self._uses[id] = now

    def note_stored(self, id: int, file: CacheFile, count: int) -> tuple[int, int]:
        """*count* bytes that were reserved are in *file* now, which is held open until `flush`.

        How many bytes in that tier, and how many files, the catalog does not know of by now.
        """
        with self._mutex:
            self._grown[id] = file
            self._counts[file.tier] += count
            return self._counts[file.tier], len(self._grown)

    def forget(self, id: int) -> None:
        """Say no more of *id*: it is evicted."""
        with self._mutex:
            self._uses.pop(id, None)
            self._grown.pop(id, None)

    def flush(self) -> None:
        """Tell the catalog.

        Raises:
            sqlite3.Error: it cannot be told now; nothing is forgotten.
        """
        with self._flushing:
            with self._mutex:
                counts, self._counts = self._counts, [0] * len(self._places)
                grown, self._grown = self._grown, {}
                uses, self._uses = self._uses, {}
            try:
                if uses or grown:
                    # Sizes are measured in the transaction. Else a process that measured before another one stored,
                    # but told after that one had told, would have the last word.
                    self._catalog.note_use(
                        [Use(id, None, used_at) for id, used_at in uses.items()], lambda: _measure(grown)
                    )
            except BaseException:
                with self._mutex:
                    self._counts = [old + new for old, new in zip(counts, self._counts, strict=True)]
                    self._grown, self._uses = grown | self._grown, uses | self._uses
                raise
        for place, count in zip(self._places, counts, strict=True):
            place.usage.settle(count)


def _measure(grown: dict[int, CacheFile]) -> list[Use]:
    return [Use(id, file.cached_bytes(), 0.0, file.tier) for id, file in grown.items() if not file.is_evicted]
