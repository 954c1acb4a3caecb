"""The demo's walk: what kubelet does for a pod, done to the real plugin, broker and daemons, and measured.

Everything happens in a private mount namespace and one temporary folder, so that whatever ends the demo, also SIGKILL,
leaves no mount behind.
"""

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from broker.kernel import MS_PRIVATE, MS_REC
from csi.client import KubeletClient
from datamodel.client import ClientConfig, Source, Tier, encode_client_config
from datamodel.errors import Corrupt, Unavailable
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
from headrace.demo.origin import Origin

_CLONE_NEWNS = 0x00020000
_KEY = RuntimeKey("cache", "default", "demo")
_VOLUME = "default-demo"
_PLUGIN_DEADLINE_S = 20.0
_SMALL_FILES = 200


@dataclass
class Demo:
    """*size* bytes of one large file, from an origin limited to *bytes_per_s*. `run` prints a table."""

    size: int
    bytes_per_s: int
    rows: list[tuple[str, str]] = field(default_factory=list)
    _closing: list[Callable[[], object]] = field(default_factory=list)

    def run(self) -> None:
        """Walk once.

        Raises:
            HeadraceError: a step failed; what was started is ended in any case.
        """
        enter_private_mounts()
        work = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
        work.chmod(0o755)
        self._closing.append(lambda: shutil.rmtree(work))
        try:
            self._walk(work)
        finally:
            while self._closing:
                self._closing.pop()()

    def _walk(self, work: Path) -> None:
        wanted = self._make_files(work / "origin")
        origin = Origin(work / "origin", self.bytes_per_s)
        self._closing.append(origin.close)
        staging, target = work / "kubelet/plugins/staging", work / "kubelet/pods/demo/mount"
        staging.mkdir(parents=True)
        target.parent.mkdir(parents=True)
        self._describe(work, origin.url)
        socket = self._start_plugin(work)
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
            self._row("stage + publish, cold node", f"{time.monotonic() - start:.2f} s")
            try:
                self._read_it(target, wanted, origin)
            finally:
                kubelet.unpublish(_VOLUME, str(target))
                kubelet.unstage(_VOLUME, str(staging))

    def _make_files(self, folder: Path) -> str:
        """Two large files of the same content and many small ones; returns the large ones' SHA-256."""
        (folder / "small files").mkdir(parents=True)
        digest = hashlib.sha256()
        with (folder / "first.bin").open("wb") as first, (folder / "second.bin").open("wb") as second:
            for _ in range(self.size >> 20):
                piece = os.urandom(1 << 20)
                digest.update(piece)
                first.write(piece)
                second.write(piece)
        for number in range(_SMALL_FILES):
            (folder / "small files" / f"Nº {number}.txt").write_bytes(os.urandom(4096))
        return digest.hexdigest()

    def _describe(self, work: Path, url: str) -> None:
        config = ClientConfig(
            dataset=f"{_KEY.namespace}/{_KEY.name}",
            sources=(Source(name="mirror", url=url, path="/"),),
            tiers=(Tier(path=str(RuntimePaths.of(_KEY, str(work / "runtime")).cache), quota_bytes=1 << 40),),
        )
        folder = work / "datasets" / _KEY.namespace / _KEY.name
        folder.mkdir(parents=True)
        (folder / "client.json").write_text(encode_client_config(config))

    def _start_plugin(self, work: Path) -> str:
        socket = f"{work}/csi.sock"
        log = (work / "plugin.log").open("wb")
        self._closing.append(log.close)
        (work / "runtime").mkdir()
        command = [
            sys.executable, "-m", "headrace.main", "csi", "--standalone", "--endpoint", f"unix://{socket}",
            "--node-name", "demo", "--runtime-root", f"{work}/runtime", "--kubelet-dir", f"{work}/kubelet",
            "--datasets", f"{work}/datasets", "--state-dir", f"{work}/state", "--health-port", "0",
            "--daemon-uid", str(DAEMON_UID if can_run_as(DAEMON_UID) else 0),
        ]  # fmt: skip
        plugin = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._closing.append(lambda: _end(plugin))
        end = time.monotonic() + _PLUGIN_DEADLINE_S
        while not Path(socket).exists():
            if plugin.poll() is not None or time.monotonic() > end:
                raise Unavailable(f"the CSI plugin did not start:\n{(work / 'plugin.log').read_text()[-2000:]}")
            time.sleep(0.02)
        return socket

    def _read_it(self, target: Path, wanted: str, origin: Origin) -> None:
        first, second = target / "first.bin", target / "second.bin"
        self._row("limit of the origin", f"{self.bytes_per_s >> 20} MiB/s")
        self._row(f"cold read of {self.size >> 20} MiB, as user nobody", self._rate(first))
        self._row("warm read", self._rate(first))
        self._row("cold read of another, every daemon killed half way", self._rate(second, kill_at=0.5))
        self._check(second, wanted)
        self._row(f"{_SMALL_FILES} small files, first time", self._files_rate(target / "small files"))
        origin.close()
        self._row("the same again, origin stopped", self._files_rate(target / "small files"))
        self._check(first, wanted)

    def _files_rate(self, folder: Path) -> str:
        seconds, _ = _timed(["cat", *map(str, sorted(folder.iterdir()))])
        return f"{_SMALL_FILES / seconds:,.0f} files/s"

    def _rate(self, file: Path, kill_at: float = 0.0) -> str:
        """Speed of one unprivileged reader; *kill_at*: kill every daemon when it is due to have read so much."""
        reader = _spawn(["dd", f"if={file}", "of=/dev/null", "bs=1M"])
        start = time.monotonic()
        if kill_at:
            time.sleep(kill_at * self.size / self.bytes_per_s)
            for pid in _daemons():
                os.kill(pid, signal.SIGKILL)
        if reader.wait(120):
            raise Corrupt(f"reading {file.name} failed")
        seconds = time.monotonic() - start
        return f"{self.size / seconds / (1 << 20):,.0f} MiB/s"

    def _check(self, file: Path, wanted: str) -> None:
        _, output = _timed(["sha256sum", str(file)])
        if output.split()[0] != wanted:
            raise Corrupt("the bytes read are not those of the origin")
        self._row(f"SHA-256 of {file.name}", "as at the origin")

    def _row(self, what: str, value: str) -> None:
        print(f"  {what:<58} {value}", flush=True)
        self.rows.append((what, value))


def enter_private_mounts() -> None:
    """Give this process and its children a mount table of their own.

    Raises:
        OSError: not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a private mount namespace was refused")


def _daemons() -> list[int]:
    """Fuse daemons among our descendants; those of other mounts on the machine are none of our business."""
    import psutil

    return [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "fusemount.daemon" in " ".join(process.cmdline())
    ]


def _spawn(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, user=DAEMON_UID, group=DAEMON_UID, extra_groups=[], text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _timed(command: list[str]) -> tuple[float, str]:
    start = time.monotonic()
    reader = _spawn(command)
    output, _ = reader.communicate(timeout=120)
    if reader.returncode:
        raise Corrupt(f"{command[0]} failed with code {reader.returncode}")
    return time.monotonic() - start, output


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
