"""Numbers of a volume, remembered for some seconds: kubelet asks once per pod, and the mount may be slow or stuck."""

import threading
import time
from collections.abc import Callable

from broker.client import VolumeStatistics
from csi.deadline import Deadline
from csi.ports import Mounts
from datamodel.errors import Conflict, DeadlineExceeded, NotFound
from datamodel.names import RuntimeKey

FRESH_S = 10.0
_ASK_S = 2.0


class StatisticsCache:
    """Asks *mounts* at most once per runtime and `FRESH_S` seconds, and never twice at once. Thread-safe."""

    def __init__(self, mounts: Mounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._mounts, self._clock = mounts, clock
        self._lock = threading.Lock()
        self._asking: dict[RuntimeKey, threading.Lock] = {}
        self._known: dict[RuntimeKey, tuple[float, VolumeStatistics]] = {}

    def get(self, key: RuntimeKey, deadline: Deadline) -> VolumeStatistics:
        """Raises Conflict when another caller waits for the same answer longer than we may."""
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        if not asking.acquire(timeout=deadline.left_s(2 * _ASK_S)):
            raise Conflict(f"runtime {key}: another call waits for its statistics; try again")
        try:
            known = self._known.get(key)
            if known is None or self._clock() - known[0] >= FRESH_S:
                known = self._known[key] = (self._clock(), self._ask(key, deadline))
            return known[1]
        finally:
            asking.release()

    def _ask(self, key: RuntimeKey, deadline: Deadline) -> VolumeStatistics:
        try:
            return self._mounts.statistics(key, deadline.left_s(_ASK_S))
        except (DeadlineExceeded, NotFound) as error:
            return VolumeStatistics(abnormal=True, message=str(error))
