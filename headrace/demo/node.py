"""The demo's second part: what kubelet does for a pod, done to the real plugin, broker and daemons. Needs root."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from csi.client import KubeletClient
from datamodel.client import ClientConfig, Source, Tier, encode_client_config
from datamodel.errors import Unavailable
from datamodel.names import (
    ATTRIBUTE_LABEL_KEY,
    ATTRIBUTE_NAME,
    ATTRIBUTE_NAMESPACE,
    ATTRIBUTE_PATH,
    DAEMON_UID,
    TOKEN_KEY,
    RuntimeKey,
    RuntimePaths,
    fuse_label,
)
from fusemount.privileges import can_run_as
from headrace.demo.stage import SMALL_FILES, SMALL_FOLDER, Stage

_KEY = RuntimeKey("cache", "default", "demo")
_VOLUME = "default-demo"
_PLUGIN_DEADLINE_S = 20.0


@dataclass
class Node:
    """Stages, publishes and reads one volume on *stage*."""

    stage: Stage

    def walk(self) -> None:
        """Walk once.

        Raises:
            HeadraceError: a step failed.
        """
        work = self.stage.work
        staging, target = work / "kubelet/plugins/staging", work / "kubelet/pods/demo/mount"
        staging.mkdir(parents=True)
        target.parent.mkdir(parents=True)
        self._describe()
        socket = self._start_plugin()
        attributes = {
            ATTRIBUTE_PATH: str(RuntimePaths.of(_KEY, str(work / "runtime")).mount),
            ATTRIBUTE_NAMESPACE: _KEY.namespace,
            ATTRIBUTE_NAME: _KEY.name,
            ATTRIBUTE_LABEL_KEY: fuse_label(_KEY.namespace, _KEY.name),
        }
        with KubeletClient(socket) as kubelet:
            kubelet.wait_ready(_PLUGIN_DEADLINE_S)
            start = time.monotonic()
            kubelet.stage(_VOLUME, str(staging), attributes, {TOKEN_KEY: "demo-token"})
            kubelet.publish(_VOLUME, str(staging), str(target), attributes)
            self.stage.row("stage + publish, cold node", f"{time.monotonic() - start:.2f} s")
            try:
                self._read(target)
            finally:
                kubelet.unpublish(_VOLUME, str(target))
                kubelet.unstage(_VOLUME, str(staging))

    def _read(self, target: Path) -> None:
        first, small = target / "first.bin", target / SMALL_FOLDER
        self.stage.row(f"cold read of {self.stage.size >> 20} MiB", self.stage.rate(first))
        self.stage.row("warm read", self.stage.rate(first))
        self.stage.row(f"{SMALL_FILES} small files, first time", self.stage.small_rate(small))
        self.stage.row("the same again", self.stage.small_rate(small))
        self.stage.check(first)

    def _describe(self) -> None:
        config = ClientConfig(
            dataset=f"{_KEY.namespace}/{_KEY.name}",
            sources=(Source(name="mirror", url=self.stage.origin.url, path="/"),),
            tiers=(Tier(path=str(RuntimePaths.of(_KEY, str(self.stage.work / "runtime")).cache), quota_bytes=1 << 40),),
        )
        folder = self.stage.work / "datasets" / _KEY.namespace / _KEY.name
        folder.mkdir(parents=True)
        (folder / "client.json").write_text(encode_client_config(config))

    def _start_plugin(self) -> str:
        work = self.stage.work
        socket, log = f"{work}/csi.sock", work / "plugin.log"
        (work / "runtime").mkdir()
        command = [
            sys.executable, "-m", "headrace.main", "csi", "--standalone", "--endpoint", f"unix://{socket}",
            "--node-name", "demo", "--runtime-root", f"{work}/runtime", "--kubelet-dir", f"{work}/kubelet",
            "--datasets", f"{work}/datasets", "--state-dir", f"{work}/state", "--health-port", "0",
            "--daemon-uid", str(DAEMON_UID if can_run_as(DAEMON_UID) else 0),
        ]  # fmt: skip
        plugin = self.stage.start(command, log)
        end = time.monotonic() + _PLUGIN_DEADLINE_S
        while not Path(socket).exists():
            if plugin.poll() is not None or time.monotonic() > end:
                raise Unavailable(f"the CSI plugin did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        return socket
