"""Who keeps the daemons alive, with children that are small programs."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from fusemount.supervisor import Supervisor
from tests.fusemount.mounts import until
from tests.fusemount.test_report import report

_CHILD = """
import socket, sys
reports = socket.socket(fileno=int(sys.argv[sys.argv.index("--report-fd") + 1]))
{body}
"""
_SERVE = f"reports.send({msgspec.json.encode(report(1, hits=5))!r}); sys.stdin = None; import signal; signal.pause()"


@contextmanager
def supervised(body: str, processes: int = 2) -> Iterator[Supervisor]:
    supervisor = Supervisor("ns/name", "config", "socket", processes)
    supervisor._command = [sys.executable, "-I", "-S", "-c", _CHILD.format(body=body)]
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def pids(supervisor: Supervisor) -> set[int]:
    return {process.pid for process in supervisor.status().processes}


def test_daemons_are_started_and_heard() -> None:
    with supervised(_SERVE) as supervisor:
        until(lambda: supervisor.status().reads.hits == 10)

        assert supervisor.is_ready
        assert supervisor.problem == ""
        assert len(pids(supervisor)) == 2


def test_killed_daemon_is_replaced_and_what_it_served_still_counts() -> None:
    with supervised(_SERVE) as supervisor:
        until(lambda: supervisor.status().reads.hits == 10)
        victim = min(pids(supervisor))

        os.kill(victim, signal.SIGKILL)

        until(lambda: supervisor.status().reads.hits == 15)
        assert victim not in pids(supervisor)
        assert len(pids(supervisor)) == 2


def test_stop_ends_every_daemon() -> None:
    with supervised(_SERVE) as supervisor:
        until(lambda: supervisor.is_ready)
        started = pids(supervisor)

    assert not any(os.path.exists(f"/proc/{pid}/exe") for pid in started)
    assert not supervisor.is_ready


def test_daemons_that_end_at_once_are_started_less_and_less_often() -> None:
    started: list[float] = []
    with supervised("sys.exit(1)", processes=1) as supervisor:
        spawn = supervisor._spawn

        def count() -> None:
            started.append(time.monotonic())
            spawn()

        supervisor._spawn = count  # type: ignore[method-assign]  # only to count
        until(lambda: len(started) >= 4)

    pauses = [after - before for before, after in itertools.pairwise(started)]
    assert pauses[-1] > 0.5
    assert pauses[-1] > pauses[0]


def test_last_words_of_a_daemon_tell_why_there_is_none() -> None:
    words = '{"type":"LastWords","text":"no disk"}'
    with supervised(f"reports.send(b'{words}'); sys.exit(1)") as supervisor:
        until(lambda: supervisor.problem == "no disk")

        assert not supervisor.is_ready


def test_daemon_that_falls_silent_is_killed_and_replaced() -> None:
    with supervised(_SERVE, processes=1) as supervisor:
        until(lambda: supervisor.is_ready)
        (silent,) = pids(supervisor)
        with supervisor._lock:
            supervisor._children[0].heard -= 31

        until(lambda: pids(supervisor) != {silent})


def test_supervisor_that_was_never_started_can_be_stopped() -> None:
    before = threading.active_count()

    Supervisor("ns/name", "config", "socket", 2).stop()

    assert threading.active_count() == before
