"""The CSI Identity service: who we are. Thin adapter."""

from collections.abc import Callable

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from protos import csi_pb2, csi_pb2_grpc


class IdentityService(csi_pb2_grpc.IdentityServicer):
    """*is_ready* must answer within a second: kubelet and sidecars ask every few seconds."""

    def __init__(self, name: str, version: str, is_ready: Callable[[], bool]) -> None:
        self._name, self._version, self._is_ready = name, version, is_ready

    def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=self._name, vendor_version=self._version)

    def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        return csi_pb2.GetPluginCapabilitiesResponse()

    def Probe(self, request: csi_pb2.ProbeRequest, context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        return csi_pb2.ProbeResponse(ready=BoolValue(value=self._is_ready()))
