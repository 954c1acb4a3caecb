"""Small files: one request each, ahead of readers who go on, once however many want them."""

from pathlib import Path

import pytest
import trio
import trio.testing

from blockcache.catalog import Node
from blockcache.dataset import CachedDataset
from datamodel.errors import DeadlineExceeded, NotFound, Unavailable, VersionChanged
from tests.blockcache.datasets import dataset_of, source

FILES = {f"d/{i:03}": b"%03d" % i * 100 for i in range(200)}


async def listed(dataset: CachedDataset) -> list[Node]:
    """Rows of the files of folder d, none of them pinned."""
    folder = await dataset.tree.resolve("d")
    await dataset.tree.ensure_listed(folder.id)
    return dataset.catalog.children(folder.id, limit=-1)


async def test_unpinned_file_costs_one_exchange_and_no_other_file(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        node = (await listed(dataset))[7]

        assert bytes(await dataset.read(node.id, 3, 6)) == FILES[f"d/{node.name}"][3:9]
        await trio.testing.wait_all_tasks_blocked()

        assert ufs.calls["read_whole"] == 1
        pinned = dataset.catalog.get(node.id)
        assert pinned is not None
        assert pinned.version == ufs.files[f"d/{node.name}"].version


async def test_second_read_in_a_folder_starts_fetching_its_neighbours(tmp_path: Path) -> None:
    ufs = source(FILES)
    fetched: list[str] = []
    enough = trio.Event()

    def note(node: Node, data: memoryview) -> None:
        fetched.append(node.name)
        if len(fetched) == 16:
            trio.from_thread.run_sync(enough.set)

    async with dataset_of(ufs, tmp_path, on_fetched=note) as dataset:
        nodes = await listed(dataset)
        await dataset.read(nodes[50].id, 0, 10)
        await dataset.read(nodes[120].id, 0, 10)
        with trio.fail_after(10):
            await enough.wait()

    assert set(fetched[:16]) <= {node.name for node in nodes[51:99]}


async def test_reading_a_whole_folder_in_any_order_fetches_each_file_once(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        nodes = await listed(dataset)
        for step in range(len(nodes)):
            node = nodes[step * 77 % len(nodes)]
            assert bytes(await dataset.read(node.id, 0, 1000)) == FILES[f"d/{node.name}"]

    assert ufs.calls["read_whole"] == len(FILES)


async def test_fifty_readers_of_one_small_file_cost_one_fetch(tmp_path: Path) -> None:
    ufs = source(FILES)
    ufs.gate.clear()
    found: list[bytes] = []
    async with dataset_of(ufs, tmp_path) as dataset, trio.open_nursery() as nursery:
        node = (await listed(dataset))[0]

        async def one() -> None:
            found.append(bytes(await dataset.read(node.id, 0, 1000)))

        for _ in range(50):
            nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        ufs.gate.set()

    assert found == [FILES[f"d/{node.name}"]] * 50
    assert ufs.calls["read_whole"] == 1


async def test_file_that_changed_since_its_listing_leads_to_a_new_row(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        node = (await listed(dataset))[0]
        ufs.plant("d/000", b"something longer than what was there" * 20)

        with pytest.raises(VersionChanged):
            await dataset.read(node.id, 0, 1000)

        new = await dataset.tree.resolve("d/000")
        assert new.id != node.id
        assert bytes(await dataset.read(new.id, 0, 1000)) == ufs.files["d/000"].content


async def test_file_that_became_large_is_not_read_as_a_small_one(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        node = (await listed(dataset))[0]
        ufs.plant("d/000", bytes(100_000))

        with pytest.raises(VersionChanged):
            await dataset.open(node.id)

        assert (await dataset.tree.resolve("d/000")).size == 100_000


async def test_file_that_went_is_not_found(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        node = (await listed(dataset))[0]
        ufs.remove("d/000")

        with pytest.raises(NotFound):
            await dataset.read(node.id, 0, 1000)


async def test_error_of_what_is_fetched_ahead_reaches_no_reader(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        nodes = await listed(dataset)
        await dataset.read(nodes[0].id, 0, 10)
        ufs.next_errors = [Unavailable("hiccup")] * 2

        for node in nodes[1:40]:
            assert bytes(await dataset.read(node.id, 0, 1000)) == FILES[f"d/{node.name}"]


async def test_source_that_stays_away_is_given_up(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        node = (await listed(dataset))[0]
        ufs.away = Unavailable("gone for good")

        with pytest.raises(DeadlineExceeded, match="gone for good"):
            await dataset.read(node.id, 0, 10)


async def test_cached_small_file_is_read_while_the_source_is_away(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path) as dataset:
        node = (await listed(dataset))[0]
        await dataset.read(node.id, 0, 10)
    ufs.away = Unavailable("gone for good")

    async with dataset_of(ufs, tmp_path) as dataset:
        assert bytes(await dataset.read(node.id, 0, 1000)) == FILES["d/000"]


async def test_small_files_are_delivered_where_no_tier_has_room(tmp_path: Path) -> None:
    ufs = source(FILES)
    async with dataset_of(ufs, tmp_path, quota_bytes=10) as dataset:
        for node in (await listed(dataset))[:20]:
            assert bytes(await dataset.read(node.id, 0, 1000)) == FILES[f"d/{node.name}"]
