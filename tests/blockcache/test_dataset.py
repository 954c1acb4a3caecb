"""The dataset as a whole: what is kept, what has to go, and what an open file still reads then."""

import os
import resource
import time
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing

from blockcache.catalog import ROOT_ID, Catalog, Listed, Node
from blockcache.dataset import CachedDataset
from datamodel.errors import Unavailable, VersionChanged
from tests.blockcache.datasets import BLOCK, cache_files, complete_file, content, dataset_of, opened, read, source

KEEP = CachedDataset.keep


async def keep_once(dataset: CachedDataset) -> None:
    """One round of housekeeping, now."""
    await dataset._keep_once()


async def test_what_is_stored_is_counted_although_nobody_reads_it_again(tmp_path: Path) -> None:
    ufs = source({"f": content(5 * BLOCK)})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dataset.read, node.id, 0, 1)
            await trio.testing.wait_all_tasks_blocked()
            await keep_once(dataset)
            ufs.gate.set()

        await keep_once(dataset)

        assert dataset.tiers.cached_bytes == 5 * BLOCK


async def test_every_one_of_many_small_files_is_counted(tmp_path: Path) -> None:
    # More than the tiers keep open.
    ufs = source({f"f{i:04}": b"x" * 10 for i in range(1100)})
    async with dataset_of(ufs, tmp_path) as dataset:
        await dataset.tree.ensure_listed(ROOT_ID)
        for i in range(1100):
            await read(dataset, f"f{i:04}")

        await keep_once(dataset)

        assert dataset.tiers.cached_bytes == 11_000


async def test_more_files_than_descriptors_are_read_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ufs = source({f"f{i:03}": b"%03d" % i for i in range(400)})
    open_already = len(os.listdir("/proc/self/fd"))  # by other tests
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_already + 300, hard))
    monkeypatch.setattr("blockcache.limits._FILES_FOR_OTHERS", open_already + 200)
    try:
        async with dataset_of(ufs, tmp_path) as dataset:
            for i in range(400):
                assert await read(dataset, f"f{i:03}") == b"%03d" % i

            await keep_once(dataset)

            assert dataset.tiers.cached_bytes == 1200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_what_another_process_stored_counts_too(tmp_path: Path) -> None:
    ufs = source({"a": content(BLOCK), "b": content(2 * BLOCK)})
    async with dataset_of(ufs, tmp_path) as first, dataset_of(ufs, tmp_path) as second:
        await read(first, "a")
        await read(second, "b")
        await keep_once(first)
        await keep_once(second)
        await keep_once(first)

        assert first.tiers.cached_bytes == second.tiers.cached_bytes == 3 * BLOCK


async def test_least_recently_used_files_go_above_the_high_watermark(tmp_path: Path) -> None:
    ufs = source({name: content(10 * BLOCK) for name in "abcdefghij"})
    evicted: list[int] = []
    async with dataset_of(
        ufs, tmp_path, quota_bytes=100 * BLOCK, on_evict=lambda id, incarnation: evicted.append(id)
    ) as dataset:
        for name in "bcdefghija":
            await read(dataset, name)
            await keep_once(dataset)
        ids = {name: (await opened(dataset, name)).id for name in "abcdefghij"}

    assert evicted == [ids["b"], ids["c"], ids["d"]]
    assert cache_files(tmp_path) == sorted(name for file in "aefghij" for name in (str(ids[file]), f"{ids[file]}.map"))


async def test_reading_a_file_again_keeps_it(tmp_path: Path) -> None:
    ufs = source({name: content(10 * BLOCK) for name in "abcdefghij"})
    async with dataset_of(ufs, tmp_path, quota_bytes=100 * BLOCK) as dataset:
        for name in "abcdefghi":
            await read(dataset, name)
            await keep_once(dataset)
        await read(dataset, "a", 0, 1)
        await read(dataset, "j")
        await keep_once(dataset)
        before = len(ufs.ranges)

        await read(dataset, "a")

        assert len(ufs.ranges) == before


async def test_evicted_file_is_fetched_and_kept_again(tmp_path: Path) -> None:
    data = content(3 * BLOCK)
    ufs = source({"f": data})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        await dataset.read(node.id, 0, 10)
        await dataset._let_go(lambda: dataset.keeper.evict([node.id]))
        assert cache_files(tmp_path) == []

        assert await dataset.read(node.id, BLOCK, BLOCK) == data[BLOCK : 2 * BLOCK]
        await keep_once(dataset)

        assert dataset.tiers.cached_bytes == len(data)


async def test_eviction_under_a_fetch_costs_no_reader_its_bytes(tmp_path: Path) -> None:
    data = content(3 * BLOCK)
    ufs = source({"f": data})
    found: list[bytes] = []
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        ufs.gate.clear()

        async def one() -> None:
            found.append(bytes(await dataset.read(node.id, 0, len(data))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            await dataset._let_go(lambda: dataset.keeper.evict([node.id]))
            ufs.gate.set()
        await keep_once(dataset)

        assert found == [data]
        assert dataset.tiers.cached_bytes == 0


async def test_cache_files_of_a_changed_file_go(tmp_path: Path) -> None:
    ufs = source({"f": content(BLOCK, 1)})
    closed: list[tuple[int, int]] = []
    async with dataset_of(
        ufs, tmp_path, listing_ttl_s=0, on_evict=lambda id, incarnation: closed.append((id, incarnation))
    ) as dataset:
        await read(dataset, "f")
        old = await opened(dataset, "f")
        dataset.catalog.turn(old.id, passthrough=True)
        ufs.plant("f", content(BLOCK, 2))

        new = await opened(dataset, "f")
        await keep_once(dataset)

        assert closed == [(old.id, 1)]
        assert new.id != old.id
        assert cache_files(tmp_path) == []


async def test_open_file_reads_on_from_the_cache_after_its_row_went(tmp_path: Path) -> None:
    data = content(3 * BLOCK, 1)
    ufs = source({"f": data})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        old = await opened(dataset, "f")
        await dataset.read(old.id, 0, 10)
        ufs.plant("f", content(3 * BLOCK, 2))
        await opened(dataset, "f")
        await keep_once(dataset)

        assert await dataset.read(old.id, BLOCK, 100) == data[BLOCK : BLOCK + 100]
        await keep_once(dataset)

    assert cache_files(tmp_path) == []


async def test_row_that_is_gone_and_was_never_open_here_is_another_version(tmp_path: Path) -> None:
    async with dataset_of(source(), tmp_path) as dataset:
        with pytest.raises(VersionChanged):
            await dataset.read(4711, 0, 1)


async def test_files_that_a_killed_process_left_without_a_row_go(tmp_path: Path) -> None:
    async with dataset_of(source({"f": content(BLOCK)}), tmp_path) as dataset:
        await read(dataset, "f")
        kept = cache_files(tmp_path)
    leave(tmp_path, "99", "77.part")

    async with dataset_of(source(), tmp_path) as dataset:
        await keep_once(dataset)

        assert cache_files(tmp_path) == kept


async def test_files_that_a_killed_process_did_not_count_are_counted(tmp_path: Path) -> None:
    async with dataset_of(source({"f": content(2 * BLOCK)}), tmp_path) as dataset:
        node = await opened(dataset, "f")
        await dataset.read(node.id, 0, 1)
    Catalog(Path(tmp_path, "catalog.sqlite")).note_evicted(node.id)

    async with dataset_of(source(), tmp_path) as dataset:
        await keep_once(dataset)
        await keep_once(dataset)

        assert dataset.tiers.cached_bytes == 2 * BLOCK


async def test_only_one_of_two_processes_evicts_and_the_other_takes_over(tmp_path: Path) -> None:
    async with dataset_of(source(), tmp_path) as second:
        async with dataset_of(source(), tmp_path) as first:
            await keep_once(second)
            await keep_once(first)
            keepers = [first.keeper.keeps(), second.keeper.keeps()]

        assert sorted(keepers) == [False, True]
        assert second.keeper.keeps()


async def test_full_disk_under_the_catalog_does_not_end_the_housekeeping(
    tmp_path: Path, patient_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dataset_of(source({"f": b"abc"}), tmp_path) as dataset:
        rounds = 0

        def refuse() -> int:
            nonlocal rounds
            rounds += 1
            raise OSError(28, "No space left on device")

        with structlog.testing.capture_logs() as lines:
            monkeypatch.setattr(dataset.catalog, "cached_by_tier", refuse)
            with trio.move_on_after(3.5):
                await KEEP(dataset)

        assert rounds >= 3
        assert {line["event"] for line in lines} == {"housekeeping.failed"}
        assert await read(dataset, "f") == b"abc"


async def test_completion_of_a_file_is_told_once(tmp_path: Path) -> None:
    told: list[Node] = []
    ufs = source({"f": content(3 * BLOCK)})
    async with dataset_of(ufs, tmp_path, on_complete=lambda catalog, node: told.append(node)) as dataset:
        await read(dataset, "f")
        await read(dataset, "f")
        node = await opened(dataset, "f")

    assert [told_of.id for told_of in told] == [node.id]


async def test_only_complete_and_sound_files_are_prepared_for_the_kernel(tmp_path: Path) -> None:
    ufs = source({"large": content(6 << 20), "f": content(2 * BLOCK)})
    async with dataset_of(ufs, tmp_path) as dataset:
        await read(dataset, "large", 0, 1)
        await read(dataset, "f")

        assert await dataset.prepare((await opened(dataset, "large")).id) is None
        file = await dataset.prepare((await opened(dataset, "f")).id)
        assert file is not None
        assert file.is_complete


async def test_damaged_complete_file_is_not_prepared_but_fetched_again(tmp_path: Path) -> None:
    data = content(2 * BLOCK)
    async with dataset_of(source({"f": data}), tmp_path) as dataset:
        await read(dataset, "f")
    complete_file(tmp_path).write_bytes(bytes(2 * BLOCK))

    async with dataset_of(source({"f": data}), tmp_path) as dataset:
        node = await opened(dataset, "f")
        with structlog.testing.capture_logs() as lines:
            assert await dataset.prepare(node.id) is None
        assert "file.corrupt" in [line["event"] for line in lines]
        assert await dataset.read(node.id, 0, 2 * BLOCK) == data
        assert await dataset.prepare(node.id) is not None


async def test_cached_bytes_are_served_while_the_source_is_away(tmp_path: Path) -> None:
    data = content(2 * BLOCK)
    ufs = source({"f": data})
    async with dataset_of(ufs, tmp_path) as dataset:
        await read(dataset, "f")
    ufs.away = Unavailable("away")

    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        assert await read(dataset, "f") == data


async def test_lost_catalog_costs_the_cache_and_leaves_no_file_behind(tmp_path: Path) -> None:
    data = content(2 * BLOCK)
    async with dataset_of(source({"f": data}), tmp_path) as dataset:
        await read(dataset, "f")
    damage_catalog(tmp_path)

    async with dataset_of(source({"f": data}), tmp_path) as dataset:
        await keep_once(dataset)
        assert cache_files(tmp_path) == []
        assert await read(dataset, "f") == data


async def test_huge_folder_is_listed_and_paged_without_holding_up_others(tmp_path: Path) -> None:
    async with dataset_of(source(), tmp_path) as dataset:
        entries = [Listed(f"f{i:06}", False, 1, 1) for i in range(30_000)]
        await trio.to_thread.run_sync(dataset.catalog.record_listing, ROOT_ID, entries, time.time())

        worst_s, after, count = 0.0, 0, 0
        while page := dataset.catalog.children(ROOT_ID, after, 256):
            began = time.perf_counter()
            dataset.catalog.children(ROOT_ID, after, 256)
            worst_s = max(worst_s, time.perf_counter() - began)
            after, count = page[-1].id, count + len(page)

    assert count == 30_000
    assert worst_s < 0.1


def leave(folder: Path, *names: str) -> None:
    """What a process leaves that does not end well."""
    Path(folder, "session.json").unlink()
    for name in names:
        path = Path(folder, "blocks", f"{int(name.partition('.')[0]) % 256:02x}", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
        os.utime(path, (0, 0))  # long ago


def damage_catalog(folder: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(folder, f"catalog.sqlite{suffix}").unlink(missing_ok=True)
    Path(folder, "catalog.sqlite").write_bytes(b"garbage" * 1000)
