"""The calls kubelet makes, for the demo and for tests: stage, publish, unpublish, unstage."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import grpc

from datamodel.errors import Unavailable
from protos import csi_pb2, csi_pb2_grpc


class KubeletClient:
    """Speaks to the plugin on unix socket *path*, as kubelet would. Use as a context manager.

    Every call raises Unavailable with the plugin's code and message when it refuses.
    """

    def __init__(self, path: str, *, deadline_s: float = 120.0) -> None:
        self._deadline_s = deadline_s
        self._channel = grpc.insecure_channel(f"unix:{path}")
        self._node = csi_pb2_grpc.NodeStub(self._channel)

    def __enter__(self) -> "KubeletClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._channel.close()

    def wait_ready(self, deadline_s: float) -> None:
        """Return as soon as the plugin accepts connections."""
        try:
            grpc.channel_ready_future(self._channel).result(deadline_s)
        except grpc.FutureTimeoutError as error:
            raise Unavailable(f"the CSI plugin does not answer after {deadline_s:g} s") from error

    def stage(self, volume: str, staging_path: str, attributes: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        self._call(
            self._node.NodeStageVolume,
            csi_pb2.NodeStageVolumeRequest(
                volume_id=volume,
                staging_target_path=staging_path,
                volume_capability=_read_only_many(),
                volume_context=attributes,
                secrets=secrets,
            ),
        )

    def publish(self, volume: str, staging_path: str, target_path: str, attributes: Mapping[str, str]) -> None:
        self._call(
            self._node.NodePublishVolume,
            csi_pb2.NodePublishVolumeRequest(
                volume_id=volume,
                staging_target_path=staging_path,
                target_path=target_path,
                volume_capability=_read_only_many(),
                readonly=True,
                volume_context=attributes,
            ),
        )

    def unpublish(self, volume: str, target_path: str) -> None:
        self._call(
            self._node.NodeUnpublishVolume,
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume, target_path=target_path),
        )

    def unstage(self, volume: str, staging_path: str) -> None:
        self._call(
            self._node.NodeUnstageVolume,
            csi_pb2.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=staging_path),
        )

    def _call(self, method: "grpc.UnaryUnaryMultiCallable[Any, Any]", request: object) -> None:
        try:
            method(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            raise Unavailable(f"{type(request).__name__}: {error.code().name}: {error.details()}") from error


def _read_only_many() -> csi_pb2.VolumeCapability:
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(),
        access_mode=csi_pb2.VolumeCapability.AccessMode(
            mode=csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY
        ),
    )
