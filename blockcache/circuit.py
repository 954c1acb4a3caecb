"""Leaves a source alone for a moment after it failed several times in a row, so that nobody waits for its time-outs."""

import threading
import time

from datamodel.errors import Unavailable

_FAILURES = 3
_FIRST_S, _LAST_S = 0.5, 5.0
_PROBE_S = 5.0


class Circuit:
    """Open after three failures; then one caller in a while may try, and its success closes it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._problem = ""
        self._open_until = 0.0

    def check(self) -> None:
        """To be called before asking.

        Raises:
            Unavailable: it was away a moment ago; `retry_after_s` says when it may be asked again.
        """
        with self._lock:
            if self._failures < _FAILURES:
                return
            now = time.monotonic()
            if now < self._open_until:
                wait_s = self._open_until - now
                raise Unavailable(f"{self._problem} (asked again in {wait_s:.1f} s)", wait_s)
            self._open_until = now + _PROBE_S  # the others wait for what this one learns

    def note_success(self) -> None:
        if self._failures:
            with self._lock:
                self._failures = 0

    def note_failure(self, problem: str) -> None:
        with self._lock:
            self._problem = problem
            self._failures += 1
            rounds = self._failures - _FAILURES
            if rounds >= 0:
                self._open_until = time.monotonic() + min(_LAST_S, _FIRST_S * 2**rounds)
