"""All that one decision looks at: the objects of one (namespace, name) as our local copies have them. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller import volume
from controller.identity import Identity, dataset_uid
from kube.objects import Object, is_deleting, spec_of, status_of


@dataclass(frozen=True)
class WorkerReport:
    """What one worker says about itself."""

    quota_bytes: int
    cached_bytes: int
    files: int
    total_bytes: int | None
    hits: int
    misses: int
    problems: tuple[tuple[str, str], ...] = ()
    """(name, what is wrong) of sources that do not answer it."""


@dataclass(frozen=True)
class Snapshot:
    """One dataset's world at one moment. Objects in it belong to the caches and must not be changed."""

    namespace: str
    name: str
    now: str
    """Time for conditions, RFC 3339 in UTC."""
    dataset: Object | None = None
    runtimes: tuple[Object, ...] = ()
    """Runtimes of this name, of any kind, the one to be served first."""
    rivals: tuple[Object, ...] = ()
    """Other Datasets that would get a volume of the same name, with a runtime of their own."""
    stateful_set: Object | None = None
    daemon_set: Object | None = None
    service: Object | None = None
    config_map: Object | None = None
    volume: Object | None = None
    claim: Object | None = None
    users: tuple[Object, ...] = ()
    """Pods that mount the claim."""
    workers: tuple[Object, ...] = ()
    """Pods of the worker StatefulSet."""
    fuses: tuple[Object, ...] = ()
    """Pods of the fuse DaemonSet."""
    cleanups: tuple[Object, ...] = ()
    """Pods that remove cache folders."""
    nodes: Mapping[str, Object] = field(default_factory=dict)
    reports: Mapping[str, WorkerReport] = field(default_factory=dict)
    """Reports by worker pod."""
    has_token: bool = False
    """Whether we have made sure of the runtime's Secret."""
    fresh_token: str = field(default="", repr=False)
    waited: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each step of a deletion has been waiting."""

    @property
    def runtime(self) -> Object | None:
        return self.runtimes[0] if self.runtimes else None

    @property
    def identity(self) -> Identity:
        return Identity(self.namespace, self.name, dataset_uid(self.dataset, self.runtime))

    @property
    def readers(self) -> tuple[Object, ...]:
        """Pods that use our volume and are neither done nor on their way out."""
        if self.claim is None or not volume.is_ours(self.claim):
            return ()
        return tuple(pod for pod in self.users if is_reading(pod))


def is_reading(pod: Object) -> bool:
    """Whether a pod is neither done nor on its way out."""
    return not is_finished(pod) and not is_deleting(pod)


def claims_of(pod: Object) -> list[str]:
    """Names of the claims that a pod mounts."""
    volumes = spec_of(pod).get("volumes") or []
    return [item["persistentVolumeClaim"]["claimName"] for item in volumes if item.get("persistentVolumeClaim")]


def is_finished(pod: Object) -> bool:
    """Whether all containers of a pod have ended for good."""
    return status_of(pod).get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """Whether a pod's Ready condition holds."""
    conditions = status_of(pod).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
