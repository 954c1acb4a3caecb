"""CacheRuntime and CacheRuntimeClass: any engine, described by data."""

# ruff: noqa: RUF012  # msgspec gives every instance its own copy of an empty default

from typing import Annotated, Literal

from msgspec import Meta, field

from datamodel.shapes import (
    Condition,
    Count,
    FreeForm,
    FreeList,
    PodMetadata,
    Quantity,
    Shape,
    Time,
    VersionSpec,
)

Zero = Annotated[int, Meta(ge=0, extra_json_schema={"format": "int32", "default": 1})]
ClientCleanPolicy = Annotated[
    Literal["OnRuntimeDeleted", "OnDemand"], Meta(extra_json_schema={"default": "OnRuntimeDeleted"})
]
Timeout = Annotated[int, Meta(ge=20, extra_json_schema={"format": "int32", "default": 20})]


class ProcessMemory(Shape, frozen=True, kw_only=True):
    quota: Quantity
    """Memory of the process used as cache."""


class EmptyDirTier(Shape, frozen=True, kw_only=True):
    quota: Quantity
    """Capacity of the level."""
    medium: Literal["", "Memory"] = ""
    """Memory keeps the level in RAM."""


class HostPathTier(Shape, frozen=True, kw_only=True):
    paths: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Folders on the node."""
    quotas: Annotated[tuple[Quantity, ...], Meta(min_length=1)]
    """Capacity of each folder."""
    type: str = ""
    """Kind of host path, e.g. DirectoryOrCreate."""


class RuntimeLevel(Shape, frozen=True, kw_only=True):
    """One level: exactly one of processMemory, emptyDir, hostPath."""

    process_memory: ProcessMemory | None = None
    """Memory of the process."""
    empty_dir: EmptyDirTier | None = None
    """A folder that goes with the pod."""
    host_path: HostPathTier | None = None
    """Folders of the node that stay when a pod restarts."""
    high: str = ""
    """Fraction of the quota at which eviction starts."""
    low: str = ""
    """Fraction of the quota at which eviction stops."""


class RuntimeTieredStore(Shape, frozen=True, kw_only=True):
    levels: tuple[RuntimeLevel, ...] = ()
    """Nearest first."""


class CacheComponent(Shape, frozen=True, kw_only=True):
    disabled: bool = False
    """Whether the component is left out."""
    runtime_version: VersionSpec = VersionSpec()
    """Image instead of the class's."""
    options: dict[str, str] = {}
    """Options of the component; they win over the runtime's."""
    pod_metadata: PodMetadata = PodMetadata()
    """Labels and annotations of the pods."""
    resources: FreeForm = {}
    """Resource requests and limits."""
    env: FreeList = ()
    """Environment variables."""
    volume_mounts: FreeList = ()
    """Mounts of the volumes in spec.volumes."""
    args: tuple[str, ...] = ()
    """Arguments of the container."""
    node_selector: dict[str, str] = {}
    """Labels that the pods' nodes must have."""
    tolerations: FreeList = ()
    """Taints that the pods accept."""


class CacheMaster(CacheComponent, frozen=True, kw_only=True):
    replicas: Zero = 1
    """Number of pods."""


class CacheWorker(CacheComponent, frozen=True, kw_only=True):
    replicas: Zero = 1
    """Number of pods."""
    tiered_store: RuntimeTieredStore = RuntimeTieredStore()
    """Storage of each worker."""


class CacheClient(CacheComponent, frozen=True, kw_only=True):
    tiered_store: RuntimeTieredStore = RuntimeTieredStore()
    """Storage of each node's client."""
    clean_policy: ClientCleanPolicy = "OnRuntimeDeleted"
    """When the client leaves a node."""


class CacheRuntimeSpec(Shape, frozen=True, kw_only=True):
    runtime_class_name: str
    """CacheRuntimeClass; `headrace` is the built-in engine and needs no object."""
    master: CacheMaster = CacheMaster()
    """Masters, where the class has any."""
    worker: CacheWorker = CacheWorker()
    """Workers."""
    client: CacheClient = CacheClient()
    """Clients on the nodes of reading pods."""
    options: dict[str, str] = {}
    """Options of all components."""
    pod_metadata: PodMetadata = PodMetadata()
    """Labels and annotations of all pods."""
    image_pull_secrets: FreeList = ()
    """Secrets for pulling images."""
    volumes: FreeList = ()
    """Volumes that components may mount."""


class ComponentStatus(Shape, frozen=True, kw_only=True):
    phase: str = ""
    """NotReady, PartialReady or Ready."""
    reason: str = ""
    """Why it is in its phase."""
    message: str = ""
    """Human-readable detail."""
    desired_replicas: Count = 0
    """Pods wanted."""
    current_replicas: Count = 0
    """Pods that exist."""
    ready_replicas: Count = 0
    """Pods that are ready."""
    available_replicas: Count = 0
    """Pods that are available."""
    unavailable_replicas: Count = 0
    """Pods that are not available."""


class CacheRuntimeStatus(Shape, frozen=True, kw_only=True):
    value_file: str = ""
    """ConfigMap with the settings of the workloads."""
    master: ComponentStatus = ComponentStatus()
    """State of the masters."""
    worker: ComponentStatus = ComponentStatus()
    """State of the workers."""
    client: ComponentStatus = ComponentStatus()
    """State of the clients."""
    setup_duration: str = ""
    """Time from creation until the runtime was first ready."""
    conditions: tuple[Condition, ...] = ()
    """Latest observations."""
    selector: str = ""
    """Label selector of the workers."""
    cache_affinity: FreeForm | None = None
    """Node affinity of the workers."""
    mount_time: Time = ""
    """When sources were last mounted."""
    phase: str = ""
    """Phase of the runtime as a whole."""


class CacheRuntime(Shape, frozen=True, kw_only=True):
    """A cache of any engine for the Dataset of the same name."""

    spec: CacheRuntimeSpec
    """Wanted state."""
    status: CacheRuntimeStatus | None = None
    """Observed state."""


class ExtraConfigMapRef(Shape, frozen=True, kw_only=True):
    name: str
    """One of the class's extra ConfigMaps."""
    mount_path: str
    """Folder it is mounted at."""


class ExtraRefs(Shape, frozen=True, kw_only=True):
    config_maps: tuple[ExtraConfigMapRef, ...] = ()
    """Extra ConfigMaps to mount."""


class SecretMount(Shape, frozen=True, kw_only=True):
    enabled: bool | None = None
    """Whether Secrets of encryptOptions are mounted."""


class Dependencies(Shape, frozen=True, kw_only=True):
    secret_mount: SecretMount | None = None
    """Mounting of Secrets."""
    extra_resources: ExtraRefs | None = None
    """Mounting of extra resources."""


class Entry(Shape, frozen=True, kw_only=True):
    command: tuple[str, ...] = ()
    """Command to run in the component's first pod."""
    timeout: Timeout = 20
    """Seconds the command may take."""


class ExecutionEntries(Shape, frozen=True, kw_only=True):
    mount_ufs: Entry | None = field(default=None, name="mountUFS")
    """Mounts the sources."""
    report_summary: Entry | None = None
    """Reports the state of the cache."""


class HeadlessService(Shape, frozen=True, kw_only=True):
    """A Service without an address of its own."""


class ComponentService(Shape, frozen=True, kw_only=True):
    headless: HeadlessService | None = None
    """Present: the component gets a headless Service."""


class ComponentDefinition(Shape, frozen=True, kw_only=True):
    options: dict[str, str] = {}
    """Default options."""
    template: FreeForm = {}
    """Pod template."""
    service: ComponentService | None = None
    """Service of the component."""
    dependencies: Dependencies | None = None
    """What the pods need mounted."""
    execution_entries: ExecutionEntries | None = None
    """Commands that the controller may run."""


class Topology(Shape, frozen=True, kw_only=True):
    master: ComponentDefinition | None = None
    """Masters."""
    worker: ComponentDefinition | None = None
    """Workers."""
    client: ComponentDefinition | None = None
    """Clients."""


class ExtraConfigMap(Shape, frozen=True, kw_only=True):
    name: str
    """Name of the ConfigMap in the runtime's namespace."""
    data: dict[str, str] = {}
    """Its content."""


class ExtraResources(Shape, frozen=True, kw_only=True):
    config_maps: tuple[ExtraConfigMap, ...] = ()
    """ConfigMaps to create."""


class DataOperation(Shape, frozen=True, kw_only=True):
    name: Literal["DataLoad", "DataBackup", "DataMigrate", "DataProcess"]
    """Kind of operation."""
    image: str = ""
    """Image of its Job."""
    command: tuple[str, ...] = ()
    """Command of its Job."""
    args: tuple[str, ...] = ()
    """Arguments of its Job."""


class CacheRuntimeClass(Shape, frozen=True, kw_only=True):
    """How one engine is run."""

    file_system_type: str
    """The engine's own name for its file system."""
    topology: Topology | None = None
    """Components of the engine."""
    extra_resources: ExtraResources | None = None
    """Further objects that the engine needs."""
    data_operation_specs: tuple[DataOperation, ...] = ()
    """Data operations that the engine supports."""
