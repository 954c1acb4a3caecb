"""The AlluxioRuntime, field for field as Fluid has it. Headrace serves it with its own engine.

Fields that only a JVM engine understands stay in the schema, so that manifests are accepted unchanged; the controller
names them in one event.
"""

# ruff: noqa: RUF012  # msgspec gives every instance its own copy of an empty default

from msgspec import field

from datamodel.shapes import (
    CleanPolicy,
    Condition,
    Count,
    FreeForm,
    FreeList,
    Management,
    NetworkMode,
    PodMetadata,
    Replicas,
    Shape,
    TieredStore,
    Time,
    User,
    VersionSpec,
)


class AlluxioComponent(Shape, frozen=True, kw_only=True):
    replicas: Replicas | None = None
    """Number of pods."""
    jvm_options: tuple[str, ...] = ()
    """Options of a Java process; the built-in engine has none."""
    properties: dict[str, str] = {}
    """Engine properties; the built-in engine has none."""
    ports: dict[str, int] = {}
    """Fixed ports by name; not needed by the built-in engine."""
    resources: FreeForm = {}
    """Resource requests and limits of the pods."""
    enabled: bool = False
    """Whether an optional component runs."""
    node_selector: dict[str, str] = {}
    """Labels that the pods' nodes must have."""
    network_mode: NetworkMode = ""
    """Network of the pods."""
    env: dict[str, str] = {}
    """Environment variables."""
    volume_mounts: FreeList = ()
    """Mounts of the volumes in spec.volumes."""
    pod_metadata: PodMetadata = PodMetadata()
    """Labels and annotations of the pods."""
    image_pull_secrets: FreeList = ()
    """Secrets for pulling the image."""


class AlluxioFuse(Shape, frozen=True, kw_only=True):
    image: str = ""
    """Image without a tag."""
    image_tag: str = ""
    """Tag of the image."""
    image_pull_policy: str = ""
    """Always, Never or IfNotPresent."""
    jvm_options: tuple[str, ...] = ()
    """Options of a Java process; the built-in engine has none."""
    properties: dict[str, str] = {}
    """Engine properties; the built-in engine has none."""
    env: dict[str, str] = {}
    """Environment variables."""
    resources: FreeForm = {}
    """Resource requests and limits of the pods."""
    args: tuple[str, ...] = ()
    """Arguments of the engine's own FUSE client."""
    node_selector: dict[str, str] = {}
    """Labels that the nodes of reading pods must have."""
    network_mode: NetworkMode = ""
    """Network of the pods."""
    volume_mounts: FreeList = ()
    """Mounts of the volumes in spec.volumes."""
    clean_policy: CleanPolicy = ""
    """When the fuse pod leaves a node."""
    pod_metadata: PodMetadata = PodMetadata()
    """Labels and annotations of the pods."""
    image_pull_secrets: FreeList = ()
    """Secrets for pulling the image."""


class InitUsers(Shape, frozen=True, kw_only=True):
    image: str = ""
    """Image without a tag."""
    image_tag: str = ""
    """Tag of the image."""
    image_pull_policy: str = ""
    """Always, Never or IfNotPresent."""
    env: dict[str, str] = {}
    """Environment variables."""
    resources: FreeForm = {}
    """Resource requests and limits."""


class AlluxioData(Shape, frozen=True, kw_only=True):
    replicas: Count = 0
    """Copies of each block."""
    pin: bool = False
    """Whether blocks are never evicted."""


class AlluxioRuntimeSpec(Shape, frozen=True, kw_only=True):
    alluxio_version: VersionSpec = VersionSpec()
    """Image of the engine; the built-in engine brings its own."""
    master: AlluxioComponent = AlluxioComponent()
    """Master pods; the built-in engine needs none."""
    job_master: AlluxioComponent = AlluxioComponent()
    """Job master; the built-in engine needs none."""
    worker: AlluxioComponent = AlluxioComponent()
    """Worker pods."""
    job_worker: AlluxioComponent = AlluxioComponent()
    """Job worker; the built-in engine needs none."""
    api_gateway: AlluxioComponent = field(default=AlluxioComponent(), name="apiGateway")
    """REST gateway of the engine."""
    init_users: InitUsers = InitUsers()
    """Container that creates users."""
    fuse: AlluxioFuse = AlluxioFuse()
    """Fuse pods."""
    properties: dict[str, str] = {}
    """Engine properties; the built-in engine has none."""
    jvm_options: tuple[str, ...] = ()
    """Options of all Java processes; the built-in engine has none."""
    tieredstore: TieredStore = TieredStore()
    """Storage of each worker."""
    data: AlluxioData = AlluxioData()
    """How blocks are kept."""
    replicas: Count | None = None
    """Number of workers."""
    run_as: User | None = None
    """User of the processes; the built-in engine's are always nobody."""
    disable_prometheus: bool = False
    """Whether scraping is not announced."""
    hadoop_config: str = ""
    """ConfigMap with Hadoop settings."""
    volumes: FreeList = ()
    """Volumes that components may mount."""
    pod_metadata: PodMetadata = PodMetadata()
    """Labels and annotations of all pods."""
    management: Management = Management()
    """How the runtime is looked after."""
    image_pull_secrets: FreeList = ()
    """Secrets for pulling images."""


class ApiGateway(Shape, frozen=True, kw_only=True):
    endpoint: str = ""
    """Address of the gateway."""


class ClassicRuntimeStatus(Shape, frozen=True, kw_only=True):
    value_file: str = ""
    """ConfigMap with the settings of the workloads."""
    master_phase: str = ""
    """Phase of the master."""
    master_reason: str = ""
    """Why the master is in its phase."""
    worker_phase: str = ""
    """Phase of the workers."""
    worker_reason: str = ""
    """Why the workers are in their phase."""
    desired_worker_number_scheduled: Count = 0
    """Workers wanted."""
    current_worker_number_scheduled: Count = 0
    """Workers that have a pod."""
    worker_number_ready: Count = 0
    """Workers that are ready."""
    worker_number_available: Count = 0
    """Workers that are available."""
    worker_number_unavailable: Count = 0
    """Workers that are not available."""
    desired_master_number_scheduled: Count = 0
    """Masters wanted."""
    current_master_number_scheduled: Count = 0
    """Masters that have a pod."""
    master_number_ready: Count = 0
    """Masters that are ready."""
    fuse_phase: str = ""
    """Phase of the fuse pods."""
    fuse_reason: str = ""
    """Why the fuse pods are in their phase."""
    current_fuse_number_scheduled: Count = 0
    """Nodes that run a fuse pod."""
    desired_fuse_number_scheduled: Count = 0
    """Nodes that should run a fuse pod."""
    fuse_number_ready: Count = 0
    """Fuse pods that are ready."""
    fuse_number_unavailable: Count = 0
    """Fuse pods that are not available."""
    fuse_number_available: Count = 0
    """Fuse pods that are available."""
    setup_duration: str = ""
    """Time from creation until the runtime was first ready."""
    conditions: tuple[Condition, ...] = ()
    """Latest observations."""
    cache_states: dict[str, str] = {}
    """Capacity, use and hit ratio of the cache."""
    selector: str = ""
    """Label selector of the workers, for autoscalers."""
    api_gateway: ApiGateway | None = None
    """REST gateway of the engine."""
    mount_time: Time = ""
    """When sources were last mounted."""
    mounts: FreeList = ()
    """Sources as they were last mounted."""
    cache_affinity: FreeForm | None = None
    """Node affinity of the workers."""


class AlluxioRuntime(Shape, frozen=True, kw_only=True):
    """A cache for the Dataset of the same name."""

    spec: AlluxioRuntimeSpec = AlluxioRuntimeSpec()
    """Wanted state."""
    status: ClassicRuntimeStatus | None = None
    """Observed state."""
