"""Processes of a mount that are killed, stopped or told to end while sixteen others read from it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.origin import Asked, Fault, FaultyOrigin
from tests.faults.readers import outcomes, reading
from tests.faults.sizes import MIB, READERS, ROUNDS, cases, in_full
from tests.faults.watching import pids, status
from tests.fusemount.mounts import Mounted, content, headrace, layers, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

FILES = {
    "large": content(9 * MIB + 5, 1),
    "middle": content(2 * MIB + 77, 2),
    **{f"small-{number}": content(20_000 + number, 100 + number) for number in range(30)},
}
HELD_FROM = 4 * MIB


def hold_the_tail(asked: Asked) -> Fault | None:
    """So that readers wait for bytes that are on their way when something happens."""
    is_tail = asked.name == "large" and asked.offset + asked.length > HELD_FROM
    return Fault(stall_after=1000) if is_tail and asked.method == "GET" else None


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin(hold_the_tail) as made:
        for name, data in FILES.items():
            made.put(name, data)
        yield made


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}/exe").exists()


def until_replaced(mount: Mounted, victims: set[int]) -> None:
    def is_replaced() -> bool:
        daemons = set(pids(mount, "daemon"))
        return len(daemons) == 2 and not daemons & victims and all(map(is_gone, victims))

    until(is_replaced)


@pytest.mark.parametrize(
    ("number", "which"),
    cases(
        [(signal.SIGKILL, "all"), (signal.SIGSTOP, "one")],
        [(signal.SIGKILL, "one"), (signal.SIGSTOP, "all")],
    ),
    ids=str,
)
def test_readers_notice_nothing_of_daemons_that(
    origin: FaultyOrigin, tmp_path: Path, number: signal.Signals, which: str
) -> None:
    with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
        origin.until_stalled()
        for _ in range(ROUNDS):
            victims = set(sorted(pids(mount, "daemon"))[: 1 if which == "one" else 2])
            for victim in victims:
                os.kill(victim, number)
            until_replaced(mount, victims)
        origin.release()

        assert readers.finish() == []


@in_full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_spare_daemon_that_is_lost_is_not_relied_upon(
    origin: FaultyOrigin, tmp_path: Path, number: signal.Signals
) -> None:
    with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
        origin.until_stalled()
        until(lambda: bool(pids(mount, "standby")))
        victims = set(pids(mount, "daemon"))

        for victim in [*pids(mount, "standby"), *victims]:
            os.kill(victim, number if victim not in victims else signal.SIGKILL)
        until_replaced(mount, victims)
        origin.release()

        assert readers.finish() == []


@in_full
def test_readers_notice_nothing_of_a_broker_that_is_stopped(origin: FaultyOrigin, tmp_path: Path) -> None:
    with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
        origin.until_stalled()
        (broker,) = pids(mount, "broker")

        os.kill(broker, signal.SIGSTOP)
        try:
            origin.release()
            assert readers.finish() == []
        finally:
            os.kill(broker, signal.SIGCONT)

        assert outcomes(mount.path, FILES) == dict.fromkeys(FILES, "")


def test_tree_of_processes_that_was_killed_is_mounted_again_over_its_remains(
    origin: FaultyOrigin, tmp_path: Path
) -> None:
    origin.release()
    with mounted(tmp_path, origin.url) as mount:
        with reading(mount.path, FILES, READERS) as readers:
            assert readers.finish() == []
        until(lambda: status(mount)["cache"]["cachedBytes"] == sum(map(len, FILES.values())))
        victims = [process["pid"] for process in status(mount)["processes"]]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        until(lambda: all(map(is_gone, victims)))
        before = origin.counts()

        again = headrace("mount", "--background", "--cache-dir", str(mount.cache), origin.url, str(mount.path))

        assert again.returncode == 0, again.stderr
        assert layers(mount.path) == 1
        with reading(mount.path, FILES, READERS) as readers:
            assert readers.finish() == []
        fetched = origin.counts() - before
        assert not [request for request in fetched if request.startswith("GET ") and request != "GET "]
        assert "Traceback" not in again.stderr


def test_mount_that_is_told_to_end_while_busy_ends_cleanly(origin: FaultyOrigin, tmp_path: Path) -> None:
    with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
        origin.until_stalled()
        ended = [process["pid"] for process in status(mount)["processes"]]

        os.kill(pids(mount, "broker")[0], signal.SIGTERM)

        until(lambda: all(map(is_gone, ended)))
        assert layers(mount.path) == 0
        origin.release()
        assert not [problem for problem in readers.finish() if "differs" in problem or "bytes" in problem]
    log = mount.log.read_text()
    assert "Traceback" not in log

    with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
        assert readers.finish() == []


def test_readers_of_a_mount_whose_broker_was_killed_read_on(origin: FaultyOrigin, tmp_path: Path) -> None:
    with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
        origin.until_stalled()
        (broker,) = pids(mount, "broker")

        os.kill(broker, signal.SIGKILL)
        until(lambda: is_gone(broker))
        origin.release()

        assert readers.finish() == []
