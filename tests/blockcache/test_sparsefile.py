"""A cache file of many blocks: what it trusts, what it throws away, and how processes share it."""

import os
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random

import pytest

from blockcache import sparsefile
from blockcache.cachefile import BlockGone
from blockcache.sparsefile import SparseFile, remove, stored_bytes
from datamodel.errors import Corrupt

BLOCK = 4096
CONTENT = Random(3).randbytes(3 * BLOCK + 100)
SESSION, NEXT_SESSION = b"session1", b"session2"


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    folder = tmp_path / "blocks" / "07"
    folder.mkdir(parents=True)
    return folder / "7"


def opened(stem: Path, version: str = "v1", content: bytes = CONTENT, session: bytes = SESSION) -> SparseFile:
    return SparseFile(str(stem), len(content), version, BLOCK, session)


def filled(stem: Path, version: str = "v1", content: bytes = CONTENT) -> SparseFile:
    file = opened(stem, version, content)
    for block in range(file.blocks):
        store(file, block, content)
    return file


def store(file: SparseFile, block: int, content: bytes = CONTENT) -> None:
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


def test_complete_file_is_checked_block_by_block_in_the_next_session(stem: Path) -> None:
    filled(stem).try_complete()
    times = stem.stat()
    damage(stem, 0)
    os.utime(stem, ns=(times.st_atime_ns, times.st_mtime_ns))
    file = opened(stem, session=NEXT_SESSION)

    with pytest.raises(Corrupt, match="block 0"):
        file.read(0, 10)


def test_untouched_complete_file_of_this_session_is_read_without_checking(
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

    remove(str(stem))

    assert file.is_evicted
    assert file.read(0, len(CONTENT)) == CONTENT
    assert not list(stem.parent.iterdir())


def test_evicted_part_cannot_become_complete(stem: Path) -> None:
    file = filled(stem)

    remove(str(stem))

    assert not file.try_complete()
    assert not stem.exists()


def test_file_opened_while_it_is_evicted_starts_empty_and_is_found_again(
    stem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(stem).try_complete()
    lock = sparsefile.fcntl.flock
    evictions = [str(stem)]

    def evict_first(fd: int, operation: int) -> None:
        if evictions:
            monkeypatch.setattr(sparsefile.fcntl, "flock", lock)
            remove(evictions.pop())
        lock(fd, operation)

    monkeypatch.setattr(sparsefile.fcntl, "flock", evict_first)

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
        "import sys; from blockcache.sparsefile import SparseFile\n"
        f"file = SparseFile({str(stem)!r}, {len(CONTENT)}, 'v1', {BLOCK}, {SESSION!r})\n"
        "print(file.try_lock(0), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert not file.try_lock(0)

        holder.kill()
        holder.wait()

        assert file.try_lock(0)


# ---- giving up blocks ------------------------------------------------------------------------------------------------


def test_shrinking_gives_the_medium_its_room_back(stem: Path) -> None:
    file = filled(stem, content=Random(4).randbytes(100 * BLOCK))
    part = stem.with_suffix(".part")
    before = part.stat().st_blocks

    freed = file.shrink(10 * BLOCK)

    assert freed == 10 * BLOCK
    assert file.cached_bytes() == 90 * BLOCK
    assert before - part.stat().st_blocks == 10 * BLOCK // 512
    assert part.stat().st_size == 100 * BLOCK


def test_block_that_was_given_up_is_gone_not_zero(stem: Path) -> None:
    reader, keeper = filled(stem), opened(stem)

    keeper.shrink(len(CONTENT))

    assert not any(reader.has(block) for block in range(4))
    with pytest.raises(BlockGone):
        reader.read(BLOCK, 10)


def test_block_that_is_being_written_is_not_given_up(stem: Path) -> None:
    writer = filled(stem)
    for block in range(4):
        assert writer.try_lock(block)

    assert opened(stem).shrink(BLOCK) == 0
    assert writer.shrink(BLOCK) == 0


def test_block_punched_and_stored_again_while_it_is_read_is_noticed(
    stem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, other = filled(stem), opened(stem)
    pread = os.pread

    def read_slowly(fd: int, size: int, offset: int) -> bytes:
        other._punch(1)
        data = pread(fd, size, offset)  # the hole
        store(other, 1)
        return data

    monkeypatch.setattr(os, "pread", read_slowly)

    with pytest.raises(BlockGone):
        reader.read(BLOCK, 10)

    monkeypatch.undo()
    assert reader.read(BLOCK, 10) == CONTENT[BLOCK : BLOCK + 10]


_PUNCHER = """
import sys
from random import Random
from blockcache.sparsefile import SparseFile

stem, size, block_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
content = memoryview(Random(4).randbytes(size))
file = SparseFile(stem, size, "v1", block_bytes, b"session1")
print("ready", flush=True)
while True:
    file.shrink(3 * block_bytes)
    for block in range(file.blocks):
        if not file.has(block) and file.try_lock(block):
            if not file.has(block):
                file.write(block, content[block * block_bytes :][: file.length(block)])
            file.unlock(block)
"""


def test_reader_never_sees_a_hole_that_another_process_punches(stem: Path) -> None:
    content = Random(4).randbytes(8 * BLOCK)
    reader = filled(stem, content=content)
    command = [sys.executable, "-c", _PUNCHER, str(stem), str(len(content)), str(BLOCK)]
    outcomes = {"whole": 0, "gone": 0}
    random = Random(5)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as puncher:
        assert puncher.stdout is not None
        assert puncher.stdout.readline() == b"ready\n"

        try:
            for _ in range(20_000):
                offset = random.randrange(len(content) - 10)
                try:
                    assert reader.read(offset, 10) == content[offset : offset + 10]
                    outcomes["whole"] += 1
                except BlockGone:
                    outcomes["gone"] += 1
                now = reader.read_now(offset, 10)
                assert now is None or now == content[offset : offset + 10]
        finally:
            puncher.kill()
    assert min(outcomes.values()) > 0


# ---- what stands in its place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".map", ".part"])
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_odd_thing_in_its_place_is_put_out_of_the_way(stem: Path, suffix: str, kind: str, tmp_path: Path) -> None:
    path = stem.with_name(stem.name + suffix)
    {"folder": Path.mkdir, "link": lambda at: at.symlink_to(tmp_path / "precious"), "pipe": os.mkfifo}[kind](path)
    (tmp_path / "precious").write_bytes(b"not to be touched")

    file = filled(stem)

    assert file.try_complete()
    assert file.read(0, len(CONTENT)) == CONTENT
    if kind == "folder":
        assert [found.name.startswith(path.name) for found in (tmp_path / "aside").iterdir()] == [True]
    assert (tmp_path / "precious").read_bytes() == b"not to be touched"


def test_map_for_another_block_size_is_started_afresh(stem: Path) -> None:
    filled(stem)

    file = SparseFile(str(stem), len(CONTENT), "v1", 2 * BLOCK, SESSION)

    assert not any(file.has(block) for block in range(file.blocks))


def test_every_damage_to_a_map_leads_to_right_bytes_or_none(stem: Path) -> None:
    random = Random(6)
    for _ in range(200):
        filled(stem)
        damage(stem.with_suffix(".map"), random.randrange(64 + 4 * 8))
        file = opened(stem)
        for block in range(file.blocks):
            if file.has(block):
                try:
                    found = file.read(block * BLOCK, file.length(block))
                except Corrupt:
                    assert not file.has(block)
                else:
                    assert found == CONTENT[block * BLOCK :][: file.length(block)]
        remove(str(stem))


def test_removing_tells_how_much_was_cached(stem: Path) -> None:
    store(opened(stem), 1)
    store(opened(stem), 3)

    assert stored_bytes(f"{stem}.map") == BLOCK + 100
    assert remove(str(stem)) == BLOCK + 100
    assert remove(str(stem)) == 0


def test_map_is_allocated_whole_so_that_a_full_medium_cannot_kill_who_writes_to_it(stem: Path) -> None:
    SparseFile(str(stem), 100_000 * BLOCK, "v1", BLOCK, SESSION)

    status = stem.with_suffix(".map").stat()
    assert status.st_blocks * 512 >= status.st_size > 100_000 * 8


def test_what_another_process_of_this_run_stored_is_read_without_a_second_look(tmp_path: Path) -> None:
    stem = str(tmp_path / "7")
    mine = SparseFile(stem, len(CONTENT), "v1", BLOCK, SESSION, b"this run")
    theirs = SparseFile(stem, len(CONTENT), "v1", BLOCK, SESSION, b"this run")
    theirs.write(1, memoryview(CONTENT)[BLOCK : 2 * BLOCK])

    assert mine.read_now(BLOCK, 10) == CONTENT[BLOCK : BLOCK + 10]


def test_part_of_an_earlier_run_is_compared_though_that_one_ended_well(tmp_path: Path) -> None:
    stem = str(tmp_path / "7")
    before = SparseFile(stem, len(CONTENT), "v1", BLOCK, SESSION, b"last run")
    before.write(1, memoryview(CONTENT)[BLOCK : 2 * BLOCK])
    with Path(f"{stem}.part").open("r+b") as part:
        part.seek(BLOCK + 5)
        part.write(b"\0\1\2")

    found = SparseFile(stem, len(CONTENT), "v1", BLOCK, SESSION, b"this run")

    assert found.read_now(BLOCK, 10) is None
    with pytest.raises(Corrupt):
        found.read(BLOCK, 10)
