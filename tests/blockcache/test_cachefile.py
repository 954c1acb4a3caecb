"""A cache file: what it trusts, what it throws away, and how processes share it."""

import os
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random

import pytest

from blockcache import cachefile
from blockcache.cachefile import CacheFile
from datamodel.errors import Corrupt

BLOCK = 4096
CONTENT = Random(3).randbytes(3 * BLOCK + 100)


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    return tmp_path / "7"


def opened(stem: Path, version: str = "v1", content: bytes = CONTENT) -> CacheFile:
    return CacheFile(stem, len(content), version, BLOCK)


def filled(stem: Path, version: str = "v1", content: bytes = CONTENT) -> CacheFile:
    file = opened(stem, version, content)
    for block in range(file.blocks):
        store(file, block, content)
    return file


def store(file: CacheFile, block: int, content: bytes = CONTENT) -> None:
    file.write(block, memoryview(content)[block * BLOCK : block * BLOCK + file.length(block)])


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as raw:
        raw.seek(offset)
        byte = raw.read(1)
        raw.seek(offset)
        raw.write(bytes([byte[0] ^ 0xFF]))


def test_new_file_has_no_block(stem: Path) -> None:
    file = opened(stem)

    assert [file.has(block) for block in range(file.blocks)] == [False] * 4
    assert file.cached_bytes() == 0
    assert not file.try_complete()


def test_stored_blocks_are_read_back(stem: Path) -> None:
    file = opened(stem)

    store(file, 1)
    store(file, 2)

    assert file.read(BLOCK + 5, BLOCK) == CONTENT[BLOCK + 5 : 2 * BLOCK + 5]
    assert file.cached_bytes() == 2 * BLOCK


def test_last_block_is_short(stem: Path) -> None:
    file = filled(stem)

    assert file.length(3) == 100
    assert file.read(3 * BLOCK, 100) == CONTENT[3 * BLOCK :]
    assert file.cached_bytes() == len(CONTENT)


def test_file_of_whole_blocks_has_no_empty_block_at_its_end(stem: Path) -> None:
    file = opened(stem, content=bytes(2 * BLOCK))

    assert (file.blocks, file.length(1)) == (2, BLOCK)


def test_empty_file_is_complete_at_once(stem: Path) -> None:
    file = opened(stem, content=b"")

    assert file.try_complete()
    assert stem.read_bytes() == b""


def test_blocks_are_there_after_reopening(stem: Path) -> None:
    store(opened(stem), 1)

    again = opened(stem)

    assert [again.has(block) for block in range(4)] == [False, True, False, False]
    assert again.read(BLOCK, BLOCK) == CONTENT[BLOCK : 2 * BLOCK]


def test_complete_file_gets_its_final_name(stem: Path) -> None:
    file = filled(stem)

    assert file.try_complete()
    assert stem.read_bytes() == CONTENT
    assert not stem.with_suffix(".part").exists()


def test_second_opener_sees_that_another_one_completed_the_file(stem: Path) -> None:
    first, second = opened(stem), opened(stem)
    for block in range(4):
        store(first if block % 2 else second, block)

    assert first.try_complete()
    assert second.try_complete()
    assert second.read(0, len(CONTENT)) == CONTENT


def test_corrupt_block_of_a_partial_file_is_noticed_and_marked_absent(stem: Path) -> None:
    store(opened(stem), 1)
    damage(stem.with_suffix(".part"), BLOCK + 17)
    file = opened(stem)

    with pytest.raises(Corrupt, match="block 1"):
        file.read(BLOCK, 10)

    assert not file.has(1)


def test_corrupt_complete_file_is_noticed_because_its_time_changed(stem: Path) -> None:
    filled(stem).try_complete()
    damage(stem, 2 * BLOCK)
    file = opened(stem)

    assert not file.is_sound()
    assert not file.is_complete
    assert [file.has(block) for block in range(4)] == [True, True, False, True]
    assert stem.with_suffix(".part").exists()


def test_complete_file_is_checked_block_by_block_after_a_reboot(stem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(stem).try_complete()
    times = stem.stat()
    damage(stem, 0)
    os.utime(stem, ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr(cachefile, "_BOOT", b"another8")
    file = opened(stem)

    with pytest.raises(Corrupt, match="block 0"):
        file.read(0, 10)


def test_untouched_complete_file_of_this_boot_is_read_without_checking(
    stem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(stem).try_complete()
    file = opened(stem)
    checked: list[bytes] = []
    monkeypatch.setattr(zlib, "crc32", checked.append)

    assert file.read(0, len(CONTENT)) == CONTENT
    assert checked == []


def test_refetched_block_makes_a_damaged_file_whole_again(stem: Path) -> None:
    filled(stem).try_complete()
    damage(stem, BLOCK)
    file = opened(stem)
    file.is_sound()

    store(file, 1)

    assert file.try_complete()
    assert file.is_sound()
    assert stem.read_bytes() == CONTENT


def test_shortened_data_file_is_corrupt_not_short(stem: Path) -> None:
    file = filled(stem)
    file.try_complete()
    os.truncate(stem, 10)

    with pytest.raises(Corrupt, match="of 100 bytes"):
        file.read(0, 100)

    assert not file.has(0)


@pytest.mark.parametrize("size", [0, 5, 63, 64 + 8, 200])
def test_torn_map_is_started_afresh_with_its_data(stem: Path, size: int) -> None:
    filled(stem)
    os.truncate(stem.with_suffix(".map"), size)

    file = opened(stem)

    assert not any(file.has(block) for block in range(4))
    store(file, 0)
    assert file.read(0, BLOCK) == CONTENT[:BLOCK]


def test_map_of_garbage_is_started_afresh(stem: Path) -> None:
    filled(stem)
    path = stem.with_suffix(".map")
    path.write_bytes(Random(4).randbytes(path.stat().st_size))

    assert not any(opened(stem).has(block) for block in range(4))


def test_another_version_discards_what_is_cached(stem: Path) -> None:
    filled(stem, "v1").try_complete()

    file = opened(stem, "v2")

    assert not file.is_complete
    assert not any(file.has(block) for block in range(4))
    assert not stem.exists()


def test_another_version_does_not_pull_the_map_from_under_an_open_file(stem: Path) -> None:
    old = filled(stem, "v1")

    filled(stem, "v2", bytes(len(CONTENT)))

    assert old.is_evicted
    assert old.read(0, len(CONTENT)) == CONTENT


def test_evicted_file_stays_readable_for_who_has_it_open(stem: Path) -> None:
    file = filled(stem)
    file.try_complete()

    cachefile.remove(stem)

    assert file.is_evicted
    assert file.read(0, len(CONTENT)) == CONTENT
    assert not list(stem.parent.iterdir())


def test_evicted_part_cannot_become_complete(stem: Path) -> None:
    file = filled(stem)

    cachefile.remove(stem)

    assert not file.try_complete()
    assert not stem.exists()


def test_file_opened_while_it_is_evicted_starts_empty_and_is_found_again(
    stem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(stem).try_complete()
    lock = cachefile.fcntl.flock
    evictions = [stem]

    def evict_first(fd: int, operation: int) -> None:
        if evictions:
            monkeypatch.setattr(cachefile.fcntl, "flock", lock)
            cachefile.remove(evictions.pop())
        lock(fd, operation)

    monkeypatch.setattr(cachefile.fcntl, "flock", evict_first)

    file = opened(stem)

    assert not file.is_evicted
    assert not any(file.has(block) for block in range(4))
    assert sorted(path.name for path in stem.parent.iterdir()) == ["7.map", "7.part"]


def test_read_now_declines_what_was_not_verified_yet(stem: Path) -> None:
    filled(stem)

    assert opened(stem).read_now(0, 10) is None


def test_read_now_delivers_own_blocks_from_the_page_cache(stem: Path) -> None:
    file = filled(stem)

    found = file.read_now(10, BLOCK)

    assert found is None or found == CONTENT[10 : BLOCK + 10]


def test_block_lock_keeps_another_opener_out_until_it_is_released(stem: Path) -> None:
    first, second = opened(stem), opened(stem)

    assert first.try_lock(2)
    assert not second.try_lock(2)
    assert second.try_lock(1)
    first.unlock(2)
    assert second.try_lock(2)


def test_block_lock_of_a_killed_process_is_free(stem: Path) -> None:
    file = opened(stem)
    code = (
        "import sys; from pathlib import Path; from blockcache.cachefile import CacheFile\n"
        f"file = CacheFile(Path({str(stem)!r}), {len(CONTENT)}, 'v1', {BLOCK})\n"
        "print(file.try_lock(0), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert not file.try_lock(0)

        holder.kill()
        holder.wait()

        assert file.try_lock(0)
