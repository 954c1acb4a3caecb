"""A mount broker in memory: the same promises as broker.client.BrokerControl, without a kernel."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from broker.client import MountedRuntime, VolumeStatistics
from datamodel.errors import AlreadyDifferent, Conflict, DeadlineExceeded, NotFound, PermissionRefused, Unavailable
from datamodel.names import RuntimeKey


@dataclass
class _Runtime:
    token: str
    is_served: bool = False
    binds: dict[str, tuple[str, bool, bool]] = field(default_factory=dict)


class FakeBroker:
    """Thread-safe. `calls` lists what was asked for; `is_away` makes every call fail; `gate` holds binds back."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_away = False
        self.is_serving_at_once = True
        self.statistics_answer = VolumeStatistics(total_bytes=100, used_bytes=40, available_bytes=60)
        self._lock = threading.Lock()
        self._runtimes: dict[RuntimeKey, _Runtime] = {}
        self._gate: threading.Event | None = None
        self.bind_entered = threading.Event()

    def mount(self, key: RuntimeKey, token: str, *, daemon_uid: int, deadline_s: float) -> None:
        with self._called(f"mount {key}"):
            runtime = self._runtimes.setdefault(key, _Runtime(token))
            if runtime.token != token and runtime.is_served:
                raise PermissionRefused(f"runtime {key}: mounted with another token, and in use")
            runtime.token = token
            runtime.is_served = runtime.is_served or self.is_serving_at_once

    def wait_served(self, key: RuntimeKey, deadline_s: float) -> None:
        with self._called(f"wait_served {key}"):
            if not self._of(key).is_served:
                raise DeadlineExceeded(f"runtime {key}: not served")

    def bind(
        self,
        key: RuntimeKey,
        target: str,
        *,
        sub_path: str = "",
        read_only: bool,
        no_exec: bool = False,
        deadline_s: float,
    ) -> None:
        self.bind_entered.set()
        if self._gate is not None and not self._gate.wait(deadline_s):
            raise DeadlineExceeded("the gate stayed closed")
        with self._called(f"bind {key} {target}"):
            wanted = (sub_path, read_only, no_exec)
            if self._of(key).binds.setdefault(target, wanted) != wanted:
                raise AlreadyDifferent(f"target_path: {target!r} shows something else")

    def unbind(self, target: str, deadline_s: float) -> None:
        with self._called(f"unbind {target}"):
            for runtime in self._runtimes.values():
                runtime.binds.pop(target, None)

    def unmount(self, key: RuntimeKey, deadline_s: float) -> None:
        with self._called(f"unmount {key}"):
            if key in self._runtimes and self._runtimes[key].binds:
                raise Conflict(f"runtime {key}: still bound")
            self._runtimes.pop(key, None)

    def runtimes(self, deadline_s: float) -> list[MountedRuntime]:
        with self._called(""):
            return [
                MountedRuntime(key, runtime.is_served, int(runtime.is_served), tuple(sorted(runtime.binds)))
                for key, runtime in self._runtimes.items()
            ]

    def statistics(self, key: RuntimeKey, deadline_s: float) -> VolumeStatistics:
        with self._called(f"statistics {key}"):
            self._of(key)
            return self.statistics_answer

    # ---- what tests do behind the plugin's back -----------------------------------------------------------------

    def serve(self, key: RuntimeKey, *, served: bool = True) -> None:
        with self._lock:
            self._of(key).is_served = served

    def bound(self, key: RuntimeKey) -> dict[str, tuple[str, bool, bool]]:
        """(sub path, read-only, noexec) by target."""
        with self._lock:
            return dict(self._runtimes[key].binds) if key in self._runtimes else {}

    def mounted(self) -> set[RuntimeKey]:
        with self._lock:
            return set(self._runtimes)

    def restart(self) -> None:
        """Forget everything, as a broker that was killed."""
        with self._lock:
            self._runtimes.clear()

    @contextmanager
    def binds_held(self) -> Iterator[threading.Event]:
        """Let binds wait until the event is set, at the latest at the end of the body."""
        self._gate = threading.Event()
        self.bind_entered.clear()
        try:
            yield self._gate
        finally:
            self._gate.set()

    @contextmanager
    def _called(self, call: str) -> Iterator[None]:
        if self.is_away:
            raise Unavailable("no mount broker")
        with self._lock:
            if call:
                self.calls.append(call)
            yield

    def _of(self, key: RuntimeKey) -> _Runtime:
        if key not in self._runtimes:
            raise NotFound(f"runtime {key}: not mounted on this node")
        return self._runtimes[key]
