"""The keeper: the one process of a cache that makes room and puts in order what killed ones left behind.

Whoever holds `keeper.lock` is it; the kernel passes the lock on when its holder dies. Blocking; called in a thread.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blockcache.catalog import Catalog, Node, Use
from blockcache.demote import copy_down
from blockcache.place import Place
from blockcache.sparsefile import remove
from blockcache.sweep import sweep
from blockcache.tiers import Tiers
from obs import logs
from obs.metrics import DEMOTED_BYTES, EVICTED_BYTES

log = logs.get("blockcache")

_BATCH_FILES, _BATCH_BYTES = 256, 1 << 30
_SWEEP_PERIOD_S = 60.0
_RECOUNTS = 5


@dataclass(frozen=True, slots=True)
class Gone:
    """A cache file that left its tier. *incarnation* is what it had until then, None where there is no row.

    An orphan's row is gone too, so that the cache file will not be made again.
    """

    id: int
    incarnation: int | None
    is_orphan: bool = False


class Keeper:
    """*on_complete* hears of each file that is complete in another tier now. One thread at a time."""

    def __init__(self, tiers: Tiers, catalog: Catalog, on_complete: Callable[[Node], None]) -> None:
        self._tiers, self._catalog, self._on_complete = tiers, catalog, on_complete
        self._fd = os.open(tiers.folder / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.is_keeper = False
        self._swept = -_SWEEP_PERIOD_S
        self._gone: list[Gone] = []
        self._is_short = False
        self._sinking: set[int] = set()  # tiers on their way from the high watermark to the low one

    def keeps(self) -> bool:
        """Whether it is this process that makes room. The first time it is, what was left behind is put in order."""
        if not self.is_keeper:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.is_keeper = True
            self._set_right()
        return True

    def close(self) -> None:
        os.close(self._fd)

    # ---- what has to go ------------------------------------------------------------------------------------------

    def take_orphans(self) -> list[Gone]:
        """Remove what is cached of files whose rows went."""
        self._remove_orphans()
        gone, self._gone = self._gone, []
        return gone

    def _remove_orphans(self) -> bool:
        orphans = self._catalog.take_orphans()
        for id, incarnation in orphans:
            self._remove(id)
            self._gone.append(Gone(id, incarnation, is_orphan=True))
        return bool(orphans)

    def relieve(self) -> list[Gone]:
        """A batch of what is to go from tiers above their high watermark, gone; empty when there is room everywhere.

        The last tier comes first, so that the others can hand down what they have no room for.
        """
        for place in reversed(self._tiers.places):
            if place.is_pressed:
                self._sinking.add(place.index)
            if place.index in self._sinking:
                if gone := self._relieve(place):
                    return gone
                self._sinking.remove(place.index)
        return []

    def _relieve(self, place: Place) -> list[Gone]:
        """The least recently used files, until the tier is at its low watermark or a batch is full."""
        budget, ids = min(_BATCH_BYTES, place.excess_bytes), []
        for id, size in self._catalog.least_used(place.index, _BATCH_FILES):
            if budget <= 0:
                break
            budget -= size
            ids.append(id)
        below = self._tiers.places[place.index + 1 : place.index + 2]
        gone = [self._demote(id, place, below[0]) for id in ids] if below else self.evict(ids)
        if gone:
            log.info("tier.relieved", path=place.tier.path, files=len(gone), used_bytes=place.usage.used)
        return gone

    def evict(self, ids: Sequence[int]) -> list[Gone]:
        """Remove what is cached of *ids*."""
        try:
            # The rows first, so that nobody is led to a file that is gone.
            incarnations = self._catalog.note_all_evicted(ids)
            self._remove_all(ids)
        except sqlite3.OperationalError:
            # The disk is full: without files that go, there will never be room for rows that tell so.
            self._remove_all(ids)
            incarnations = self._catalog.note_all_evicted(ids)
        return [Gone(id, incarnations.get(id)) for id in ids]

    def _remove_all(self, ids: Sequence[int]) -> None:
        for id in ids:
            EVICTED_BYTES.inc(self._remove(id))

    def _demote(self, id: int, near: Place, far: Place) -> Gone:
        node = self._catalog.get(id)
        copy = copy_down(node, near, far) if node is not None and node.version else None
        if node is None or copy is None:
            return self.evict([id])[0]
        size = copy.cached_bytes()
        self._catalog.note_use([Use(id, size, 0.0, far.index)])
        self._catalog.turn(id, passthrough=False)
        self._tiers.forget(id)
        near.usage.free(remove(near.stem(id)))
        DEMOTED_BYTES.inc(size)
        if copy.is_complete:
            self._on_complete(node)
        return Gone(id, node.incarnation)

    def _remove(self, id: int) -> int:
        self._tiers.forget(id)
        total = 0
        for place in self._tiers.places:
            count = remove(place.stem(id))
            if count:
                place.usage.free(count)
            total += count
        return total

    # ---- keeping count -------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Put the counts right; now and then, also by looking for what a process left behind that died.

        And see to it that names have room on a disk that will be full.
        """
        is_due = time.monotonic() - self._swept >= _SWEEP_PERIOD_S
        if is_due and any(place.usage.leftovers() for place in self._tiers.places):
            self._set_right()
        else:
            self._recount({})
        try:
            self._catalog.reserve()
            self._is_short = False
        except sqlite3.OperationalError as error:
            if not self._is_short:
                log.warning("catalog.short_of_room", error=str(error))
            self._is_short = True

    def _set_right(self) -> None:
        """Sweep where that may find something, then count."""
        known = self._catalog.cached_by_tier()
        swept: dict[int, dict[int, int]] = {}
        for place in self._tiers.places:
            leftovers = place.usage.leftovers()
            is_counted = place.usage.is_compared and known.get(place.index, 0) == place.usage.used
            if leftovers or not (is_counted and self._tiers.session.is_continued):
                sweep(place, self._tiers.places, self._catalog)
                place.usage.note_compared()
                swept[place.index] = leftovers
        self._swept = time.monotonic()
        self._recount(swept)

    def _recount(self, swept: dict[int, dict[int, int]]) -> None:
        """Only this process evicts, which is what makes the sum of the rows comparable with a count taken before."""
        for _ in range(_RECOUNTS):
            self._remove_orphans()
            places = self._tiers.places
            finishes = [place.usage.begin_recount(swept.get(place.index, {})) for place in places]
            known = self._catalog.cached_by_tier()
            if self._remove_orphans():
                continue  # rows went in between, whose files are still in the count
            for place, finish in zip(places, finishes, strict=True):
                finish(known.get(place.index, 0))
            return
