"""What the controller is told at start. Parsed once by the command, passed down, never read again."""

from dataclasses import dataclass

from datamodel.names import RUNTIME_ROOT


@dataclass(frozen=True)
class Settings:
    """Every option of the controller."""

    namespace: str
    """Namespace of the controller itself, where the pods that clean nodes run."""
    image: str
    """Image of worker, fuse and cleanup pods."""
    pull_policy: str = "IfNotPresent"
    """Its imagePullPolicy."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets for pulling it, in the namespace of each runtime."""
    runtime_root: str = RUNTIME_ROOT
    """Folder on every node under which the broker mounts."""
    critical_fuse: bool = True
    """Whether fuse pods have priority system-node-critical; off where a quota forbids it."""
    report_period_s: float = 10.0
    """How often workers are asked what they hold."""
    resync_s: float = 600.0
    """How often every object is looked at again, in case an event was lost."""
    drain_limit_s: float = 30.0
    """How long deletion waits for worker and fuse pods to end, e.g. on a node that is gone."""
    cleanup_limit_s: float = 60.0
    """How long deletion waits for the removal of cache folders on nodes."""
