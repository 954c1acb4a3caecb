"""Pieces that several custom resources share. Field docs here become the descriptions in the CRDs.

The structs are lenient on purpose: unknown fields are ignored, so an object written for a newer schema still decodes.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

FreeForm = Annotated[dict[str, Any], Meta(extra_json_schema={"x-kubernetes-preserve-unknown-fields": True})]
"""An object of the Kubernetes API that is passed on as it is: resources, affinity, pod templates."""
FreeList = tuple[FreeForm, ...]
Quantity = Annotated[
    int | str,
    Meta(
        extra_json_schema={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
        }
    ),
]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Replicas = Annotated[int, Meta(ge=1, extra_json_schema={"format": "int32"})]
Count = Annotated[int, Meta(extra_json_schema={"format": "int32"})]
NetworkMode = Literal["HostNetwork", "", "ContainerNetwork"]
CleanPolicy = Literal["", "OnDemand", "OnRuntimeDeleted", "OnFuseChanged"]


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of everything below: camelCase on the wire."""


class SecretKey(Shape, frozen=True, kw_only=True):
    name: str
    """Name of a Secret in the namespace of the Dataset."""
    key: str = ""
    """Key in the Secret."""


class SecretSource(Shape, frozen=True, kw_only=True):
    secret_key_ref: SecretKey | None = None
    """The Secret and key that hold the value."""


class EncryptOption(Shape, frozen=True, kw_only=True):
    name: str
    """Name of the option."""
    value_from: SecretSource | None = None
    """Where its value is kept."""


class User(Shape, frozen=True, kw_only=True):
    uid: Annotated[int, Meta(extra_json_schema={"format": "int64"})]
    """Numeric user."""
    gid: Annotated[int, Meta(extra_json_schema={"format": "int64"})]
    """Numeric group."""
    user: str
    """Name of the user."""
    group: str
    """Name of the group."""


class VersionSpec(Shape, frozen=True, kw_only=True):
    image: str = ""
    """Image without a tag."""
    image_tag: str = ""
    """Tag of the image."""
    image_pull_policy: str = ""
    """Always, Never or IfNotPresent."""


class PodMetadata(Shape, frozen=True, kw_only=True):
    labels: dict[str, str] = {}
    """Added to the labels of the pods."""
    annotations: dict[str, str] = {}
    """Added to the annotations of the pods."""


class Level(Shape, frozen=True, kw_only=True):
    mediumtype: Literal["MEM", "SSD", "HDD"]
    """Medium; memory is counted into the worker's memory request."""
    volume_type: Annotated[Literal["hostPath", "emptyDir"], Meta(extra_json_schema={"default": "hostPath"})] = (
        "hostPath"
    )
    """hostPath keeps the cache when a worker restarts; emptyDir goes with the pod."""
    volume_source: FreeForm = {}
    """Settings of the volume, e.g. the medium of an emptyDir."""
    path: Annotated[str, Meta(min_length=1)] = ""
    """Folders on the node, separated by commas."""
    quota: Quantity | None = None
    """Capacity of the level, shared evenly by its folders."""
    quota_list: str = ""
    """Capacity of each folder, separated by commas; wins over quota."""
    high: str = ""
    """Fraction of the quota at which eviction starts, e.g. 0.95."""
    low: str = ""
    """Fraction of the quota at which eviction stops, e.g. 0.7."""


class TieredStore(Shape, frozen=True, kw_only=True):
    levels: tuple[Level, ...] = ()
    """Nearest first."""


class CleanCachePolicy(Shape, frozen=True, kw_only=True):
    grace_period_seconds: Annotated[int, Meta(extra_json_schema={"format": "int32", "default": 60})] = 60
    """Time allowed for freeing the cache."""
    max_retry_attempts: Annotated[int, Meta(extra_json_schema={"format": "int32", "default": 3})] = 3
    """Tries before the cache is given up."""


class MetadataSyncPolicy(Shape, frozen=True, kw_only=True):
    auto_sync: bool | None = None
    """Whether totals of the source are found out automatically; true when absent."""


class Management(Shape, frozen=True, kw_only=True):
    clean_cache_policy: CleanCachePolicy | None = None
    """How the cache is emptied when the runtime goes."""
    metadata_sync_policy: MetadataSyncPolicy | None = None
    """How totals of the source are kept."""


class Condition(Shape, frozen=True, kw_only=True):
    """One line of a runtime's history."""

    type: str
    """What the condition is about."""
    status: str
    """True, False or Unknown."""
    reason: str = ""
    """Machine-readable cause."""
    message: str = ""
    """Human-readable detail."""
    last_probe_time: Time = ""
    """When it was last looked at."""
    last_transition_time: Time = ""
    """When its status last changed."""
