"""The plain mode of `headrace mount`: one daemon process that mounts by fusermount3 itself, for users without root.

The daemon ends with the process that started it, however that ends: its reports go to a socket that closes then.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from broker import mountinfo
from datamodel.errors import Precondition, Unavailable
from fusemount.report import LastWords, Report
from obs import logs

log = logs.get("mount")

_TICK_S = 0.05
_STOP_GRACE_S = 15.0


class PlainDaemon:
    """The daemon of *config_file* on *mountpoint*, from construction to `close()`; it keeps *status_file* fresh.

    Raises:
        Precondition: this machine cannot mount for an ordinary user.
    """

    def __init__(
        self, config_file: Path, mountpoint: Path, status_file: Path, *, allow_other: bool, log_level: str
    ) -> None:
        _check_can_mount(allow_other=allow_other)
        self._mountpoint = mountpoint
        self._last_words = ""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable, "-m", "fusemount.daemon", "--config", str(config_file), "--mountpoint", str(mountpoint),
            "--log-level", log_level, "--status-file", str(status_file), "--report-fd", str(theirs.fileno()),
            *(["--allow-other"] if allow_other else []),
        ]  # fmt: skip
        with theirs:
            # A session of its own: a terminal's Ctrl-C is for us to act on, and once only.
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._listener = threading.Thread(target=self._listen, args=(ours,), name="daemon's reports", daemon=True)
        self._listener.start()

    def wait_served(self, stop: threading.Event, deadline_s: float) -> None:
        """Return once the mount is there, or *stop* is set.

        Raises:
            Unavailable: the daemon ended, or did not mount in *deadline_s* seconds.
        """
        end = time.monotonic() + deadline_s
        while not stop.wait(_TICK_S):
            if mountinfo.at(mountinfo.read(), str(self._mountpoint)):
                return
            if self._process.poll() is not None:
                self._listener.join()
                why = self._last_words or f"the daemon ended with code {self._process.returncode}; the log says why"
                raise Unavailable(f"{self._mountpoint}: {why}")
            if time.monotonic() > end:
                raise Unavailable(f"{self._mountpoint}: not mounted after {deadline_s:.0f} s; the log says why")

    def wait_end(self, stop: threading.Event) -> int:
        """Serve until *stop* is set; the exit code is 1 where the daemon ended before that."""
        while not stop.wait(_TICK_S):
            if (code := self._process.poll()) is not None:
                is_unmounted = not mountinfo.at(mountinfo.read(), str(self._mountpoint))
                if code == 0 and is_unmounted:
                    return 0  # somebody else unmounted it, by fusermount3 perhaps
                log.error("daemon.ended", code=code, last_words=self._last_words)
                return 1
        return 0

    def close(self) -> None:
        """End the daemon, which unmounts; a daemon that does not end is killed, and its mount taken off later."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            log.warning("daemon.killed", pid=self._process.pid)
            self._process.kill()
            self._process.wait()
        self._listener.join()

    def _listen(self, reports: socket.socket) -> None:
        with reports:
            while packet := reports.recv(65536):
                words = msgspec.json.decode(packet, type=Report | LastWords)
                if isinstance(words, LastWords):
                    self._last_words = words.text


def _check_can_mount(*, allow_other: bool) -> None:
    import shutil

    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Precondition("/dev/fuse: cannot be opened; load the module with `modprobe fuse`, or ask for access to it")
    if shutil.which("fusermount3") is None:
        raise Precondition("fusermount3: not found; install the package fuse3, or mount as root")
    if allow_other and os.geteuid() and not _allows_other():
        raise Precondition(
            "--allow-other: not permitted; an administrator must write user_allow_other to /etc/fuse.conf"
        )


def _allows_other() -> bool:
    """Whether `/etc/fuse.conf` lets ordinary users share a mount; format: fuse.conf(5)."""
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
