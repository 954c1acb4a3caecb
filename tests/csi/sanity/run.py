"""Runs csi-sanity against the shipped command: `headrace csi --standalone` with real broker, mounts and daemons.

Started by scripts/csi-sanity inside a mount namespace of its own. First the plugin's socket as it is, then the same
plugin behind a Controller shim, which is the largest set of specifications that a node plugin can be held to.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc

from datamodel.client import ClientConfig, Source, Tier, encode_client_config
from tests.csi.sanity import shim

NAMESPACE, NAME = "default", "sanity"
START_S, SUITE_S, END_S = 30, 110, 60
NEEDS_VOLUMES = "|".join(
    (
        "should remove target path",
        "NodeStageVolume should fail when no volume capability",
        "volume does not exist on the specified",
        "single node single writer",
    )
)
"""Specifications that make a volume first; without the shim they cannot begin."""


def describe_dataset(base: Path) -> None:
    """A local folder with some files as dataset, and what the suite must say to get it."""
    files, folder = base / "files", base / "datasets" / NAMESPACE / NAME
    files.mkdir()
    folder.mkdir(parents=True)
    (files / "hello.txt").write_text("hello\n")
    config = ClientConfig(
        dataset=f"{NAMESPACE}/{NAME}",
        sources=(Source(name="files", url=f"local://{files}", path="/"),),
        tiers=(Tier(path=".", quota_bytes=64 << 20),),
        processes=1,
    )
    (folder / "client.json").write_text(encode_client_config(config))
    context = {
        "fluid_path": f"{base}/runtime-mnt/cache/{NAMESPACE}/{NAME}/fuse",
        "mount_type": "cache",
        "runtime_namespace": NAMESPACE,
        "runtime_name": NAME,
        "mount_pod_node_selector_key": f"fluid.io/f-{NAMESPACE}-{NAME}",
    }
    (base / "parameters.yaml").write_text(json.dumps(context))


def start_plugin(base: Path) -> subprocess.Popen[bytes]:
    (base / "kubelet" / "pods").mkdir(parents=True)
    (base / "runtime-mnt").mkdir()
    with (base / "plugin.log").open("wb") as log:
        return subprocess.Popen(
            [
                sys.executable, "-m", "headrace.main", "csi", "--standalone", "--node-name", "sanity-node",
                "--endpoint", f"unix://{base}/csi.sock", "--datasets", str(base / "datasets"),
                "--runtime-root", str(base / "runtime-mnt"), "--kubelet-dir", str(base / "kubelet"),
                "--state-dir", str(base / "state"), "--health-port", "0",
            ],
            stdout=log,
            stderr=log,
        )  # fmt: skip


def run_suite(binary: str, base: Path, socket: Path, *words: str) -> int:
    command = [
        binary, "--csi.endpoint", f"unix://{socket}", "--csi.mountdir", str(base / "kubelet" / "pods" / "sanity"),
        "--csi.stagingdir", str(base / "kubelet" / "staging"), "--csi.testvolumeaccesstype", "mount",
        "--csi.testvolumeparameters", str(base / "parameters.yaml"), "--ginkgo.no-color", *words,
    ]  # fmt: skip
    return subprocess.run(command, timeout=SUITE_S, check=False).returncode


def run_all(binary: str, base: Path, words: list[str]) -> int:
    with grpc.insecure_channel(f"unix:{base}/csi.sock") as channel:
        grpc.channel_ready_future(channel).result(START_S)
        direct = ["--ginkgo.focus", "Identity Service|Node Service", "--ginkgo.skip", NEEDS_VOLUMES]
        failed = run_suite(binary, base, base / "csi.sock", *direct)
        server = shim.serve(base / "shim.sock", channel)
        try:
            return failed or run_suite(binary, base, base / "shim.sock", *words)
        finally:
            server.stop(1).wait()


def main() -> int:
    binary, *words = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="headrace-sanity-") as folder:
        base = Path(folder)
        base.chmod(0o755)
        describe_dataset(base)
        plugin = start_plugin(base)
        try:
            code = run_all(binary, base, words)
        finally:
            plugin.terminate()
            ended = plugin.wait(END_S)
        if code or ended:
            print((base / "plugin.log").read_text(), file=sys.stderr)
        print(f"csi-sanity: {'passed' if not code else 'FAILED'}; the plugin ended with code {ended}")
        return code or ended


if __name__ == "__main__":
    sys.exit(main())
