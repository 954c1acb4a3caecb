"""Getting missing blocks: once each, ahead of sequential readers, again after faults, and never of two versions."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing

from blockcache.sparsefile import SparseFile
from datamodel.errors import Corrupt, DeadlineExceeded, NotFound, PermissionRefused, Unavailable, VersionChanged
from tests.blockcache.datasets import (
    BLOCK,
    cache_files,
    complete_file,
    content,
    covered,
    dataset_of,
    opened,
    read,
    source,
)

LARGE = content(6 << 20)  # more than what is fetched whole


async def test_fifty_readers_at_once_cost_one_fetch_per_block(tmp_path: Path) -> None:
    ufs = source({"f": LARGE})
    ufs.gate.clear()
    found: list[bytes] = []
    async with dataset_of(ufs, tmp_path) as dataset, trio.open_nursery() as nursery:
        node = await opened(dataset, "f")

        async def one() -> None:
            found.append(bytes(await dataset.read(node.id, 10, 3 * BLOCK)))

        for _ in range(50):
            nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        ufs.gate.set()

    assert found == [LARGE[10 : 3 * BLOCK + 10]] * 50
    blocks = covered(ufs.ranges)
    assert len(blocks) == len(set(blocks))


async def test_random_read_fetches_its_block_only(tmp_path: Path) -> None:
    ufs = source({"f": LARGE})
    async with dataset_of(ufs, tmp_path, block_bytes=1 << 20) as dataset:
        assert await read(dataset, "f", 5 << 20, 100) == LARGE[5 << 20 : (5 << 20) + 100]

    assert ufs.ranges == [("f", 5 << 20, 1 << 20)]


async def test_small_file_is_fetched_whole_in_one_request(tmp_path: Path) -> None:
    data = content(10 * BLOCK + 1)
    ufs = source({"f": data})
    async with dataset_of(ufs, tmp_path) as dataset:
        assert await read(dataset, "f", 5 * BLOCK, 10) == data[5 * BLOCK : 5 * BLOCK + 10]

    assert ufs.ranges == [("f", 0, len(data))]


async def test_sequential_reader_finds_the_next_blocks_fetched_already(tmp_path: Path) -> None:
    ufs = source({"f": LARGE})
    async with dataset_of(ufs, tmp_path, block_bytes=1 << 20) as dataset:
        node = await opened(dataset, "f")
        for offset in range(0, len(LARGE), 1 << 20):
            assert await dataset.read(node.id, offset, 1 << 20) == LARGE[offset : offset + (1 << 20)]

        assert dataset.counters.bytes == len(LARGE)
    assert sum(length for _, _, length in ufs.ranges) == len(LARGE)
    assert len(ufs.ranges) < 6


async def test_second_read_asks_the_source_nothing(tmp_path: Path) -> None:
    ufs = source({"f": LARGE})
    async with dataset_of(ufs, tmp_path) as dataset:
        await read(dataset, "f")
        asked = len(ufs.ranges)

        assert await read(dataset, "f") == LARGE
        assert dataset.counters.hits == 1
    assert len(ufs.ranges) == asked


async def test_cache_is_found_again_after_a_restart(tmp_path: Path) -> None:
    async with dataset_of(source({"f": LARGE}), tmp_path) as dataset:
        await read(dataset, "f")
    ufs = source({"f": LARGE})

    async with dataset_of(ufs, tmp_path) as dataset:
        assert await read(dataset, "f") == LARGE

    assert ufs.ranges == []


async def test_unavailable_source_is_asked_again(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    ufs = source({"f": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.next_errors = [Unavailable("first"), Corrupt("second")]

        assert await dataset.read(node.id, 0, 3) == b"abc"


async def test_source_that_asks_for_time_gets_it(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    ufs = source({"f": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.next_errors = [Unavailable("busy", retry_after_s=9.0)]
        before = trio.current_time()

        assert await dataset.read(node.id, 0, 3) == b"abc"

        assert trio.current_time() - before >= 9.0


async def test_source_that_stays_away_is_given_up(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    ufs = source({"f": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.away = Unavailable("gone for good")
        before = trio.current_time()

        with pytest.raises(DeadlineExceeded, match="gone for good"):
            await dataset.read(node.id, 0, 3)

        assert 5 < trio.current_time() - before <= 15


async def test_source_that_asks_for_too_much_time_is_given_up_at_once(tmp_path: Path) -> None:
    ufs = source({"f": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.away = Unavailable("maintenance", retry_after_s=3600.0)

        with pytest.raises(DeadlineExceeded):
            await dataset.read(node.id, 0, 3)

    assert ufs.calls["read_whole"] == 1


async def test_failed_fetch_is_tried_afresh_by_the_next_read(
    tmp_path: Path, patient_clock: trio.testing.MockClock
) -> None:
    ufs = source({"f": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.away = Unavailable("for a while")
        with pytest.raises(DeadlineExceeded):
            await dataset.read(node.id, 0, 3)
        ufs.away = None

        assert await dataset.read(node.id, 0, 3) == b"abc"


@pytest.mark.parametrize("error", [PermissionRefused("other key"), NotFound("gone")], ids=lambda error: str(error))
async def test_definite_answer_of_the_source_is_not_asked_for_twice(tmp_path: Path, error: Exception) -> None:
    ufs = source({"f": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.next_errors = [error]  # type: ignore[list-item]  # the parametrisation has the narrower type

        with pytest.raises(type(error)):
            await dataset.read(node.id, 0, 3)

    assert ufs.calls["read_whole"] == 1


async def test_changed_source_fails_the_read_and_leads_the_name_to_the_new_version(tmp_path: Path) -> None:
    old, new = content(8 * BLOCK, 1), content(8 * BLOCK, 2)
    ufs = source({"f": old})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.plant("f", new)

        with pytest.raises(VersionChanged):
            await dataset.read(node.id, 0, 10)

        assert await read(dataset, "f") == new


async def test_read_never_mixes_cached_blocks_with_those_of_a_new_version(tmp_path: Path) -> None:
    ufs = source({"f": LARGE})
    async with dataset_of(ufs, tmp_path, block_bytes=1 << 20) as dataset:
        node = await opened(dataset, "f")
        await dataset.read(node.id, 5 << 20, 100)
        ufs.plant("f", content(len(LARGE), 77))

        with pytest.raises(VersionChanged):
            await dataset.read(node.id, (5 << 20) - 50, 100)

        assert await dataset.read(node.id, 5 << 20, 100) == LARGE[5 << 20 : (5 << 20) + 100]


async def test_file_that_ends_early_at_the_source_is_never_delivered_short(
    tmp_path: Path, patient_clock: trio.testing.MockClock
) -> None:
    ufs = source({"f": content(3 * BLOCK)})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.ends_at = 2 * BLOCK

        with pytest.raises(DeadlineExceeded, match="before its promised size"):
            await dataset.read(node.id, 0, 3 * BLOCK)

    assert [name for name in cache_files(tmp_path) if name.isdecimal()] == []


async def test_bug_in_a_source_fails_the_read_and_not_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ufs = source({"f": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        with monkeypatch.context() as patch:
            patch.setattr(ufs, "read_whole", lambda *_: 1 // 0)
            with pytest.raises(Unavailable, match="division"):
                await dataset.read(node.id, 0, 3)

        assert await dataset.read(node.id, 0, 3) == b"abc"


async def test_tier_without_room_still_delivers_the_right_bytes(tmp_path: Path) -> None:
    ufs = source({"f": LARGE})
    async with dataset_of(ufs, tmp_path, quota_bytes=2 * BLOCK, block_bytes=1 << 20) as dataset:
        assert await read(dataset, "f") == LARGE
        assert await read(dataset, "f", 17, 3 << 20) == LARGE[17 : (3 << 20) + 17]
        assert dataset.catalog.cached_by_tier() == {}


async def test_read_over_stored_and_refused_blocks_is_put_together(tmp_path: Path) -> None:
    ufs = source({"f": LARGE})
    async with dataset_of(ufs, tmp_path, quota_bytes=2 << 20, block_bytes=1 << 20) as dataset:
        await read(dataset, "f", 0, 1)

        assert await read(dataset, "f") == LARGE


async def test_full_disk_still_delivers_the_right_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = content(3 * BLOCK)
    ufs = source({"f": data})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        dataset.target(node.id)
        with structlog.testing.capture_logs() as lines, monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)

            assert await dataset.read(node.id, BLOCK - 10, BLOCK) == data[BLOCK - 10 : 2 * BLOCK - 10]

    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["tier.refused"]


async def test_block_that_another_process_is_fetching_is_awaited_not_fetched(tmp_path: Path) -> None:
    data = content(2 * BLOCK)
    ufs = source({"f": data})
    async with dataset_of(ufs, tmp_path) as dataset, trio.open_nursery() as nursery:
        node = await opened(dataset, "f")
        stem = str(Path(tmp_path, "blocks", f"{node.id:02x}", str(node.id)))
        other = SparseFile(stem, len(data), node.version, BLOCK, dataset.tiers.session.digest)
        assert all(other.try_lock(block) for block in (0, 1))
        found: list[bytes] = []

        async def one() -> None:
            found.append(bytes(await dataset.read(node.id, 0, len(data))))

        nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        for block in (0, 1):
            other.write(block, memoryview(data)[block * BLOCK : (block + 1) * BLOCK])
            other.unlock(block)

    assert found == [data]
    assert ufs.ranges == []


async def test_block_without_room_that_is_wanted_again_has_a_flight_of_its_own(tmp_path: Path) -> None:
    data = content(2 * BLOCK)
    ufs = source({"f": data})
    found: list[bytes] = []
    with structlog.testing.capture_logs() as lines:
        async with dataset_of(ufs, tmp_path, quota_bytes=BLOCK // 2) as dataset, trio.open_nursery() as nursery:
            node = await opened(dataset, "f")
            stem = str(Path(tmp_path, "blocks", f"{node.id:02x}", str(node.id)))
            other = SparseFile(stem, len(data), node.version, BLOCK, dataset.tiers.session.digest)
            assert other.try_lock(0)
            flights = dataset.target(node.id).flights

            async def one(offset: int) -> None:
                found.append(bytes(await dataset.read(node.id, offset, BLOCK)))

            nursery.start_soon(one, 0)
            await until(lambda: flights.keys() == {0})  # block 1 came along, and was dropped
            ufs.gate.clear()
            nursery.start_soon(one, BLOCK)
            await until(lambda: flights.keys() == {0, 1})
            other.write(0, memoryview(data)[:BLOCK])
            other.unlock(0)
            await until(lambda: flights.keys() == {1})
            ufs.gate.set()

    assert sorted(found) == sorted([data[:BLOCK], data[BLOCK:]])
    assert "fetch.failed" not in [line["event"] for line in lines]


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():
            await trio.lowlevel.checkpoint()


async def test_corrupt_block_is_fetched_again(tmp_path: Path) -> None:
    data = content(3 * BLOCK)
    async with dataset_of(source({"f": data}), tmp_path) as dataset:
        await read(dataset, "f")
    complete_file(tmp_path).write_bytes(data[:BLOCK] + bytes(BLOCK) + data[2 * BLOCK :])
    ufs = source({"f": data})

    async with dataset_of(ufs, tmp_path) as dataset:
        assert await read(dataset, "f") == data

    assert ufs.calls["read_range"] == 1


async def test_reading_behind_the_end_gives_nothing(tmp_path: Path) -> None:
    async with dataset_of(source({"f": b"abc", "empty": b""}), tmp_path) as dataset:
        assert await read(dataset, "f", 3, 10) == b""
        assert await read(dataset, "f", 1 << 40, 10) == b""
        assert await read(dataset, "f", 2, 10) == b"c"
        assert await read(dataset, "empty") == b""
