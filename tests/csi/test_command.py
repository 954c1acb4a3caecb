"""`headrace csi` as a process: with real mounts, in a mount namespace of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi.client import KubeletClient
from datamodel.client import ClientConfig, Source, Tier, encode_client_config
from datamodel.errors import Unavailable

WAIT_S = 30
ATTRIBUTES = {"mount_type": "cache", "runtime_namespace": "default", "runtime_name": "demo"}


class Standalone:
    """The plugin alone on this machine, with dataset default/demo, and kubelet's end of its socket."""

    def __init__(self, base: Path) -> None:
        self.base = base
        base.chmod(0o755)
        self.target = base / "kubelet" / "pods" / "1" / "mount"
        self.target.parent.mkdir(parents=True)
        (base / "files" / "train").mkdir(parents=True)
        (base / "files" / "train" / "one.txt").write_text("one\n")
        (base / "runtime-mnt").mkdir()
        folder = base / "datasets" / "default" / "demo"
        folder.mkdir(parents=True)
        config = ClientConfig(
            dataset="default/demo",
            sources=(Source(name="files", url=f"local://{base}/files", path="/"),),
            tiers=(Tier(path=".", quota_bytes=1 << 20),),
            processes=1,
        )
        (folder / "client.json").write_text(encode_client_config(config))
        self.process = self._start()
        self.kubelet = KubeletClient(str(base / "csi.sock"), deadline_s=WAIT_S)
        self.kubelet.wait_ready(WAIT_S)

    @property
    def attributes(self) -> dict[str, str]:
        return {**ATTRIBUTES, "fluid_path": f"{self.base}/runtime-mnt/cache/default/demo/fuse"}

    def seen(self, path: Path) -> Path:
        """*path* as the plugin's mount namespace shows it."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def end(self) -> int:
        self.kubelet.__exit__(None, None, None)
        self.process.terminate()
        return self.process.wait(WAIT_S)

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.base / "log").open("wb") as log:
            return subprocess.Popen(
                [
                    "unshare", "--mount", "--propagation", "private", sys.executable, "-m", "headrace.main", "csi",
                    "--standalone", "--node-name", "here", "--endpoint", f"unix://{self.base}/csi.sock",
                    "--datasets", f"{self.base}/datasets", "--runtime-root", f"{self.base}/runtime-mnt",
                    "--kubelet-dir", f"{self.base}/kubelet", "--state-dir", f"{self.base}/state", "--health-port", "0",
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip


@pytest.fixture
def standalone(short_path: Path) -> Iterator[Standalone]:
    made = Standalone(short_path)
    yield made
    if made.process.poll() is None:
        made.end()


@pytest.mark.root
def test_pod_reads_the_dataset_and_leaves_nothing(standalone: Standalone) -> None:
    kubelet, target, staging = standalone.kubelet, standalone.target, str(standalone.base / "kubelet" / "staging")
    kubelet.stage("demo", staging, standalone.attributes, {})
    kubelet.publish("demo", staging, str(target), standalone.attributes)
    read = (standalone.seen(target) / "train" / "one.txt").read_text()

    kubelet.unpublish("demo", str(target))
    kubelet.unstage("demo", staging)

    assert read == "one\n"
    assert not standalone.seen(target).exists()
    assert standalone.end() == 0
    assert not (standalone.base / "csi.sock").exists()


@pytest.mark.root
def test_sub_path_is_published_alone_and_read_only(standalone: Standalone) -> None:
    attributes = {**standalone.attributes, "fluid_sub_path": "train"}
    staging = str(standalone.base / "kubelet" / "staging")
    standalone.kubelet.stage("demo", staging, attributes, {})
    standalone.kubelet.publish("demo", staging, str(standalone.target), attributes)

    shown = standalone.seen(standalone.target)

    assert [path.name for path in shown.iterdir()] == ["one.txt"]
    with pytest.raises(OSError, match="Read-only"):
        (shown / "new").write_text("x")
    standalone.kubelet.unpublish("demo", str(standalone.target))


@pytest.mark.root
def test_dataset_that_nobody_described_is_refused_with_its_path(standalone: Standalone) -> None:
    attributes = {
        **standalone.attributes,
        "runtime_name": "absent",
        "fluid_path": f"{standalone.base}/runtime-mnt/cache/default/absent/fuse",
    }

    with pytest.raises(Unavailable, match=r"absent/client\.json"):
        standalone.kubelet.stage("absent", str(standalone.base / "staging"), attributes, {})


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:1", "unix://relative/csi.sock", "unix:///run/csi", "/run/csi.sock"]
)
def test_wrong_endpoint_is_the_users_to_mend(endpoint: str) -> None:
    words = [sys.executable, "-m", "headrace.main", "csi", "--standalone", "--node-name", "n1", "--endpoint", endpoint]

    ended = subprocess.run(words, check=False, capture_output=True, text=True, timeout=WAIT_S)

    assert ended.returncode == 2
    assert ended.stderr.startswith("headrace csi: endpoint:")
