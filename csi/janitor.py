"""Takes away the mounts of runtimes that left the node: level-triggered, so a missed event only delays it.

A runtime has left when nothing has it staged or bound any more and its node label is gone, which the controller
removes with the runtime. With the clean policy OnDemand we remove the label ourselves.
"""

import enum
import threading
from dataclasses import dataclass
from pathlib import Path

from csi.locks import TryLocks
from csi.ports import Broker, DaemonStarter, NodeLabels
from csi.records import Records, RuntimeRecord
from csi.values import CleanPolicy
from csi.volumes import lock_of_runtime
from datamodel.errors import HeadraceError
from datamodel.names import RuntimeKey
from obs import logs

log = logs.get("csi")

CALL_S = 10.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0


class Action(enum.Enum):
    """What to do about one runtime."""

    KEEP = "keep"
    RELEASE = "release"
    RELEASE_WITH_LABEL = "release with label"


@dataclass(frozen=True, slots=True)
class Situation:
    """All that counts for one runtime."""

    record: RuntimeRecord
    has_label: bool
    is_bound: bool
    lost_volumes: frozenset[str] = frozenset()
    """Staged volumes whose staging folder kubelet has removed, which it does only after an unstage."""


def decide(situation: Situation) -> Action:
    """Release what nobody uses, once its label is gone or its policy says on demand."""
    record = situation.record
    if situation.is_bound:
        return Action.KEEP
    if not situation.has_label:
        return Action.KEEP if record.staged.keys() - situation.lost_volumes else Action.RELEASE
    if record.clean_policy is CleanPolicy.ON_DEMAND and not record.staged:
        return Action.RELEASE_WITH_LABEL
    return Action.KEEP


class Janitor:
    """Looks at every recorded runtime when woken, and each *resync_s* seconds, from `start()` to `close()`."""

    def __init__(
        self,
        broker: Broker,
        labels: NodeLabels,
        daemons: DaemonStarter,
        records: Records,
        locks: TryLocks,
        *,
        kubelet_dir: Path,
        resync_s: float,
    ) -> None:
        self._broker, self._labels, self._daemons = broker, labels, daemons
        self._records, self._locks = records, locks
        self._plugins_dir = kubelet_dir / "plugins"
        self._resync_s = resync_s
        self._woken = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look soon; never waits."""
        self._woken.set()

    def close(self) -> None:
        self._closing = True
        self._woken.set()
        self._thread.join()

    def sweep(self) -> None:
        """Look at every runtime once; one that is busy, or fails, does not keep the others from it.

        Raises:
            HeadraceError: the first failure.
        """
        candidates = [record for record in self._records.all() if not self._is_in_use(record)]
        if not candidates:
            return
        present = self._labels.present()
        failures = []
        for record in candidates:
            if record.label_key in present and record.clean_policy is not CleanPolicy.ON_DEMAND:
                continue
            try:
                with self._locks.held(exclusive=[lock_of_runtime(record.runtime)]):
                    self._settle(record.runtime)
            except HeadraceError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closing:
            try:
                self.sweep()
                pause_s, wait_s = FIRST_PAUSE_S, self._resync_s
            except HeadraceError as error:
                log.warning("sweep.failed", error=str(error), pause_s=pause_s)
                pause_s, wait_s = min(LONGEST_PAUSE_S, pause_s * 2), pause_s
            self._woken.wait(wait_s)
            self._woken.clear()

    def _settle(self, key: RuntimeKey) -> None:
        """Decide on fresh facts: the runtime's lock keeps stage and publish away from here on."""
        record = self._records.get(key)
        if record is None:
            return
        bound = {runtime.key for runtime in self._broker.runtimes(CALL_S) if runtime.binds}
        has_label = record.label_key in self._labels.present()
        action = decide(Situation(record, has_label, key in bound, self._lost_volumes(record)))
        if action is Action.KEEP:
            return
        if action is Action.RELEASE_WITH_LABEL:
            self._labels.remove(record.label_key)
        self._daemons.stop(key)
        self._broker.unmount(key, CALL_S)
        self._records.remove(key)
        log.info("runtime.released", runtime=str(key), policy=record.clean_policy.value)

    def _is_in_use(self, record: RuntimeRecord) -> bool:
        return bool(record.staged.keys() - self._lost_volumes(record))

    def _lost_volumes(self, record: RuntimeRecord) -> frozenset[str]:
        if not self._plugins_dir.is_dir():
            return frozenset()  # kubelet's folder cannot be seen from here, so its absence says nothing
        return frozenset(name for name, item in record.staged.items() if not Path(item.staging_path).exists())
