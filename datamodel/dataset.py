"""The Dataset: where data lives and who may cache it."""

# ruff: noqa: RUF012  # msgspec gives every instance its own copy of an empty default

from typing import Annotated, Literal

from msgspec import Meta

from datamodel.shapes import EncryptOption, FreeForm, FreeList, Shape, Time, User

Phase = Literal["", "Pending", "Bound", "Failed", "NotBound", "Updating", "DataMigrating"]


class Mount(Shape, frozen=True, kw_only=True):
    mount_point: Annotated[str, Meta(min_length=5)]
    """URL of the source, e.g. https://mirror.example/data/."""
    options: dict[str, str] = {}
    """Options of the source."""
    name: str = ""
    """Name of the source, unique in the Dataset."""
    path: str = ""
    """Place inside the Dataset; /<name> when absent."""
    read_only: bool = False
    """Whether the source may only be read."""
    shared: bool = False
    """Whether other users of the engine may see this mount."""
    encrypt_options: tuple[EncryptOption, ...] = ()
    """Options whose values are kept in Secrets."""


class CacheableNodeAffinity(Shape, frozen=True, kw_only=True):
    required: FreeForm | None = None
    """Node selector that every worker's node must match."""


class BoundRuntime(Shape, frozen=True, kw_only=True):
    name: str = ""
    """Name of the runtime."""
    namespace: str = ""
    """Namespace of the runtime."""
    category: str = ""
    """Accelerate."""
    type: str = ""
    """Engine, e.g. alluxio or cache."""
    master_replicas: Annotated[int, Meta(extra_json_schema={"format": "int32"})] | None = None
    """Number of masters."""


class RestoreLocation(Shape, frozen=True, kw_only=True):
    path: str = ""
    """local://<folder> or pvc://<claim>/<folder> of a metadata backup."""
    node_name: str = ""
    """Node of a local:// backup."""


class DatasetSpec(Shape, frozen=True, kw_only=True):
    mounts: Annotated[tuple[Mount, ...], Meta(min_length=1)] | None = None
    """Sources, shown side by side."""
    owner: User | None = None
    """User and group that own the files in pods."""
    node_affinity: CacheableNodeAffinity | None = None
    """Nodes that may hold workers."""
    tolerations: FreeList = ()
    """Taints that workers accept."""
    access_modes: tuple[str, ...] = ()
    """Access modes of the volume; ReadOnlyMany when absent."""
    runtimes: tuple[BoundRuntime, ...] = ()
    """Runtimes to bind to."""
    placement: Literal["Exclusive", "", "Shared"] = ""
    """Whether workers of several Datasets may share a node; Exclusive when absent."""
    data_restore_location: RestoreLocation | None = None
    """Metadata backup to start from."""
    shared_options: dict[str, str] = {}
    """Options of every mount; a mount's own win."""
    shared_encrypt_options: tuple[EncryptOption, ...] = ()
    """Options of every mount whose values are kept in Secrets."""


class DatasetCondition(Shape, frozen=True, kw_only=True):
    type: str
    """Ready, NotReady, Updating and others."""
    status: str
    """True, False or Unknown."""
    reason: str = ""
    """Machine-readable cause."""
    message: str = ""
    """Human-readable detail."""
    last_update_time: Time = ""
    """When it last changed in any way."""
    last_transition_time: Time = ""
    """When its status last changed."""


class Hcfs(Shape, frozen=True, kw_only=True):
    endpoint: str = ""
    """Address for Hadoop clients."""
    underlayer_file_system_version: str = ""
    """Hadoop version of the source."""


class DatasetStatus(Shape, frozen=True, kw_only=True):
    mounts: Annotated[tuple[Mount, ...], Meta(min_length=1)] | None = None
    """Sources as they are served."""
    ufs_total: str = ""
    """Size of all sources."""
    phase: Phase = ""
    """Whether the Dataset is bound to a runtime."""
    runtimes: tuple[BoundRuntime, ...] = ()
    """Runtimes it is bound to."""
    conditions: tuple[DatasetCondition, ...]
    """Latest observations."""
    cache_states: dict[str, str] = {}
    """Capacity, use and hit ratio of the cache."""
    hcfs: Hcfs | None = None
    """Access for Hadoop clients."""
    file_num: str = ""
    """Number of files at the sources."""
    data_load_ref: str = ""
    """No longer used."""
    data_backup_ref: str = ""
    """No longer used."""
    operation_ref: dict[str, str] = {}
    """Operations under way, by kind."""
    dataset_ref: tuple[str, ...] = ()
    """Datasets that refer to this one, as <namespace>/<name>."""


class Dataset(Shape, frozen=True, kw_only=True):
    """A collection of files at remote sources that pods read through a cache."""

    spec: DatasetSpec = DatasetSpec()
    """Wanted state."""
    status: DatasetStatus | None = None
    """Observed state."""
