"""Keeps the daemon processes of one mount alive: starts them, hears their reports, replaces those that die or hang.

A daemon that is gone costs its readers only the wait for the next one: the broker holds the mount and the kernel
sends the open requests again. A broker that is gone leaves its mount to the daemons it had, until that mount's last
reader ends; beside them, new daemons wait for the next broker.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import msgspec

from fusemount.report import LastWords, Process, Reads, Report, Status, summarize
from obs import logs

log = logs.get("supervisor")

_HUNG_AFTER_S = 30.0
_SETTLED_AFTER_S = 5.0
_LAST_BACKOFF_S = 5.0
_HOPELESS_AFTER = 4
_STOP_GRACE_S = 10.0
_TICK_S = 0.25


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    reports: socket.socket
    started: float
    heard: float
    last: Report | None = None

    @property
    def is_detached(self) -> bool:
        """It serves a mount whose broker is gone, for as long as that has readers; it counts no more."""
        return self.last is not None and self.last.detached


class Supervisor:
    """Runs *processes* daemons of *config_file* on the broker at *broker_socket*, as user *uid* (0: our own).

    `start` returns at once; `stop` ends them. Thread-safe.
    """

    def __init__(
        self,
        dataset: str,
        config_file: str,
        broker_socket: str,
        processes: int,
        uid: int = 0,
        *,
        log_level: str = "info",
    ) -> None:
        self._dataset, self._uid, self._wanted = dataset, uid, processes
        self._command = [
            sys.executable, "-m", "fusemount.daemon", "--config", config_file, "--broker-socket", broker_socket,
            "--log-level", log_level,
        ]  # fmt: skip
        self._children: list[_Child] = []
        self._earlier = Reads()
        self._failures, self._not_before = 0, 0.0
        self._last_words = ""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the daemons: SIGTERM, and SIGKILL for those that do not go. Never started is fine."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for child in self._children:
            child.process.terminate()
        end = time.monotonic() + _STOP_GRACE_S
        for child in self._children:
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("daemon.killed", pid=child.process.pid)
                child.process.kill()
                child.process.wait()
            child.reports.close()
        self._children.clear()
        self._selector.close()

    @property
    def is_ready(self) -> bool:
        with self._lock:
            return any(
                child.last is not None and child.last.ready and not child.is_detached for child in self._children
            )

    @property
    def problem(self) -> str:
        """Why no daemon comes up, as the last of them put it; empty while there is hope."""
        with self._lock:
            is_hopeless = self._failures >= _HOPELESS_AFTER and not any(child.last for child in self._children)
            return (self._last_words or "its daemons end at once; the log says why") if is_hopeless else ""

    def status(self) -> Status:
        """All daemons together, as of their last reports."""
        with self._lock:
            reports = [child.last for child in self._children if child.last is not None]
            processes = tuple(
                Process(child.process.pid, "daemon", child.last.rss_bytes if child.last else 0)
                for child in self._children
            )
            return summarize(self._dataset, reports, self._earlier, processes, survives_kill=True)

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            attached = sum(not child.is_detached for child in self._children)
            if attached < self._wanted and time.monotonic() >= self._not_before:
                self._spawn()
                continue
            for key, _ in self._selector.select(_TICK_S):
                self._hear(key.data)
            self._replace_lost()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        switch = {"user": self._uid, "group": self._uid, "extra_groups": []} if self._uid and not os.geteuid() else {}
        with theirs:
            process = subprocess.Popen(
                [*self._command, "--report-fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                **switch,  # type: ignore[call-overload]  # mypy cannot match the keywords
            )
        now = time.monotonic()
        child = _Child(process, ours, now, now)
        with self._lock:
            self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)
        log.info("daemon.started", pid=process.pid)

    def _hear(self, child: _Child) -> None:
        try:
            packet = child.reports.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not packet:
            self._selector.unregister(child.reports)  # its end is gone: the process is ending
            return
        report = msgspec.json.decode(packet, type=Report | LastWords)
        with self._lock:
            if isinstance(report, LastWords):
                self._last_words = report.text
            else:
                child.last, child.heard = report, time.monotonic()

    def _replace_lost(self) -> None:
        now = time.monotonic()
        for child in list(self._children):
            if child.process.poll() is None:
                if child.last is not None and now - child.heard > _HUNG_AFTER_S:
                    log.error("daemon.hung", pid=child.process.pid, silent_s=round(now - child.heard))
                    child.process.send_signal(signal.SIGKILL)
                    child.heard = now
                continue
            self._bury(child, now)

    def _bury(self, child: _Child, now: float) -> None:
        log.warning("daemon.ended", pid=child.process.pid, code=child.process.returncode)
        while child.reports.fileno() in self._selector.get_map():
            self._hear(child)  # what it said last; then the end, which unregisters it
        child.reports.close()
        with self._lock:
            self._children.remove(child)
            if child.last is not None:
                self._earlier = Reads(
                    self._earlier.hits + child.last.hits,
                    self._earlier.misses + child.last.misses,
                    self._earlier.bytes + child.last.read_bytes,
                )
        self._failures = 0 if now - child.started > _SETTLED_AFTER_S else self._failures + 1
        if self._failures > 1:
            self._not_before = now + min(_LAST_BACKOFF_S, 0.1 * 2**self._failures)
