"""The CSI Node service: unwraps a message, calls the core, wraps the answer. Thin adapter."""

import grpc

from csi.deadline import Deadline
from csi.requests import RequestRules
from csi.volumes import NodeVolumes
from protos import csi_pb2, csi_pb2_grpc

_Rpc = csi_pb2.NodeServiceCapability.RPC
CAPABILITIES = (
    _Rpc.STAGE_UNSTAGE_VOLUME,
    _Rpc.GET_VOLUME_STATS,
    _Rpc.VOLUME_CONDITION,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
)
HEALTHY = "the mount is served"


class NodeService(csi_pb2_grpc.NodeServicer):
    """The calls that kubelet makes for volumes of *node*."""

    def __init__(self, node: str, rules: RequestRules, volumes: NodeVolumes) -> None:
        self._node, self._rules, self._volumes = node, rules, volumes

    def NodeStageVolume(
        self, request: csi_pb2.NodeStageVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeStageVolumeResponse:
        self._volumes.stage(self._rules.stage(request), _deadline(context))
        return csi_pb2.NodeStageVolumeResponse()

    def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnstageVolumeResponse:
        self._volumes.unstage(self._rules.unstage(request))
        return csi_pb2.NodeUnstageVolumeResponse()

    def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        self._volumes.publish(self._rules.publish(request), _deadline(context))
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        self._volumes.unpublish(self._rules.unpublish(request), _deadline(context))
        return csi_pb2.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        numbers = self._volumes.statistics(self._rules.statistics(request), _deadline(context))
        space = csi_pb2.VolumeUsage(
            unit=csi_pb2.VolumeUsage.BYTES,
            total=numbers.total_bytes,
            used=numbers.used_bytes,
            available=numbers.available_bytes,
        )
        inodes = csi_pb2.VolumeUsage(
            unit=csi_pb2.VolumeUsage.INODES,
            total=numbers.total_inodes,
            used=numbers.used_inodes,
            available=max(0, numbers.total_inodes - numbers.used_inodes),
        )
        message = numbers.message or HEALTHY
        return csi_pb2.NodeGetVolumeStatsResponse(
            usage=[space, inodes],
            volume_condition=csi_pb2.VolumeCondition(abnormal=numbers.abnormal, message=message),
        )

    def NodeExpandVolume(
        self, request: csi_pb2.NodeExpandVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeExpandVolumeResponse:
        raise NotImplementedError  # a dataset has the size of its source; the capability is not offered

    def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        offered = [csi_pb2.NodeServiceCapability(rpc=_Rpc(type=kind)) for kind in CAPABILITIES]
        return csi_pb2.NodeGetCapabilitiesResponse(capabilities=offered)

    def NodeGetInfo(
        self, request: csi_pb2.NodeGetInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetInfoResponse:
        return csi_pb2.NodeGetInfoResponse(node_id=self._node)


def _deadline(context: grpc.ServicerContext) -> Deadline:
    return Deadline.of_client(context.time_remaining())
