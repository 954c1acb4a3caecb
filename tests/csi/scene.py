"""A node for tests: the core with a broker in memory, and messages as kubelet sends them."""

import dataclasses
from pathlib import Path
from typing import Any

from csi.daemons import DaemonSetStarter
from csi.deadline import Deadline
from csi.janitor import Janitor
from csi.labels import FileNodeLabels
from csi.locks import TryLocks
from csi.records import Records
from csi.values import (
    AccessMode,
    Capability,
    CleanPolicy,
    PublishRequest,
    StageRequest,
    UnpublishRequest,
    UnstageRequest,
    VolumeSource,
)
from csi.volumes import NodeVolumes
from datamodel.names import RuntimeKey
from protos import csi_pb2
from tests.fakes.broker import FakeBroker

ROOT = "/runtime-mnt"
KEY = RuntimeKey("cache", "default", "demo")
LABEL = "fluid.io/f-default-demo"
VOLUME = "default-demo"
STAGING = "/var/lib/kubelet/plugins/kubernetes.io/csi/fuse.csi.fluid.io/abc/globalmount"
TARGET = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/default-demo/mount"
OTHER_TARGET = TARGET.replace("/1/", "/2/")
TOKEN = "a-token"


def context(**changes: str) -> dict[str, str]:
    """The volume context of our volume; an empty value drops a key."""
    attributes = {
        "fluid_path": f"{ROOT}/{KEY}/fuse",
        "mount_type": "cache",
        "runtime_namespace": KEY.namespace,
        "runtime_name": KEY.name,
        "mount_pod_node_selector_key": LABEL,
        "csi.storage.k8s.io/pod.name": "reader",
        **changes,
    }
    return {key: value for key, value in attributes.items() if value}


def capability(mode: AccessMode = AccessMode.MULTI_NODE_READER_ONLY, **mount: Any) -> csi_pb2.VolumeCapability:
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(**mount),
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode=mode.value),  # type: ignore[arg-type]  # same numbers
    )


def stage_message(**changes: Any) -> csi_pb2.NodeStageVolumeRequest:
    fields = {
        "volume_id": VOLUME,
        "staging_target_path": STAGING,
        "volume_capability": capability(),
        "volume_context": context(),
        "secrets": {"token": TOKEN},
    }
    return csi_pb2.NodeStageVolumeRequest(**{**fields, **changes})


def publish_message(**changes: Any) -> csi_pb2.NodePublishVolumeRequest:
    fields = {
        "volume_id": VOLUME,
        "staging_target_path": STAGING,
        "target_path": TARGET,
        "volume_capability": capability(),
        "volume_context": context(),
    }
    return csi_pb2.NodePublishVolumeRequest(**{**fields, **changes})


def stage_request(mode: AccessMode = AccessMode.MULTI_NODE_READER_ONLY, **changes: Any) -> StageRequest:
    request = StageRequest(VOLUME, STAGING, Capability(mode), VolumeSource(KEY, LABEL), {"token": TOKEN})
    return dataclasses.replace(request, **changes)


def publish_request(mode: AccessMode = AccessMode.MULTI_NODE_READER_ONLY, **changes: Any) -> PublishRequest:
    request = PublishRequest(VOLUME, STAGING, TARGET, Capability(mode), VolumeSource(KEY, LABEL), True)
    return dataclasses.replace(request, **changes)


def on_demand() -> VolumeSource:
    return VolumeSource(KEY, LABEL, clean_policy=CleanPolicy.ON_DEMAND)


class Node:
    """The core of the plugin on one node, whose state lies in *folder*. `sweep()` does what a woken janitor does."""

    def __init__(self, folder: Path) -> None:
        self.broker = FakeBroker()
        self.labels = FileNodeLabels(folder / "labels.json")
        self.folder = folder
        self.wakes = 0
        self.start()

    def start(self) -> None:
        """Start the plugin, again: memory is empty, disk and broker are not."""
        self.locks, daemons = TryLocks(), DaemonSetStarter()
        self.records = Records(self.folder / "runtimes")
        self.janitor = Janitor(
            self.broker, self.labels, daemons, self.records, self.locks, kubelet_dir=self.folder, resync_s=60
        )
        self.volumes = NodeVolumes(
            self.broker, self.labels, daemons, self.records, self.locks, node="n1", on_change=self._wake
        )

    def _wake(self) -> None:
        self.wakes += 1

    def stage(self, request: StageRequest | None = None) -> None:
        self.volumes.stage(request or stage_request(), Deadline(10))

    def publish(self, request: PublishRequest | None = None) -> None:
        self.volumes.publish(request or publish_request(), Deadline(10))

    def unpublish(self, target: str = TARGET) -> None:
        self.volumes.unpublish(UnpublishRequest(VOLUME, target), Deadline(10))

    def unstage(self, volume: str = VOLUME) -> None:
        self.volumes.unstage(UnstageRequest(volume, STAGING))

    def sweep(self) -> None:
        self.janitor.sweep()
