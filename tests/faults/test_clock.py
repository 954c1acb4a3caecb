"""Clocks that jump: the wall clock under a running mount, and the time since boot between two mounts of one cache."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.origin import FaultyOrigin
from tests.faults.readers import outcomes, reading
from tests.faults.sizes import MIB, cases, in_full
from tests.faults.watching import status
from tests.fusemount.mounts import content, headrace, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

DAY_S = 86_400
FILES = {"large": content(3 * MIB + 7, 1), "small": content(9_000, 2)}
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as made:
        for name, data in FILES.items():
            made.put(name, data)
        yield made


class WallClock:
    """Of every process that is started while it is in the environment; the other clocks go on as they are."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "clock"
        self.shift(0)
        monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(self._file))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        monkeypatch.setenv("FAKETIME_DONT_RESET", "1")

    def shift(self, seconds: int) -> None:
        """Let it be so far from the true time, from now on."""
        self._file.write_text(f"{seconds:+d}\n")
        self._file.chmod(0o644)

    def read(self) -> float:
        command = [sys.executable, "-c", "import time; print(time.time())"]
        return float(subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout)


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs libfaketime; scripts/bootstrap installs it")
def test_wall_clock_that_jumps_neither_keeps_old_names_nor_loses_the_cache(
    origin: FaultyOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WallClock(tmp_path, monkeypatch)
    with mounted(tmp_path, "--ttl", "2", origin.url) as mount:
        assert set(outcomes(mount.path, FILES).values()) == {""}
        for days in (400, -400, 0):
            clock.shift(days * DAY_S)
            before = origin.counts()
            with reading(mount.path, FILES, 4) as readers:
                assert readers.finish() == []
            assert not contents_fetched(origin, before)

            origin.put(f"new-{days}", b"x")
            until(lambda name=f"new-{days}": name in os.listdir(mount.path))  # type: ignore[misc]  # of this turn
        until(lambda: status(mount)["sources"][0]["healthy"])


@in_full
@pytest.mark.skipif(not FAKETIME.exists(), reason="needs libfaketime; scripts/bootstrap installs it")
@pytest.mark.parametrize("days", cases([-400], [400]))
def test_cache_of_another_day_is_found_and_its_names_are_refreshed(
    origin: FaultyOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    with mounted(tmp_path, "--ttl", "2", origin.url) as mount:
        assert set(outcomes(mount.path, FILES).values()) == {""}
        until(lambda: status(mount)["cache"]["cachedBytes"] >= sum(map(len, FILES.values())))
    clock = WallClock(tmp_path, monkeypatch)
    clock.shift(days * DAY_S)
    assert abs(clock.read() - days * DAY_S - time.time()) < DAY_S
    before = origin.counts()

    with mounted(tmp_path, "--ttl", "2", origin.url) as mount:
        assert set(outcomes(mount.path, FILES).values()) == {""}
        assert not contents_fetched(origin, before)
        origin.put("new", b"x")
        until(lambda: "new" in os.listdir(mount.path))


@in_full
def test_cache_is_found_by_mounts_whose_clocks_since_boot_differ(origin: FaultyOrigin, tmp_path: Path) -> None:
    """As in a container with a time namespace of its own, or on a machine that was restored from a snapshot."""
    with mounted(tmp_path, "--ttl", "2", origin.url) as mount:
        assert set(outcomes(mount.path, FILES).values()) == {""}
        until(lambda: status(mount)["cache"]["cachedBytes"] >= sum(map(len, FILES.values())))
    before = origin.counts()

    for since_boot_s in (10 * DAY_S, 0):
        with mounted_with_clock(tmp_path, since_boot_s, "--ttl", "2", origin.url):
            assert set(outcomes(mount.path, FILES).values()) == {""}
            assert not contents_fetched(origin, before)
            origin.put(f"new-{since_boot_s}", b"x")
            until(lambda name=f"new-{since_boot_s}": name in os.listdir(mount.path))  # type: ignore[misc]  # of this turn


@contextlib.contextmanager
def mounted_with_clock(folder: Path, offset_s: int, *words: str) -> Iterator[None]:
    """As `mounted`, with clocks of the time since boot that are *offset_s* ahead."""
    clocks = ["unshare", "--time", f"--boottime={offset_s}", f"--monotonic={offset_s}", "--fork"]
    command = [sys.executable, "-m", "headrace.main", "mount", "--background", "--cache-dir", str(folder / "cache")]
    subprocess.run([*clocks, *command, *words, str(folder / "mnt")], check=True, capture_output=True, timeout=40)
    try:
        yield
    finally:
        headrace("umount", "--lazy", str(folder / "mnt"))


def contents_fetched(origin: FaultyOrigin, before: Counter[str]) -> list[str]:
    return [request for request in origin.counts() - before if request in {f"GET {name}" for name in FILES}]
