"""The demo's first part: `headrace mount` and its relatives on one machine, as root or as anybody."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker import mountinfo
from datamodel.errors import Corrupt, Unavailable
from fusemount import localstate
from headrace.demo.stage import SMALL_FILES, SMALL_FOLDER, Stage

_SERVE_DEADLINE_S = 30.0
_SHOWN_DEADLINE_S = 10.0
_COMMAND_DEADLINE_S = 120.0
_TICK_S = 0.01


@dataclass
class Machine:
    """Walks a person's commands on *stage*."""

    stage: Stage

    @property
    def mountpoint(self) -> Path:
        return self.stage.work / "mnt"

    def walk(self) -> None:
        """Walk once.

        Raises:
            HeadraceError: a step failed.
        """
        stage, first, second = self.stage, self.mountpoint / "first.bin", self.mountpoint / "second.bin"
        stage.callback(self._leave_nothing)
        stage.row("limit of the origin", f"{stage.bytes_per_s >> 20} MiB/s")
        mount = self._mount("headrace mount http://…")
        stage.row(f"cold read of {stage.size >> 20} MiB", stage.rate(first))
        stage.row("warm read", stage.rate(first))
        if os.geteuid() == 0:
            stage.row("cold read of another, kill -9 of every daemon half way", self._rate_while_killed(second))
            stage.check(second)
        self._load()
        self._refresh()
        stage.origin.close()
        stage.row(f"{SMALL_FILES} small files, origin stopped", stage.small_rate(self.mountpoint / SMALL_FOLDER))
        self._kill_everything(mount)
        mount = self._mount("kill -9 of every process, headrace mount again")
        stage.row("warm read, origin still stopped", stage.rate(first))
        stage.check(first)
        self._tell_features()
        self._command("umount", str(self.mountpoint))
        mount.wait(_COMMAND_DEADLINE_S)

    def _mount(self, what: str) -> "subprocess.Popen[bytes]":
        words = ["mount", "--cache-dir", str(self.stage.work / "cache"), self.stage.origin.url, str(self.mountpoint)]
        log = self.stage.work / "mount.log"
        start = time.monotonic()
        process = self.stage.start(_headrace(*words), log)
        while not self._is_served_by(process.pid):
            if process.poll() is not None or time.monotonic() > start + _SERVE_DEADLINE_S:
                raise Unavailable(f"headrace mount did not serve:\n{log.read_text()[-2000:]}")
            time.sleep(_TICK_S)
        self.stage.row(what, f"{time.monotonic() - start:.2f} s")
        return process

    def _is_served_by(self, pid: int) -> bool:
        state = localstate.state_of(self.mountpoint)
        # In this order: the process takes the state over only when it has removed what the one before left.
        return localstate.holder(state) == pid and (state / "status.json").exists() and self._is_mounted()

    def _is_mounted(self) -> bool:
        return bool(mountinfo.at(mountinfo.read(), str(self.mountpoint)))

    def _leave_nothing(self) -> None:
        """Take off a mount whose process was killed, when the demo ends before it was mounted again."""
        if self._is_mounted():
            self._command("umount", "--lazy", str(self.mountpoint))

    def _rate_while_killed(self, file: Path) -> str:
        """Speed of one reader, with every daemon killed when it is due to have read half."""
        start = time.monotonic()
        process = self.stage.reader(["dd", f"if={file}", "of=/dev/null", "bs=1M"])
        try:
            # Half of the time that the origin needs is when the reader is in the middle: nothing tells us better.
            time.sleep(0.5 * self.stage.size / self.stage.bytes_per_s)
            for pid in self._pids("daemon"):
                os.kill(pid, signal.SIGKILL)
            if process.wait(_COMMAND_DEADLINE_S):
                raise Corrupt(f"reading {file.name} failed")
        finally:
            process.kill()
            process.wait()
        seconds = time.monotonic() - start
        return f"{self.stage.size / seconds / (1 << 20):,.0f} MiB/s, no error"

    def _load(self) -> None:
        start = time.monotonic()
        self._command("load", "--quiet", str(self.mountpoint / SMALL_FOLDER))
        self.stage.row(f"headrace load of {SMALL_FILES} small files", f"{time.monotonic() - start:.2f} s")

    def _refresh(self) -> None:
        (self.stage.files / SMALL_FOLDER).joinpath("new.txt").write_text("new at the origin")
        shown = self.mountpoint / SMALL_FOLDER / "new.txt"
        if shown.exists():
            raise Corrupt(f"{shown}: is there before anybody asked for it")
        start = time.monotonic()
        self._command("refresh", str(self.mountpoint))
        while not shown.exists():
            if time.monotonic() > start + _SHOWN_DEADLINE_S:
                raise Corrupt(f"{shown}: is not shown after headrace refresh")
            time.sleep(_TICK_S)
        self.stage.row("headrace refresh, until a new file shows", f"{time.monotonic() - start:.2f} s")
        self._command("load", "--quiet", str(self.mountpoint / SMALL_FOLDER))

    def _kill_everything(self, mount: "subprocess.Popen[bytes]") -> None:
        pids = {mount.pid, *self._pids("daemon")}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        mount.wait()

    def _tell_features(self) -> None:
        status = self._status()
        for name, value in status["features"].items():
            if value is False:
                reason = status.get("reasons", {}).get(name, "")
                self.stage.row(f"off: {name}", reason or ("needs root" if os.geteuid() else "not on this kernel"))

    def _pids(self, role: str) -> list[int]:
        return [process["pid"] for process in self._status()["processes"] if process["role"] == role]

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self._command("status", "-o", "json", str(self.mountpoint)))
        return status

    def _command(self, *words: str) -> str:
        result = subprocess.run(
            _headrace(*words), capture_output=True, text=True, timeout=_COMMAND_DEADLINE_S, check=False
        )
        if result.returncode:
            raise Unavailable(f"headrace {words[0]}: {result.stderr.strip()}")
        return result.stdout


def _headrace(*words: str) -> list[str]:
    return [sys.executable, "-m", "headrace.main", *words]
