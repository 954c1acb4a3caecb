"""The count of a tier's bytes: never above the quota, whoever asks, and put right after somebody died."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcache.usage import Usage

MIB = 1 << 20
LIMIT = 100 * MIB


@pytest.fixture
def usage(tmp_path: Path) -> Iterator[Usage]:
    usage = Usage(tmp_path / "usage", 0)
    yield usage
    usage.close()


def test_reserved_bytes_count_at_once_for_everybody(usage: Usage, tmp_path: Path) -> None:
    other = Usage(tmp_path / "usage", 999)

    assert usage.reserve(30 * MIB, LIMIT)

    assert other.used == usage.used == 30 * MIB
    assert not other.reserve(71 * MIB, LIMIT)
    assert other.reserve(70 * MIB, LIMIT)
    other.close()


def test_bytes_that_were_not_written_are_given_back(usage: Usage) -> None:
    usage.reserve(30 * MIB, LIMIT)

    usage.release(10 * MIB)

    assert usage.used == 20 * MIB


def test_first_to_count_starts_from_what_is_known(tmp_path: Path) -> None:
    usage = Usage(tmp_path / "usage", 5 * MIB)

    assert usage.used == 5 * MIB
    usage.close()


@pytest.mark.parametrize("garbage", [b"", b"HRUSE", bytes(4096), b"x" * 5000])
def test_torn_count_is_started_afresh(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "usage").write_bytes(garbage)

    usage = Usage(tmp_path / "usage", 7)

    assert usage.used == 7
    usage.close()


def test_little_is_taken_out_of_a_chunk_and_the_rest_given_back(usage: Usage) -> None:
    assert usage.reserve(1000, LIMIT)
    assert usage.reserve(1000, LIMIT)
    assert 2000 <= usage.used <= 2000 + MIB

    usage.settle(2000)

    assert usage.used == 2000


def test_chunks_do_not_keep_the_last_bytes_from_being_used(usage: Usage) -> None:
    assert usage.reserve(LIMIT - 10, LIMIT)

    assert usage.reserve(10, LIMIT)
    assert not usage.reserve(1, LIMIT)
    assert usage.used == LIMIT


def test_threads_together_keep_the_limit(usage: Usage) -> None:
    granted: list[int] = []

    def take() -> None:
        granted.extend(MIB for _ in range(50) if usage.reserve(MIB, LIMIT))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(granted) == usage.used == LIMIT


_TAKER = """
import sys
from pathlib import Path
from blockcache.usage import Usage
usage = Usage(Path(sys.argv[1]), 0)
print("ready", flush=True)
sys.stdin.readline()
taken = sum(7000 for _ in range(20_000) if usage.reserve(7000, int(sys.argv[2])))
print(taken, flush=True)
sys.stdin.readline()
"""


def taker(path: Path, limit: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _TAKER, str(path), str(limit)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def say(process: subprocess.Popen[str], heard: bool = True) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go on\n")
    process.stdin.flush()
    return process.stdout.readline() if heard else ""


def test_two_processes_at_once_keep_the_limit_to_the_byte(usage: Usage, tmp_path: Path) -> None:
    with taker(tmp_path / "usage", LIMIT) as first, taker(tmp_path / "usage", LIMIT) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        assert first.stdin is not None
        first.stdin.write("go on\n")
        first.stdin.flush()
        taken = int(say(second))
        assert first.stdout is not None
        taken += int(first.stdout.readline())

        assert LIMIT - 2 * 7000 - 2 * (LIMIT // 256) <= taken <= usage.used <= LIMIT
        for process in (first, second):
            say(process, heard=False)


def test_what_a_killed_process_reserved_counts_until_somebody_has_looked(usage: Usage, tmp_path: Path) -> None:
    with taker(tmp_path / "usage", LIMIT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        say(process)
        assert usage.leftovers() == {}
        process.kill()
        process.wait()

    left = usage.leftovers()
    assert sum(left.values()) == usage.used
    assert not usage.reserve(LIMIT, LIMIT)

    usage.begin_recount(left)(3 * MIB)  # so much of it is there

    assert usage.used == 3 * MIB
    assert usage.leftovers() == {}


def test_recount_keeps_what_living_processes_have_not_told_yet(usage: Usage, tmp_path: Path) -> None:
    other = Usage(tmp_path / "usage", 0)
    usage.reserve(10 * MIB, LIMIT)
    other.reserve(20 * MIB, LIMIT)
    usage.settle(10 * MIB)
    usage.free(4 * MIB)  # evicted, but the row was wrong and said 1 MiB less

    usage.begin_recount({})(5 * MIB)

    assert usage.used == 25 * MIB
    other.close()


def test_what_is_reserved_during_a_recount_is_not_lost(usage: Usage) -> None:
    usage.reserve(10 * MIB, LIMIT)
    usage.settle(10 * MIB)
    finish = usage.begin_recount({})
    usage.reserve(5 * MIB, LIMIT)

    finish(8 * MIB)

    assert usage.used == 13 * MIB


def test_slot_of_a_dead_process_is_used_again_when_it_was_seen_to(usage: Usage, tmp_path: Path) -> None:
    for _ in range(600):  # more than there are slots
        Usage(tmp_path / "usage", 0).close()

    assert usage.used == 0


def test_evictions_show(usage: Usage) -> None:
    before = usage.evictions

    usage.free(0)

    assert usage.evictions != before
