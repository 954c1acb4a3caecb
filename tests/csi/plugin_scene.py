"""The whole plugin with a broker in memory, on real sockets, and the client ends of them."""

from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi.daemons import DaemonSetStarter
from csi.labels import FileNodeLabels
from csi.plugin import Plugin, Settings
from protos import csi_pb2_grpc, pluginregistration_pb2_grpc
from tests.fakes.broker import FakeBroker

CALL_S = 10


class PluginScene:
    """A plugin in *folder* and the client ends of its sockets."""

    def __init__(self, folder: Path, health_port: int | None = None) -> None:
        self.folder, self._health_port = folder, health_port
        (folder / "registration").mkdir(exist_ok=True)
        self.broker = FakeBroker()
        self.labels = FileNodeLabels(folder / "labels.json")
        self.plugin = self.make()
        self.plugin.start()
        self.channels = [grpc.insecure_channel(f"unix:{path}") for path in (self.socket, self.registration_socket)]
        self.node = csi_pb2_grpc.NodeStub(self.channels[0])
        self.identity = csi_pb2_grpc.IdentityStub(self.channels[0])
        self.registration = pluginregistration_pb2_grpc.RegistrationStub(self.channels[1])

    def make(self) -> Plugin:
        settings = Settings(
            driver="fuse.csi.fluid.io",
            version="1.2.3",
            node="n1",
            socket=self.socket,
            plugin_path="/var/lib/kubelet/csi-plugins/fuse.csi.fluid.io/csi.sock",
            registration_dir=self.folder / "registration",
            runtime_root="/runtime-mnt",
            kubelet_dir=self.folder,
            target_roots=("/var/lib/kubelet/pods",),
            state_dir=self.folder / "state",
            resync_s=60,
            health_port=self._health_port,
        )
        return Plugin(settings, self.broker, self.labels, DaemonSetStarter())

    @property
    def socket(self) -> Path:
        return self.folder / "csi.sock"

    @property
    def registration_socket(self) -> Path:
        return self.folder / "registration" / "fuse.csi.fluid.io-reg.sock"

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        self.plugin.close(grace_s=1)


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Code and text with which *call* is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code().name, error.details()


def health(scene: PluginScene, page: str) -> int:
    connection = HTTPConnection("127.0.0.1", scene.plugin.health_port, timeout=CALL_S)
    try:
        connection.request("GET", page)
        return connection.getresponse().status
    finally:
        connection.close()
