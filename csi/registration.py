"""How kubelet learns of the driver: it finds our socket in its folder, asks who we are, and tells the outcome."""

import threading
from collections.abc import Callable

import grpc

from obs import logs
from protos import pluginregistration_pb2 as messages
from protos import pluginregistration_pb2_grpc

log = logs.get("csi")

PLUGIN_TYPE = "CSIPlugin"
CSI_VERSIONS = ("1.0.0",)


class RegistrationService(pluginregistration_pb2_grpc.RegistrationServicer):
    """Names the *driver* and its socket's path as kubelet sees it; calls *on_refused* when kubelet rejects us."""

    def __init__(self, driver: str, plugin_path: str, on_refused: Callable[[], None]) -> None:
        self._driver, self._plugin_path, self._on_refused = driver, plugin_path, on_refused
        self._registered = threading.Event()

    @property
    def is_registered(self) -> bool:
        return self._registered.is_set()

    def GetInfo(self, request: messages.InfoRequest, context: grpc.ServicerContext) -> messages.PluginInfo:
        return messages.PluginInfo(
            type=PLUGIN_TYPE, name=self._driver, endpoint=self._plugin_path, supported_versions=CSI_VERSIONS
        )

    def NotifyRegistrationStatus(
        self, request: messages.RegistrationStatus, context: grpc.ServicerContext
    ) -> messages.RegistrationStatusResponse:
        if request.plugin_registered:
            self._registered.set()
            log.info("driver.registered", driver=self._driver)
        else:
            self._registered.clear()
            log.error("driver.refused", driver=self._driver, error=request.error)
            self._on_refused()
        return messages.RegistrationStatusResponse()
