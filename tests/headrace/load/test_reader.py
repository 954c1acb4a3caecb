"""Reading files with threads, and counting it. Any folder will do; what a mount adds is tested with a mount."""

import os
from pathlib import Path

import pytest

from headrace.load.reader import CACHED_ATTRIBUTE, Count, Loader

_WAIT_S = 20


def loaded(*paths: Path, parallel: int = 4, bytes_per_s: int = 0) -> tuple[Count, list[tuple[str, str]]]:
    loader = Loader([str(path) for path in paths], parallel=parallel, bytes_per_s=bytes_per_s)
    loader.start()
    assert loader.finished.wait(_WAIT_S)
    failures = []
    while not loader.failures.empty():
        failures.append(loader.failures.get())
    return loader.count, failures


def test_every_file_is_read_once(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}").write_bytes(bytes(number))

    count, failures = loaded(tmp_path)

    assert count == Count(found_files=50, found_bytes=1225, loaded_files=50, loaded_bytes=1225, is_walked=True)
    assert failures == []


def test_more_files_than_the_queue_holds_are_all_read(tmp_path: Path) -> None:
    for number in range(2500):
        (tmp_path / f"{number}").touch()

    count, _ = loaded(tmp_path, parallel=1)

    assert (count.found_files, count.loaded_files) == (2500, 2500)


def test_file_that_says_it_is_cached_is_not_read(tmp_path: Path) -> None:
    for name, percent in (("all", b"100"), ("half", b"50"), ("nothing", b"")):
        (tmp_path / name).write_bytes(bytes(1000))
        if percent:
            os.setxattr(tmp_path / name, CACHED_ATTRIBUTE, percent)

    count, _ = loaded(tmp_path)

    assert (count.cached_files, count.cached_bytes) == (1, 1000)
    assert (count.loaded_files, count.loaded_bytes) == (2, 2000)


def test_file_that_fails_is_told_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x")
    preadv = os.preadv
    broken = (tmp_path / "b").stat().st_ino

    def fail_b(fd: int, buffers: list[bytearray], offset: int) -> int:
        if os.fstat(fd).st_ino == broken:
            raise OSError(5, "Input/output error")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", fail_b)

    count, failures = loaded(tmp_path)

    assert failures == [(str(tmp_path / "b"), "Input/output error")]
    assert (count.loaded_files, count.failed, count.done_files) == (2, 1, 3)


def test_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x")
    preadv = os.preadv
    calls: list[int] = []

    def stale_at_first(fd: int, buffers: list[bytearray], offset: int) -> int:
        calls.append(offset)
        if len(calls) == 1:
            raise OSError(116, "Stale file handle")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", stale_at_first)

    count, failures = loaded(tmp_path)

    assert (count.loaded_files, failures) == (1, [])


def test_mount_that_is_gone_ends_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        (tmp_path / f"{number}").touch()

    def gone(fd: int, buffers: list[bytearray], offset: int) -> int:
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(os, "preadv", gone)

    count, failures = loaded(tmp_path)

    assert count.is_walked is False
    assert 0 < len(failures) < 3000


def test_stopped_load_begins_nothing_new(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    loader = Loader([str(tmp_path)], parallel=2, bytes_per_s=1)  # a second per byte: it would take days

    loader.start()
    loader.stop()

    assert loader.finished.wait(_WAIT_S)
    assert loader.count.loaded_files == 0
