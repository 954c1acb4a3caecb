"""A cache file in one piece: what counts as finished, what is believed, and who wins when two store it at once."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from blockcache.flightlocks import FlightLocks
from blockcache.sparsefile import remove
from blockcache.wholefile import WholeFile, is_whole, takes_whole_files
from datamodel.errors import Corrupt

BLOCK = 4096
CONTENT = Random(8).randbytes(3000)
SESSION, NEXT_SESSION = b"session1", b"session2"


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    folder = tmp_path / "blocks" / "07"
    folder.mkdir(parents=True)
    return folder / "7"


@pytest.fixture
def locks(tmp_path: Path) -> Iterator[FlightLocks]:
    locks = FlightLocks(tmp_path / "flights.lock")
    yield locks
    locks.close()


def opened(
    stem: Path, locks: FlightLocks, version: str = "v1", size: int = len(CONTENT), session: bytes = SESSION
) -> WholeFile:
    file = WholeFile(str(stem), size, version, BLOCK, session, locks)
    file.look()
    return file


def stored(stem: Path, locks: FlightLocks) -> WholeFile:
    file = opened(stem, locks)
    file.write(0, memoryview(CONTENT))
    return file


def damage_unseen(path: Path) -> None:
    """As a medium does it: another byte, the same times."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[17] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_nothing_is_there_before_it_is_written(stem: Path, locks: FlightLocks) -> None:
    file = opened(stem, locks)

    assert (file.has(0), file.is_complete, file.cached_bytes(), file.fd) == (False, False, 0, -1)
    assert not stem.exists()


def test_what_is_stored_is_complete_and_alone(stem: Path, locks: FlightLocks) -> None:
    file = stored(stem, locks)

    assert file.try_complete()
    assert file.is_sound()
    assert file.read(10, 20) == CONTENT[10:30]
    assert file.read_now(0, 100) in (None, CONTENT[:100])
    assert stem.read_bytes() == CONTENT
    assert list(stem.parent.iterdir()) == [stem]


def test_another_opener_finds_it(stem: Path, locks: FlightLocks) -> None:
    stored(stem, locks)

    assert opened(stem, locks).read(0, len(CONTENT)) == CONTENT


def test_file_whose_writer_was_killed_does_not_count_and_is_replaced(stem: Path, locks: FlightLocks) -> None:
    stem.write_bytes(CONTENT)  # all of it, but the mark was not set yet

    file = opened(stem, locks)

    assert not is_whole(str(stem))
    assert not file.has(0)
    file.write(0, memoryview(CONTENT))
    assert opened(stem, locks).has(0)


def test_mark_of_garbage_does_not_count(stem: Path, locks: FlightLocks) -> None:
    stored(stem, locks)
    mark = os.getxattr(stem, "user.headrace")
    random = Random(1)
    for _ in range(200):
        os.setxattr(stem, "user.headrace", random.randbytes(random.choice([0, 1, len(mark)])))

        assert not opened(stem, locks).has(0)


def test_another_version_is_not_taken_for_ours(stem: Path, locks: FlightLocks) -> None:
    old = stored(stem, locks)

    new = opened(stem, locks, "v2")

    assert not new.has(0)
    new.write(0, memoryview(bytes(len(CONTENT))))
    assert old.is_evicted
    assert old.read(0, len(CONTENT)) == CONTENT


def test_two_who_store_it_at_once_both_have_right_bytes_and_one_file_is_left(stem: Path, locks: FlightLocks) -> None:
    first, second = opened(stem, locks), opened(stem, locks)

    first.write(0, memoryview(CONTENT))
    second.write(0, memoryview(CONTENT))

    assert first.read(0, 10) == second.read(0, 10) == CONTENT[:10]
    assert (first.is_evicted, second.is_evicted) == (True, False)


def test_evicted_file_stays_readable_for_who_has_it_open(stem: Path, locks: FlightLocks) -> None:
    file = stored(stem, locks)

    assert remove(str(stem)) == len(CONTENT)

    assert file.is_evicted
    assert file.read(0, len(CONTENT)) == CONTENT
    assert not opened(stem, locks).has(0)


def test_file_of_this_session_is_read_without_checking(
    stem: Path, locks: FlightLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(stem, locks)
    checked: list[bytes] = []
    monkeypatch.setattr("zlib.crc32", checked.append)

    assert opened(stem, locks).read(0, len(CONTENT)) == CONTENT
    assert checked == []


def test_file_that_was_written_to_is_corrupt_and_goes(stem: Path, locks: FlightLocks) -> None:
    stored(stem, locks)
    stem.write_bytes(bytes(len(CONTENT)))
    file = opened(stem, locks)

    assert file.read_now(0, 10) is None
    with pytest.raises(Corrupt, match="checksum"):
        file.read(0, 10)

    assert not file.has(0)
    assert not stem.exists()


def test_damage_below_the_file_system_is_found_in_the_next_session(stem: Path, locks: FlightLocks) -> None:
    stored(stem, locks)
    damage_unseen(stem)
    assert opened(stem, locks).has(0)

    file = opened(stem, locks, session=NEXT_SESSION)

    assert not file.is_sound()
    assert not file.has(0)
    assert not stem.exists()


def test_file_of_an_earlier_session_is_checked_once_for_all(
    stem: Path, locks: FlightLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(stem, locks)
    assert opened(stem, locks, session=NEXT_SESSION).is_sound()
    checked: list[bytes] = []
    monkeypatch.setattr("zlib.crc32", checked.append)

    assert opened(stem, locks, session=NEXT_SESSION).is_sound()
    assert checked == []


@pytest.mark.parametrize("length", [0, 1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_file_of_another_length_is_never_delivered(stem: Path, locks: FlightLocks, length: int) -> None:
    stored(stem, locks)
    os.truncate(stem, length)

    with pytest.raises(Corrupt):
        opened(stem, locks).read(0, len(CONTENT))


def test_file_that_is_cut_while_it_is_open_is_never_delivered_short(stem: Path, locks: FlightLocks) -> None:
    file = stored(stem, locks)
    os.truncate(stem, 10)

    assert file.read_now(0, 100) is None
    with pytest.raises(Corrupt, match="10 of 100 bytes"):
        file.read(0, 100)


def test_dropping_a_bad_file_spares_the_one_that_took_its_place(stem: Path, locks: FlightLocks) -> None:
    stored(stem, locks)
    stem.write_bytes(bytes(len(CONTENT)))
    bad = opened(stem, locks)
    stored(stem, locks).read(0, 1)
    good = opened(stem, locks, "v2")
    good.write(0, memoryview(CONTENT))

    with pytest.raises(Corrupt):
        bad.read(0, 1)

    assert opened(stem, locks, "v2").has(0)


def test_empty_file_is_complete_without_a_fetch(stem: Path, locks: FlightLocks) -> None:
    file = opened(stem, locks, size=0)

    assert file.try_complete()
    assert stem.read_bytes() == b""


def test_failed_write_leaves_nothing(stem: Path, locks: FlightLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", refuse)
    file = opened(stem, locks)

    with pytest.raises(OSError, match="Input/output"):
        file.write(0, memoryview(CONTENT))

    assert not file.has(0)
    assert not stem.exists()


def test_who_gets_the_lock_after_another_sees_what_that_one_stored(
    stem: Path, locks: FlightLocks, tmp_path: Path
) -> None:
    others = FlightLocks(tmp_path / "flights.lock")
    first, second = opened(stem, locks), opened(stem, others)
    assert first.try_lock(0)
    assert not second.try_lock(0)

    first.write(0, memoryview(CONTENT))
    first.unlock(0)

    assert second.try_lock(0)
    assert second.has(0)
    others.close()


def test_file_system_without_attributes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert takes_whole_files(str(tmp_path))

    def refuse(fd: int, name: str, value: bytes) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)

    assert not takes_whole_files(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
