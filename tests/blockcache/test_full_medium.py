"""A medium that is full for real: a small tmpfs. Readers get their bytes, names are listed, and it heals."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcache.catalog import Catalog
from blockcache.keeper import Keeper
from blockcache.tiers import Tiers
from broker import kernel
from datamodel.client import Tier
from tests.blockcache.datasets import content, dataset_of, opened, read, source
from tests.blockcache.test_tiers import content as content_of
from tests.blockcache.test_tiers import fill, node

pytestmark = pytest.mark.root

BLOCK = 64 << 10


@pytest.fixture
def medium(tmp_path: Path, private_mounts: None) -> Iterator[Path]:
    folder = tmp_path / "medium"
    folder.mkdir()
    kernel.mount("headrace-test", str(folder), "tmpfs", 0, "size=24m")
    yield folder
    kernel.umount(str(folder), kernel.MNT_DETACH)


def fill_up(folder: Path) -> Path:
    """Take all that is left."""
    path = folder / "somebody-else"
    with path.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return path


async def test_reads_and_listings_go_on_while_the_medium_is_full_and_are_cached_when_it_is_not(medium: Path) -> None:
    files = {f"{folder}/{size}": content(size, size) for folder in "ab" for size in (3_000_000, 900)}
    async with dataset_of(source(files), medium, block_bytes=BLOCK) as dataset:
        assert await read(dataset, "a/900") == files["a/900"]
        await dataset._keep_once()
        taken = fill_up(medium)

        for path, data in files.items():
            assert await read(dataset, path) == data
        await dataset._keep_once()
        taken.unlink()

        ids = [(await opened(dataset, path)).id for path in files]
        while not all(map(dataset.tiers.is_complete, ids)):  # the medium is asked now and then only
            for path, data in files.items():
                assert await read(dataset, path) == data
        await dataset._keep_once()
        assert dataset.tiers.cached_bytes == sum(map(len, files.values()))


async def test_cache_with_a_quota_beyond_its_medium_stores_what_there_is_room_for(medium: Path) -> None:
    files = {f"f{index}": content(3_000_000, index) for index in range(10)}
    async with dataset_of(source(files), medium, block_bytes=BLOCK) as dataset:
        for _ in range(2):
            for path, data in files.items():
                assert await read(dataset, path) == data
            await dataset._keep_once()

        stored = sum(path.stat().st_blocks * 512 for path in (medium / "blocks").rglob("*") if path.suffix != ".map")
        assert 5_000_000 < dataset.tiers.cached_bytes <= stored


def test_memory_is_read_without_a_thread(medium: Path, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.sqlite")
    tiers = Tiers((Tier(path=str(medium), quota_bytes=1 << 20),), catalog, BLOCK)
    nodes = [node(catalog, "small", 0, 100), node(catalog, "large", 3)]
    assert all(fill(tiers, one) for one in nodes)

    assert all(tiers.file(one).read_now(10, 50) == content_of(one)[10:60] for one in nodes)
    tiers.close()


def test_full_memory_hands_down_all_the_same(medium: Path, tmp_path: Path) -> None:
    near = Tier(path=str(medium), quota_bytes=1 << 20, high=0.9, low=0.2)
    catalog = Catalog(tmp_path / "far" / "catalog.sqlite")
    tiers = Tiers((near, Tier(path=str(tmp_path / "far"), quota_bytes=1 << 30)), catalog, BLOCK)
    keeper = Keeper(tiers, catalog, lambda node: None)
    assert keeper.keeps()
    nodes = [node(catalog, f"f{index}", 2) for index in range(7)]
    assert all(fill(tiers, one) for one in nodes)
    fill_up(medium)
    tiers.places[0].reserve(2 * BLOCK)
    tiers.flush()

    while keeper.relieve():
        pass

    assert all(tiers.file(one).read(0, 2 * BLOCK) == content_of(one) for one in nodes)
    assert tiers.places[1].usage.used >= 10 * BLOCK
    assert not (medium / "blocks" / "02" / "2").exists()
    keeper.close()
    tiers.close()


def test_disk_that_is_full_gets_nothing_handed_down_and_loses_nothing(medium: Path, tmp_path: Path) -> None:
    near = Tier(path=str(tmp_path / "near"), quota_bytes=1 << 20, high=0.9, low=0.2)
    catalog = Catalog(tmp_path / "catalog" / "catalog.sqlite")
    tiers = Tiers((near, Tier(path=str(medium), quota_bytes=1 << 30)), catalog, BLOCK)
    keeper = Keeper(tiers, catalog, lambda node: None)
    assert keeper.keeps()
    nodes = [node(catalog, f"f{index}", 2) for index in range(7)]
    assert all(fill(tiers, one) for one in nodes)
    fill_up(medium)
    tiers.places[0].reserve(2 * BLOCK)
    tiers.flush()

    while keeper.relieve():
        pass
    keeper.tidy()

    assert tiers.places[1].usage.used == 0
    assert [tiers.is_complete(one.id) for one in nodes].count(True) <= 1  # dropped, to be fetched again
    keeper.close()
    tiers.close()
