"""A socket that looks like our plugin with a Controller service, which the conformance suite needs to make volumes.

Node calls and Probe pass through, byte for byte, to the plugin's own socket. Only for tests: datasets are made by
Headrace's controller, never by CSI.
"""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from protos import csi_pb2, csi_pb2_grpc

LONGEST_S = 100.0
_PASSED = ("/csi.v1.Node/", "/csi.v1.Identity/")


class Passthrough(grpc.GenericRpcHandler):
    """Hands every Node and Identity call to *channel* and its answer back."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        method = handler_call_details.method
        if not method.startswith(_PASSED):
            return None
        call: Callable[..., bytes] = self._channel.unary_unary(
            method, request_serializer=bytes, response_deserializer=bytes
        )
        return grpc.unary_unary_rpc_method_handler(lambda request, context: _forward(call, request, context))


def _forward(call: Callable[..., bytes], request: bytes, context: grpc.ServicerContext) -> bytes:
    try:
        # A call without a deadline has one of some thousand million years here, which no client accepts.
        return call(request, timeout=min(LONGEST_S, context.time_remaining()))
    except grpc.RpcError as error:
        context.abort(error.code(), error.details() or "")


class AdvertisingIdentity(grpc.GenericRpcHandler):
    """Answers GetPluginCapabilities, and nothing else, with CONTROLLER_SERVICE."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if handler_call_details.method != "/csi.v1.Identity/GetPluginCapabilities":
            return None
        service = csi_pb2.PluginCapability.Service(type=csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE)
        reply = csi_pb2.GetPluginCapabilitiesResponse(capabilities=[csi_pb2.PluginCapability(service=service)])
        return grpc.unary_unary_rpc_method_handler(lambda request, context: reply.SerializeToString())


class Controller(csi_pb2_grpc.ControllerServicer):
    """Makes volumes out of nothing but their parameters, which come back as volume context."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}

    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        rpc = csi_pb2.ControllerServiceCapability.RPC(type=csi_pb2.ControllerServiceCapability.RPC.CREATE_DELETE_VOLUME)
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=[csi_pb2.ControllerServiceCapability(rpc=rpc)])

    def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateVolumeResponse:
        if not request.name or not request.volume_capabilities:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "name and volume_capabilities are required")
        volume = "sanity-" + hashlib.blake2b(request.name.encode(), digest_size=16).hexdigest()
        size = request.capacity_range.required_bytes
        with self._lock:
            known = self._sizes.setdefault(volume, size)
        if known != size:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{request.name} has {known} bytes, not {size}")
        made = csi_pb2.Volume(volume_id=volume, capacity_bytes=size, volume_context=request.parameters)
        return csi_pb2.CreateVolumeResponse(volume=made)

    def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.DeleteVolumeResponse:
        if not request.volume_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "volume_id is required")
        with self._lock:
            self._sizes.pop(request.volume_id, None)
        return csi_pb2.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        if not request.volume_id or not request.volume_capabilities:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "volume_id and volume_capabilities are required")
        with self._lock:
            if request.volume_id not in self._sizes:
                context.abort(grpc.StatusCode.NOT_FOUND, f"volume {request.volume_id} does not exist")
        confirmed = csi_pb2.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_capabilities=request.volume_capabilities
        )
        return csi_pb2.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)


def serve(path: Path, plugin: grpc.Channel) -> grpc.Server:
    """Start the shim on the socket *path* before the plugin behind *plugin*."""
    server = grpc.server(ThreadPoolExecutor(16), handlers=[AdvertisingIdentity(), Passthrough(plugin)])
    csi_pb2_grpc.add_ControllerServicer_to_server(Controller(), server)  # type: ignore[abstract]  # rest is unused
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server
