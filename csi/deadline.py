"""How long a call may still take: always less than its caller waits, so that the caller hears an answer."""

import time
from collections.abc import Callable

from datamodel.errors import DeadlineExceeded

LONGEST_S = 100.0
"""kubelet gives a call 120 s."""
_MARGIN_S = 5.0
_MARGIN_PART = 0.2


class Deadline:
    """A point in time; every step of a call takes what is left of it."""

    def __init__(self, budget_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + budget_s

    @classmethod
    def of_client(cls, remaining_s: float | None, clock: Callable[[], float] = time.monotonic) -> "Deadline":
        """Ours for a caller that waits *remaining_s* seconds, or for ever if None."""
        if remaining_s is None:
            return cls(LONGEST_S, clock)
        margin_s = min(_MARGIN_S, remaining_s * _MARGIN_PART)
        return cls(min(LONGEST_S, remaining_s - margin_s), clock)

    def left_s(self, at_most_s: float = LONGEST_S) -> float:
        """Seconds for the next step, *at_most_s*.

        Raises:
            DeadlineExceeded: none are left.
        """
        left_s = self._end - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded("the time for this call ran out; it may be tried again")
        return min(left_s, at_most_s)
