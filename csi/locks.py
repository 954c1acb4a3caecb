"""Locks by name that never wait: whoever finds one taken gets Conflict (gRPC ABORTED) and tries again later."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from datamodel.errors import Conflict

_EXCLUSIVE = -1


class TryLocks:
    """Exclusive and shared holds on names. All names of a call are taken together or none is, so nothing deadlocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[str, int] = {}

    @contextlib.contextmanager
    def held(self, *, exclusive: Sequence[str] = (), shared: Sequence[str] = ()) -> Iterator[None]:
        """Hold all the names for the body.

        Raises:
            Conflict: one is held by another call in a way that excludes ours.
        """
        self._take(exclusive, shared)
        try:
            yield
        finally:
            self._give_back(exclusive, shared)

    def _take(self, exclusive: Sequence[str], shared: Sequence[str]) -> None:
        with self._lock:
            busy = [name for name in exclusive if name in self._holders]
            busy += [name for name in shared if self._holders.get(name) == _EXCLUSIVE]
            if busy:
                raise Conflict(f"{busy[0]}: another operation is in flight; try again")
            for name in exclusive:
                self._holders[name] = _EXCLUSIVE
            for name in shared:
                self._holders[name] = self._holders.get(name, 0) + 1

    def _give_back(self, exclusive: Sequence[str], shared: Sequence[str]) -> None:
        with self._lock:
            for name in exclusive:
                del self._holders[name]
            for name in shared:
                self._holders[name] -= 1
                if not self._holders[name]:
                    del self._holders[name]
