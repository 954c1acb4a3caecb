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


_TALK = f"""
import time
while True:
    reports.send({msgspec.json.encode(report(1, hits=5))!r})
    time.sleep(0.2)
"""
_WAIT = f"""
if "--standby" in sys.argv:
    reports.send({msgspec.json.encode(report(1, standby=True, ready=False))!r})
    if not reports.recv(16):
        sys.exit()
"""


@contextmanager
def supervised(body: str, processes: int = 2, *, standby: bool = False) -> Iterator[Supervisor]:
    supervisor = Supervisor("ns/name", "config", "socket", processes, standby=standby)
    supervisor._command = [sys.executable, "-I", "-S", "-c", _CHILD.format(body=body)]
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def pids(supervisor: Supervisor, role: str = "daemon") -> set[int]:
    return {process.pid for process in supervisor.status().processes if process.role == role}


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

        def count(*, standby: bool) -> None:
            started.append(time.monotonic())
            spawn(standby=standby)

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


def test_stopped_daemon_is_killed_and_replaced() -> None:
    with supervised(_SERVE, processes=1) as supervisor:
        until(lambda: supervisor.is_ready)
        (stopped,) = pids(supervisor)

        os.kill(stopped, signal.SIGSTOP)

        until(lambda: pids(supervisor) not in ({stopped}, set()))


def test_daemon_that_falls_silent_is_killed_and_replaced() -> None:
    with supervised(_SERVE, processes=1) as supervisor:  # reports once, then sleeps for ever
        until(lambda: supervisor.is_ready)
        silent = pids(supervisor)

        until(lambda: pids(supervisor) not in (silent, set()))


def test_one_process_stands_by_once_the_daemons_serve() -> None:
    with supervised(_WAIT + _TALK, standby=True) as supervisor:
        until(lambda: len(pids(supervisor, "standby")) == 1)

        assert len(pids(supervisor)) == 2
        assert supervisor.status().reads.hits == 10


def test_standby_takes_the_place_of_a_killed_daemon_and_gets_a_successor() -> None:
    with supervised(_WAIT + _TALK, standby=True) as supervisor:
        until(lambda: len(pids(supervisor, "standby")) == 1 and supervisor.is_standby_ready)
        (spare,) = pids(supervisor, "standby")
        victim = min(pids(supervisor))

        os.kill(victim, signal.SIGKILL)

        until(lambda: spare in pids(supervisor))
        assert victim not in pids(supervisor)
        until(lambda: len(pids(supervisor, "standby") - {spare}) == 1)


def test_daemon_that_has_to_be_alone_is_left_alone() -> None:
    alone = _TALK.replace('"reasons":{}', '"reasons":{"processes":"no shim"}')
    with supervised(_WAIT + alone, processes=1, standby=True) as supervisor:
        until(lambda: supervisor.is_ready)
        supervisor._wanted = 2

        until(lambda: len(pids(supervisor, "standby")) == 1)
        assert len(pids(supervisor)) == 1


def test_killed_standby_is_replaced_and_nobody_else() -> None:
    with supervised(_WAIT + _TALK, standby=True) as supervisor:
        until(lambda: supervisor.is_standby_ready)
        (spare,), serving = pids(supervisor, "standby"), pids(supervisor)

        os.kill(spare, signal.SIGKILL)

        until(lambda: len(pids(supervisor, "standby") - {spare}) == 1)
        assert pids(supervisor) == serving


def test_supervisor_that_was_never_started_can_be_stopped() -> None:
    before = threading.active_count()

    Supervisor("ns/name", "config", "socket", 2).stop()

    assert threading.active_count() == before
