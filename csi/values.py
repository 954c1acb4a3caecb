"""What the core works with: requests that passed every check, as frozen values. Secrets have no repr."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from datamodel.names import RuntimeKey


class AccessMode(enum.Enum):
    """CSI's access modes, by their numbers on the wire."""

    SINGLE_NODE_WRITER = 1
    SINGLE_NODE_READER_ONLY = 2
    MULTI_NODE_READER_ONLY = 3
    MULTI_NODE_SINGLE_WRITER = 4
    MULTI_NODE_MULTI_WRITER = 5
    SINGLE_NODE_SINGLE_WRITER = 6
    SINGLE_NODE_MULTI_WRITER = 7

    @property
    def is_read_only(self) -> bool:
        return self in (AccessMode.SINGLE_NODE_READER_ONLY, AccessMode.MULTI_NODE_READER_ONLY)


class CleanPolicy(enum.Enum):
    """When the mount of a runtime leaves the node, as Fluid names it."""

    ON_RUNTIME_DELETED = "OnRuntimeDeleted"
    ON_FUSE_CHANGED = "OnFuseChanged"
    ON_DEMAND = "OnDemand"


@dataclass(frozen=True, slots=True)
class Capability:
    """How a volume is to be used."""

    mode: AccessMode
    fs_type: str = ""
    mount_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumeSource:
    """What the volume context says: which runtime, which label, which part of it."""

    key: RuntimeKey
    label_key: str
    sub_path: str = ""
    clean_policy: CleanPolicy = CleanPolicy.ON_RUNTIME_DELETED


@dataclass(frozen=True, slots=True)
class StageRequest:
    volume: str
    staging_path: str
    capability: Capability
    source: VolumeSource
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class UnstageRequest:
    volume: str
    staging_path: str


@dataclass(frozen=True, slots=True)
class PublishRequest:
    volume: str
    staging_path: str
    target: str
    capability: Capability
    source: VolumeSource
    read_only: bool
    no_exec: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class UnpublishRequest:
    volume: str
    target: str


@dataclass(frozen=True, slots=True)
class StatisticsRequest:
    volume: str
    path: str
