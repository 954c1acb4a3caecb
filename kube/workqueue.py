"""A queue of keys for level-triggered workers, with the semantics of client-go's.

Invariants, under one lock: a key is queued at most once; a key being worked on is never handed to a second worker, and
if it is added meanwhile it is queued again when the first is done. Failures delay a key exponentially, each key for
itself. The clock is passed in, so tests need no waiting.
"""

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY_S = 0.02
LONGEST_DELAY_S = 120.0


class WorkQueue(Generic[K]):
    """Keys to reconcile. Thread-safe."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_delay_s: float = FIRST_DELAY_S,
        longest_delay_s: float = LONGEST_DELAY_S,
    ) -> None:
        self._clock = clock
        self._first_delay_s = first_delay_s
        self._longest_delay_s = longest_delay_s
        self._changed = threading.Condition()
        self._queued: OrderedDict[K, None] = OrderedDict()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._serial = 0
        self._closed = False

    def add(self, key: K) -> None:
        """Queue *key*, now."""
        with self._changed:
            self._add(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Queue *key* in *delay_s*; an earlier time already set for it stands."""
        if delay_s <= 0:
            self.add(key)
            return
        with self._changed:
            due = self._clock() + delay_s
            if self._closed or self._due.get(key, due + 1) <= due:
                return
            self._due[key] = due
            self._serial += 1
            heapq.heappush(self._timers, (due, self._serial, key))
            self._changed.notify()

    def add_failed(self, key: K, at_least_s: float = 0.0) -> float:
        """Queue *key* after its back-off, which doubles with each failure in a row; returns the delay."""
        with self._changed:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
        backoff_s = min(self._longest_delay_s, self._first_delay_s * float(2 ** min(failures, 40)))
        delay_s = max(at_least_s, backoff_s)
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: K) -> None:
        """*key* succeeded: its next failure starts with the shortest delay again."""
        with self._changed:
            self._failures.pop(key, None)

    def get(self, timeout_s: float | None = None) -> K | None:
        """The next key, which stays with the caller until `done`; None once closed, or when *timeout_s* is over."""
        end = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            while True:
                now = self._clock()
                self._release_due(now)
                if self._closed:
                    return None
                if self._queued:
                    key, _ = self._queued.popitem(last=False)
                    self._working.add(key)
                    return key
                if end is not None and now >= end:
                    return None
                ends = [moment for moment in (end, self._timers[0][0] if self._timers else None) if moment is not None]
                self._changed.wait(min(ends) - now if ends else None)

    def done(self, key: K) -> None:
        """The caller is through with *key*."""
        with self._changed:
            self._working.discard(key)
            if key in self._again:
                self._again.discard(key)
                self._add(key)

    def close(self) -> None:
        """Wake every `get` with None; keys still queued are dropped, for the next start lists all objects anyway."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._queued) + len(self._again)

    def _add(self, key: K) -> None:
        if self._closed:
            return
        if key in self._working:
            self._again.add(key)
            return
        if key not in self._queued:
            self._queued[key] = None
            self._changed.notify()

    def _release_due(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)
