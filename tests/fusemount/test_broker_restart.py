"""The broker may be upgraded or die: who reads goes on, and who comes next is served by new daemons on a new mount."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.client import BrokerControl
from datamodel.client import ClientConfig, Source, Tier, encode_client_config
from datamodel.errors import Unavailable
from datamodel.names import RuntimeKey, RuntimePaths
from fusemount.supervisor import Supervisor

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

KEY = RuntimeKey("cache", "default", "demo")
TOKEN = "t0ken"
HALF = 3 << 20


class Node:
    """A broker in a process of its own, and the folders of a node."""

    def __init__(self, folder: Path) -> None:
        self.root, self.pods = folder / "runtime", folder / "pods"
        for made in (self.root, self.pods, folder / "origin"):
            made.mkdir()
        self._socket = str(folder / "control.sock")
        self.control = BrokerControl(self._socket)
        self.start_broker()

    def start_broker(self) -> None:
        words = ["broker", "--control-socket", self._socket, "--runtime-root", str(self.root), "--health-port", "0"]
        command = [sys.executable, "-m", "headrace.main", *words, "--target-root", str(self.pods)]
        self.broker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(self._answers)

    def mount(self) -> None:
        self.control.mount(KEY, TOKEN, daemon_uid=0, deadline_s=10)

    def bind(self, pod: str) -> Path:
        target = self.pods / pod
        self.control.wait_served(KEY, 20)
        self.control.bind(KEY, str(target), read_only=True, deadline_s=10)
        return target

    def _answers(self) -> bool:
        try:
            self.control.runtimes(1)
        except Unavailable:
            return False
        return True


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.broker.terminate()
    made.broker.wait(15)


@pytest.fixture
def supervisor(node: Node, tmp_path: Path) -> Iterator[Supervisor]:
    paths = RuntimePaths.of(KEY, str(node.root))
    (tmp_path / "token").write_text(TOKEN)
    config = ClientConfig(
        dataset="default/demo",
        sources=(Source(name="data", url=f"local://{tmp_path}/origin", path="/"),),
        tiers=(Tier(path=str(paths.cache), quota_bytes=1 << 30),),
        token_file=str(tmp_path / "token"),
    )
    (tmp_path / "client.json").write_text(encode_client_config(config))
    node.mount()
    made = Supervisor("default/demo", str(tmp_path / "client.json"), str(paths.socket), processes=2)
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_broker_that_ends_costs_no_reader_anything(
    node: Node, supervisor: Supervisor, tmp_path: Path, ending: str
) -> None:
    content = os.urandom(2 * HALF)
    (tmp_path / "origin/file").write_bytes(content)
    (tmp_path / "origin/other").write_bytes(content)
    before = node.bind("before")
    with (before / "file").open("rb") as reader:
        assert reader.read(HALF) == content[:HALF]

        getattr(node.broker, ending)()
        node.broker.wait(15)
        node.start_broker()
        node.mount()
        after = node.bind("after")

        assert reader.read() == content[HALF:]
    assert (after / "file").read_bytes() == content
    assert (before / "other").read_bytes() == content


def test_daemons_of_an_earlier_broker_end_with_their_last_reader(node: Node, supervisor: Supervisor) -> None:
    before = node.bind("before")
    until(lambda: node.control.runtimes(5)[0].daemons == 2)
    first = {process.pid for process in supervisor.status().processes}
    node.broker.kill()
    node.broker.wait(15)
    node.start_broker()
    node.mount()
    node.bind("after")

    node.control.unbind(str(before), 10)

    until(lambda: not first & {process.pid for process in supervisor.status().processes})
    until(lambda: supervisor.is_ready)
