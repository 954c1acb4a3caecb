"""From CSI messages to values of the core. The only place that answers INVALID_ARGUMENT; knows no state.

When several fields are wrong the first of this order wins: ids and paths present, capability, form of the strings,
staging path, volume context, secrets.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csi.fields import (
    check_beneath,
    check_flags,
    check_map,
    check_path,
    check_secrets,
    check_string,
    check_sub_path,
    show,
)
from csi.values import (
    AccessMode,
    Capability,
    CleanPolicy,
    PublishRequest,
    StageRequest,
    StatisticsRequest,
    UnpublishRequest,
    UnstageRequest,
    VolumeSource,
)
from datamodel import names
from datamodel.errors import Precondition, UserError
from datamodel.names import RuntimeKey
from protos import csi_pb2

ATTRIBUTE_CLEAN_POLICY = "clean_policy"
_KNOWN_ATTRIBUTES = frozenset(
    {
        names.ATTRIBUTE_PATH,
        names.ATTRIBUTE_SUB_PATH,
        names.ATTRIBUTE_MOUNT_TYPE,
        names.ATTRIBUTE_NAMESPACE,
        names.ATTRIBUTE_NAME,
        names.ATTRIBUTE_LABEL_KEY,
        ATTRIBUTE_CLEAN_POLICY,
        "node_publish_method",
        "efc_sessmgr_workdir",
    }
)
"""Attributes that Fluid's controllers or ours write; keys with a '/' belong to kubelet and sidecars."""
_LABEL_KEY = re.compile(re.escape(names.LABEL_PREFIX) + r"f-[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class RequestRules:
    """The trusted folders, and the checks that need them."""

    runtime_root: str
    target_roots: tuple[str, ...]

    def stage(self, request: csi_pb2.NodeStageVolumeRequest) -> StageRequest:
        _require(volume_id=request.volume_id, staging_target_path=request.staging_target_path)
        capability = _capability(request)
        _check_volume(request.volume_id)
        check_path("staging_target_path", request.staging_target_path)
        source = self._source(request.volume_context)
        secrets = dict(check_secrets(request.secrets))
        return StageRequest(request.volume_id, request.staging_target_path, capability, source, secrets)

    def unstage(self, request: csi_pb2.NodeUnstageVolumeRequest) -> UnstageRequest:
        _require(volume_id=request.volume_id, staging_target_path=request.staging_target_path)
        _check_volume(request.volume_id)
        check_path("staging_target_path", request.staging_target_path)
        return UnstageRequest(request.volume_id, request.staging_target_path)

    def publish(self, request: csi_pb2.NodePublishVolumeRequest) -> PublishRequest:
        _require(volume_id=request.volume_id, target_path=request.target_path)
        capability = _capability(request)
        _check_volume(request.volume_id)
        self._check_target(request.target_path)
        if not request.staging_target_path:
            raise Precondition("staging_target_path: is empty; this plugin stages volumes, so publish needs the path")
        check_path("staging_target_path", request.staging_target_path)
        source = self._source(request.volume_context)
        secrets = dict(check_secrets(request.secrets))
        is_read_only = request.readonly or capability.mode.is_read_only or "ro" in capability.mount_flags
        return PublishRequest(
            request.volume_id,
            request.staging_target_path,
            request.target_path,
            capability,
            source,
            is_read_only,
            "noexec" in capability.mount_flags,
            secrets,
        )

    def unpublish(self, request: csi_pb2.NodeUnpublishVolumeRequest) -> UnpublishRequest:
        _require(volume_id=request.volume_id, target_path=request.target_path)
        _check_volume(request.volume_id)
        self._check_target(request.target_path)
        return UnpublishRequest(request.volume_id, request.target_path)

    def statistics(self, request: csi_pb2.NodeGetVolumeStatsRequest) -> StatisticsRequest:
        """The path's form is not judged: a path that is not ours is NOT_FOUND, whatever it looks like."""
        _require(volume_id=request.volume_id, volume_path=request.volume_path)
        _check_volume(request.volume_id)
        check_string("volume_path", request.volume_path, 4095)
        return StatisticsRequest(request.volume_id, request.volume_path)

    def _check_target(self, path: str) -> None:
        check_path("target_path", path)
        check_beneath("target_path", path, self.target_roots)

    def _source(self, context: Mapping[str, str]) -> VolumeSource:
        check_map("volume_context", context)
        unknown = sorted(key for key in context if "/" not in key and key not in _KNOWN_ATTRIBUTES)
        if unknown:
            raise UserError(
                f"volume_context: unknown key {show(unknown[0])}; known are {', '.join(sorted(_KNOWN_ATTRIBUTES))}"
            )
        path = context.get(names.ATTRIBUTE_PATH, "")
        if not path:
            raise UserError(f"volume_context: {names.ATTRIBUTE_PATH} is missing; it names the mount of the runtime")
        key = RuntimeKey.of_fuse_path(self.runtime_root, path)
        _cross_check(names.ATTRIBUTE_NAMESPACE, context, key.namespace, path)
        _cross_check(names.ATTRIBUTE_NAME, context, key.name, path)
        return VolumeSource(
            key,
            _label_key(context, key),
            check_sub_path(names.ATTRIBUTE_SUB_PATH, context.get(names.ATTRIBUTE_SUB_PATH, "")),
            _clean_policy(context),
        )


def _require(**fields: str) -> None:
    for field, value in fields.items():
        if not value:
            raise UserError(f"{field}: is empty; it is required")


def _check_volume(volume: str) -> None:
    check_string("volume_id", volume)
    if "/" in volume or volume in (".", ".."):
        raise UserError(f"volume_id: {show(volume)} is no name of a PersistentVolume")


def _capability(request: csi_pb2.NodeStageVolumeRequest | csi_pb2.NodePublishVolumeRequest) -> Capability:
    if not request.HasField("volume_capability"):
        raise UserError("volume_capability: is missing; it is required")
    capability = request.volume_capability
    access_type = capability.WhichOneof("access_type")
    if access_type != "mount":
        raise UserError(
            f"volume_capability: access_type {access_type or 'is unset'}; only mount (volumeMode Filesystem) is served"
        )
    try:
        mode = AccessMode(capability.access_mode.mode)
    except ValueError as error:
        raise UserError(
            f"volume_capability: access_mode {capability.access_mode.mode} is not one of "
            f"{', '.join(mode.name for mode in AccessMode)}"
        ) from error
    mount = capability.mount
    if mount.volume_mount_group:
        raise UserError("volume_mount_group: is not offered by this driver; the dataset's files have fixed owners")
    fs_type = check_string("fs_type", mount.fs_type)
    if fs_type and fs_type.partition(".")[0] != "fuse":
        raise UserError(f"fs_type: {show(fs_type)}; leave it empty or write fuse")
    return Capability(mode, fs_type, check_flags(_sized(mount.mount_flags)))


def _sized(flags: Iterable[str]) -> list[str]:
    listed = list(flags)
    if sum(len(flag.encode()) for flag in listed) > 4096:
        raise UserError("mount_flags: more than 4096 bytes together")
    return listed


def _cross_check(attribute: str, context: Mapping[str, str], expected: str, path: str) -> None:
    given = context.get(attribute, "")
    if given != expected:
        raise UserError(
            f"volume_context: {attribute} {show(given)} does not belong to {names.ATTRIBUTE_PATH} {show(path)}; "
            "both are written by the controller and must not be edited"
        )


def _label_key(context: Mapping[str, str], key: RuntimeKey) -> str:
    given = context.get(names.ATTRIBUTE_LABEL_KEY, "") or names.fuse_label(key.namespace, key.name)
    name = given.removeprefix(names.LABEL_PREFIX)
    if not _LABEL_KEY.fullmatch(given) or len(name) > _LABEL_NAME_BYTES:
        raise UserError(
            f"volume_context: {names.ATTRIBUTE_LABEL_KEY} {show(given)} is no label key that starts with "
            f"{names.LABEL_PREFIX}f- and has at most {_LABEL_NAME_BYTES} characters after the slash"
        )
    return given


def _clean_policy(context: Mapping[str, str]) -> CleanPolicy:
    given = context.get(ATTRIBUTE_CLEAN_POLICY, "") or CleanPolicy.ON_RUNTIME_DELETED.value
    try:
        return CleanPolicy(given)
    except ValueError as error:
        policies = ", ".join(policy.value for policy in CleanPolicy)
        raise UserError(f"volume_context: {ATTRIBUTE_CLEAN_POLICY} {show(given)} is not one of {policies}") from error
