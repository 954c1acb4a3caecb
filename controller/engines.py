"""What a runtime asks for, in words of our own, whichever kind of object said it. Values only."""

from dataclasses import dataclass, field
from typing import Any

from datamodel.names import RuntimeKey, RuntimePaths
from kube.resources import ALLUXIO_RUNTIMES, CACHE_RUNTIMES, Resource

WORKER_PORT = 29600
WORKER_HEALTH_PORT = 29601
FUSE_HEALTH_PORT = 29602
DEFAULT_TIER_BYTES = 2 << 30
DEFAULT_CLIENT_TIER_BYTES = 10 << 30

MEMORY = "MEM"


@dataclass(frozen=True)
class Engine:
    """Names that differ between kinds of runtime; `{}` stands for the runtime's name."""

    resource: Resource
    type: str
    mount_type: str
    finalizer: str
    config_map: str
    service: str
    fuse: str

    @property
    def kind(self) -> str:
        return self.resource.kind


ALLUXIO = Engine(
    ALLUXIO_RUNTIMES,
    type="alluxio",
    mount_type="fuse.alluxio-fuse",
    finalizer="alluxio-runtime-controller-finalizer",
    config_map="{}-config",
    service="{}-worker",
    fuse="{}-fuse",
)
CACHE = Engine(
    CACHE_RUNTIMES,
    type="cache",
    mount_type="cache",
    finalizer="cache-runtime-controller-finalizer",
    config_map="fluid-runtime-config-{}",
    service="svc-{}-worker",
    fuse="{}-client",
)
ENGINES = {engine.kind: engine for engine in (ALLUXIO, CACHE)}


@dataclass(frozen=True)
class Tier:
    """One folder of a cache. *host_path* is the user's folder on the node; empty: it goes with the pod."""

    medium: str
    quota_bytes: int
    high: float = 0.95
    low: float = 0.7
    host_path: str = ""


@dataclass(frozen=True)
class Component:
    """What users may set for the worker or the fuse pods."""

    replicas: int = 1
    image: str = ""
    pull_policy: str = ""
    resources: dict[str, Any] = field(default_factory=dict)
    env: tuple[dict[str, Any], ...] = ()
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    volume_mounts: tuple[dict[str, Any], ...] = ()
    pull_secrets: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class RuntimeSpec:
    """One runtime, normalised. *ignored* are the fields it set that this engine does not understand."""

    engine: Engine
    namespace: str
    name: str
    worker: Component
    client: Component
    tiers: tuple[Tier, ...]
    client_tiers: tuple[Tier, ...] = ()
    clean_policy: str = ""
    volumes: tuple[dict[str, Any], ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def config_map(self) -> str:
        return self.engine.config_map.format(self.name)

    @property
    def service(self) -> str:
        return self.engine.service.format(self.name)

    @property
    def worker_set(self) -> str:
        return f"{self.name}-worker"

    @property
    def fuse_set(self) -> str:
        return self.engine.fuse.format(self.name)

    @property
    def secret(self) -> str:
        return token_secret(self.name)

    @property
    def capacity_bytes(self) -> int:
        """Cache of one worker."""
        return sum(tier.quota_bytes for tier in self.tiers)

    @property
    def memory_bytes(self) -> int:
        """The part of it that is memory."""
        return sum(tier.quota_bytes for tier in self.tiers if tier.medium == MEMORY)

    @property
    def host_folders(self) -> tuple[str, ...]:
        """Users' folders on nodes in which workers keep files."""
        return tuple(sorted({tier.host_path for tier in self.tiers if tier.host_path}))

    def paths(self, root: str) -> RuntimePaths:
        """Folders of this runtime on each node."""
        return RuntimePaths.of(RuntimeKey(self.engine.type, self.namespace, self.name), root)


def token_secret(name: str) -> str:
    """Name of the Secret with the runtime's token."""
    return f"{name}-headrace-token"
