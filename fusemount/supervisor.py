"""Keeps the daemon processes of one mount alive: starts them, hears their reports, replaces those that die or hang.

A daemon that is gone costs its readers only the wait for the next one: the broker holds the mount and the kernel
sends the open requests again. So that this wait is short, one more process is kept that has done everything but touch
the mount. A broker that is gone leaves its mount to the daemons it had, until that mount's last reader ends; beside
them, new daemons wait for the next broker.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import msgspec

from fusemount.pulse import Pulse, vital_of
from fusemount.report import LastWords, Process, Rate, Reads, Report, Status, summarize
from obs import logs

log = logs.get("supervisor")

_SETTLED_AFTER_S = 5.0
_LAST_BACKOFF_S = 5.0
_HOPELESS_AFTER = 4
_STOP_GRACE_S = 10.0
_TICK_S = 0.25
_GO = b"go"


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    reports: socket.socket
    started: float
    end_fd: int
    """Readable when the process has ended."""
    standby: bool = False
    pulse: Pulse = field(default_factory=Pulse)
    last: Report | None = None

    @property
    def is_detached(self) -> bool:
        """It serves a mount whose broker is gone, for as long as that has readers; it counts no more."""
        return self.last is not None and self.last.detached

    @property
    def role(self) -> str:
        return "standby" if self.standby else "daemon"

    def close(self) -> None:
        self.reports.close()
        os.close(self.end_fd)


class Supervisor:
    """Runs *processes* daemons of *config_file* on the broker at *broker_socket*, as user *uid* (0: our own), and with
    *standby* one more that waits to take over.

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
        standby: bool = True,
    ) -> None:
        self._dataset, self._uid, self._wanted, self._with_standby = dataset, uid, processes, standby
        self._command = [
            sys.executable, "-m", "fusemount.daemon", "--config", config_file, "--broker-socket", broker_socket,
            "--log-level", log_level,
        ]  # fmt: skip
        self._children: list[_Child] = []
        self._earlier = Reads()
        self._rate = Rate()
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
            child.process.send_signal(signal.SIGKILL if child.standby else signal.SIGTERM)
        end = time.monotonic() + _STOP_GRACE_S
        for child in self._children:
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("daemon.killed", pid=child.process.pid)
                child.process.kill()
                child.process.wait()
            child.close()
        self._children.clear()
        self._selector.close()

    @property
    def is_ready(self) -> bool:
        with self._lock:
            return any(
                child.last is not None and child.last.ready and not child.is_detached for child in self._children
            )

    @property
    def is_standby_ready(self) -> bool:
        """Whether a process waits that could take a daemon's place at once."""
        with self._lock:
            return any(child.standby and child.last is not None for child in self._children)

    @property
    def problem(self) -> str:
        """Why no daemon comes up, as the last of them put it; empty while there is hope."""
        with self._lock:
            is_heard = any(child.last is not None and not child.last.standby for child in self._children)
            is_hopeless = self._failures >= _HOPELESS_AFTER and not is_heard
            return (self._last_words or "its daemons end at once; the log says why") if is_hopeless else ""

    def status(self) -> Status:
        """All daemons together, as of their last reports."""
        with self._lock:
            reports = [child.last for child in self._children if child.last is not None]
            processes = tuple(
                Process(child.process.pid, child.role, child.last.rss_bytes if child.last else 0)
                for child in self._children
            )
            return summarize(
                self._dataset,
                reports,
                self._earlier,
                processes,
                survives_kill=True,
                bytes_per_second=self._rate.per_second,
            )

    def _supervise(self) -> None:
        looked = time.monotonic()
        while not self._stopping.is_set():
            if self._fill():
                continue
            for key, _ in self._selector.select(_TICK_S):
                if key.data is not None:
                    self._hear(key.data)
            now = time.monotonic()
            # Where we come late ourselves, the daemons had no more of the CPU than we had.
            self._replace_lost(now, min(now - looked, 2 * _TICK_S))
            self._rate.note(now, self._delivered())
            looked = now

    def _fill(self) -> bool:
        """Start the next process that is missing, if its time has come; whether one was."""
        serving = [child for child in self._children if not child.is_detached and not child.standby]
        spares = [child for child in self._children if child.standby]
        # A daemon that can only be alone says so; others would be refused by the broker for ever.
        must_be_alone = any(child.last is not None and "processes" in child.last.reasons for child in serving)
        if len(serving) < (1 if must_be_alone else self._wanted):
            if spares and spares[0].last is not None:
                self._promote(spares[0])
                return True
            if time.monotonic() < self._not_before:
                return False
            self._spawn(standby=False)
            return True
        is_settled = all(child.last is not None and child.last.ready for child in serving)
        if not self._with_standby or spares or not is_settled or time.monotonic() < self._not_before:
            return False
        self._spawn(standby=True)
        return True

    def _promote(self, child: _Child) -> None:
        child.standby = False
        child.started = time.monotonic()
        child.pulse.beat()
        try:
            child.reports.send(_GO)
        except OSError as error:
            # It has just ended; it will be buried, and another one started.
            log.warning("standby.lost", pid=child.process.pid, error=str(error))
            return
        log.info("daemon.promoted", pid=child.process.pid)

    def _spawn(self, *, standby: bool) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        switch = {"user": self._uid, "group": self._uid, "extra_groups": []} if self._uid and not os.geteuid() else {}
        words = [*self._command, "--report-fd", str(theirs.fileno()), *(["--standby"] if standby else [])]
        with theirs:
            process = subprocess.Popen(
                words,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is for us to act on, not for all of us at once
                **switch,  # type: ignore[call-overload]  # mypy cannot match the keywords
            )
        child = _Child(process, ours, time.monotonic(), os.pidfd_open(process.pid), standby)
        with self._lock:
            self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._selector.register(child.end_fd, selectors.EVENT_READ)
        log.info("daemon.started", pid=process.pid, role=child.role)

    def _hear(self, child: _Child) -> None:
        try:
            packet = child.reports.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""  # it ended with our word to it unread
        if not packet:
            self._selector.unregister(child.reports)  # its end is gone: the process is ending
            return
        report = msgspec.json.decode(packet, type=Report | LastWords)
        with self._lock:
            if isinstance(report, LastWords):
                self._last_words = report.text
            else:
                child.last = report
                child.pulse.beat()

    def _delivered(self) -> int:
        return self._earlier.bytes + sum(child.last.read_bytes for child in self._children if child.last is not None)

    def _replace_lost(self, now: float, elapsed_s: float) -> None:
        for child in list(self._children):
            if child.process.poll() is not None:
                self._bury(child, now)
                continue
            why = child.pulse.look(elapsed_s, vital_of(child.process.pid))
            has_reported = child.last is not None and not child.last.standby
            if why == "stopped" or (why and has_reported):
                log.error("daemon.hung", pid=child.process.pid, why=why, silent_s=round(child.pulse.silent_s, 1))
                child.process.send_signal(signal.SIGKILL)
                child.pulse.beat()

    def _bury(self, child: _Child, now: float) -> None:
        log.warning("daemon.ended", pid=child.process.pid, code=child.process.returncode, role=child.role)
        while child.reports.fileno() in self._selector.get_map():
            self._hear(child)  # what it said last; then the end, which unregisters it
        self._selector.unregister(child.end_fd)
        child.close()
        with self._lock:
            self._children.remove(child)
            if child.last is not None:
                self._earlier = Reads(
                    self._earlier.hits + child.last.hits,
                    self._earlier.misses + child.last.misses,
                    self._earlier.bytes + child.last.read_bytes,
                    pushed_bytes=self._earlier.pushed_bytes + child.last.pushed_bytes,
                )
        self._failures = 0 if now - child.started > _SETTLED_AFTER_S else self._failures + 1
        if self._failures > 1:
            self._not_before = now + min(_LAST_BACKOFF_S, 0.1 * 2**self._failures)
