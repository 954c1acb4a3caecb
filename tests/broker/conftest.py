"""A broker in this process, with its mounts in a namespace of their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.broker import Broker
from broker.client import BrokerControl
from broker.server import BrokerServer
from datamodel.names import RuntimeKey, RuntimePaths

KEY = RuntimeKey("cache", "default", "demo")
TOKEN = "s3cret"
SOON_S = 5.0


@dataclass
class Node:
    """What a test needs of a node: the broker's client, and where things are."""

    control: BrokerControl
    server: BrokerServer
    control_socket: str
    runtime_root: Path
    pods: Path

    def restart(self) -> None:
        """Another broker in place of this one, which takes its mounts along."""
        self.server.close()
        self.server = BrokerServer(Broker(str(self.runtime_root), (str(self.pods),)), self.control_socket)

    def paths(self, key: RuntimeKey = KEY) -> RuntimePaths:
        return RuntimePaths.of(key, str(self.runtime_root))

    def socket(self, key: RuntimeKey = KEY) -> str:
        return str(self.paths(key).socket)

    def target(self, name: str = "target") -> str:
        return str(self.pods / name)

    def mount(self, key: RuntimeKey = KEY, token: str = TOKEN) -> None:
        self.control.mount(key, token, deadline_s=SOON_S)

    def bind(self, target: str, *, sub_path: str = "", read_only: bool = True, key: RuntimeKey = KEY) -> None:
        self.control.bind(key, target, sub_path=sub_path, read_only=read_only, deadline_s=SOON_S)


@pytest.fixture
def node(private_mounts: None, tmp_path: Path) -> Iterator[Node]:
    pods, control_socket = tmp_path / "pods", str(tmp_path / "ctl" / "control.sock")
    pods.mkdir()
    server = BrokerServer(Broker(str(tmp_path / "rt"), (str(pods),)), control_socket)
    node = Node(BrokerControl(control_socket), server, control_socket, tmp_path / "rt", pods)
    yield node
    for target in pods.iterdir():
        node.control.unbind(str(target), SOON_S)
    node.server.close()
