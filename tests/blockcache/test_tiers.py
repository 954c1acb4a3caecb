"""Which tier a file goes to, how much each takes, and what the catalog hears of it."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import structlog

from blockcache.catalog import ROOT_ID, Catalog, Listed, Node
from blockcache.sparsefile import SparseFile
from blockcache.tiers import Tiers
from blockcache.uncached import UncachedFile
from blockcache.wholefile import WholeFile
from datamodel.client import Tier
from datamodel.errors import Unavailable

BLOCK = 1 << 16
NEAR, FAR = 10 * BLOCK, 100 * BLOCK


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "far" / "catalog.sqlite")


@pytest.fixture
def tiers(tmp_path: Path, catalog: Catalog) -> Iterator[Tiers]:
    tiers = opened(tmp_path, catalog)
    yield tiers
    tiers.close()


def opened(folder: Path, catalog: Catalog) -> Tiers:
    near = Tier(path=str(folder / "near"), quota_bytes=NEAR, high=0.9, low=0.5)
    far = Tier(path=str(folder / "far"), quota_bytes=FAR, high=0.9, low=0.5)
    return Tiers((near, far), catalog, BLOCK)


def node(catalog: Catalog, name: str, blocks: int, extra: int = 0) -> Node:
    return catalog.record(ROOT_ID, Listed(name, False, blocks * BLOCK + extra, 1, "v1"))


def content(node: Node) -> bytes:
    assert node.size is not None
    return Random(node.id).randbytes(node.size)


def fill(tiers: Tiers, node: Node) -> bool:
    """Store all of *node*, one block at a time; whether it is complete then."""
    file, data = tiers.file(node), memoryview(content(node))
    stored = [
        tiers.store(node.id, file, block, data[block * BLOCK : block * BLOCK + file.length(block)])
        for block in range(file.blocks)
    ]
    return stored[-1]


def tier_of(tiers: Tiers, node: Node) -> str:
    return tiers.file(node).stem.parents[2].name


def used(tiers: Tiers) -> list[int]:
    return [count for _, _, count in tiers.status()]


# ---- placing ---------------------------------------------------------------------------------------------------------


def test_file_goes_to_the_nearest_tier_it_fits_in(tiers: Tiers, catalog: Catalog) -> None:
    files = [node(catalog, f"f{index}", blocks) for index, blocks in enumerate((4, 4, 4, 1))]

    assert [tier_of(tiers, file) for file in files] == ["near", "near", "far", "near"]


def test_room_that_was_given_back_is_used_again(tiers: Tiers, catalog: Catalog) -> None:
    tiers.places[0].reserve(9 * BLOCK)
    assert tier_of(tiers, node(catalog, "while-full", 4)) == "far"

    tiers.places[0].usage.free(7 * BLOCK)

    assert tier_of(tiers, node(catalog, "after", 4)) == "near"


def test_file_stays_where_it_is(tiers: Tiers, catalog: Catalog, tmp_path: Path) -> None:
    small, large = node(catalog, "small", 0, 100), node(catalog, "large", 4)
    assert fill(tiers, small)
    assert fill(tiers, large)
    tiers.places[0].reserve(NEAR - 5 * BLOCK)

    another = opened(tmp_path, catalog)

    assert [tier_of(another, file) for file in (small, large)] == ["near", "near"]
    another.close()


def test_file_of_one_block_is_kept_in_one_piece(tiers: Tiers, catalog: Catalog) -> None:
    assert isinstance(tiers.file(node(catalog, "one", 1)), WholeFile)
    assert isinstance(tiers.file(node(catalog, "two", 1, 1)), SparseFile)


def test_small_file_is_stored_and_found_complete(tiers: Tiers, catalog: Catalog) -> None:
    small = node(catalog, "small", 0, 100)
    assert not tiers.is_complete(small.id)

    file = tiers.store_whole(small, content(small))

    assert file is not None
    assert file.read(0, 100) == content(small)
    assert tiers.is_complete(small.id)
    assert tiers.file(small).read(0, 100) == content(small)


def test_large_file_is_complete_only_with_its_last_block(tiers: Tiers, catalog: Catalog) -> None:
    large = node(catalog, "large", 3)
    file, data = tiers.file(large), memoryview(content(large))

    assert not tiers.store(large.id, file, 0, data[: 2 * BLOCK])
    assert not tiers.is_complete(large.id)
    assert tiers.store(large.id, file, 2, data[2 * BLOCK :])
    assert tiers.is_complete(large.id)


# ---- quota -----------------------------------------------------------------------------------------------------------


def test_block_that_is_there_already_is_not_counted_again(tiers: Tiers, catalog: Catalog) -> None:
    large = node(catalog, "large", 3)
    assert fill(tiers, large)

    assert fill(tiers, large)

    tiers.flush()
    assert used(tiers) == [3 * BLOCK, 0]


def test_full_tier_takes_no_more_though_another_has_room(tiers: Tiers, catalog: Catalog) -> None:
    near = node(catalog, "near", 4)
    tiers.file(near)
    tiers.places[0].reserve(NEAR)

    assert not fill(tiers, near)
    assert fill(tiers, node(catalog, "far", 4))
    assert used(tiers) == [NEAR, 4 * BLOCK]


def test_what_is_refused_is_neither_counted_nor_there(tiers: Tiers, catalog: Catalog) -> None:
    small = node(catalog, "small", 1)
    for place in tiers.places:
        place.reserve(place.tier.quota_bytes)

    assert tiers.store_whole(small, content(small)) is None
    assert not tiers.is_complete(small.id)
    assert used(tiers) == [NEAR, FAR]


def test_tier_above_its_high_watermark_calls_the_keeper(tiers: Tiers, catalog: Catalog) -> None:
    fill(tiers, node(catalog, "first", 5))
    with pytest.raises(BlockingIOError):
        os.read(tiers.bell.fd, 1)
    assert tiers.has_room

    tiers.places[1].reserve(89 * BLOCK)
    fill(tiers, node(catalog, "second", 5))

    assert os.read(tiers.bell.fd, 1)
    assert tiers.has_room
    tiers.places[0].reserve(5 * BLOCK)
    assert not tiers.has_room


_FILLER = """
import sys
from pathlib import Path
from blockcache.catalog import Catalog
from tests.blockcache.test_tiers import fill, opened, ROOT_ID

folder = Path(sys.argv[1])
catalog = Catalog(folder / "far" / "catalog.sqlite")
tiers = opened(folder, catalog)
mine = [node for node in catalog.children(ROOT_ID) if node.name.startswith(sys.argv[2])]
print("ready", flush=True)
sys.stdin.readline()
for node in mine:
    fill(tiers, node)
print("done", flush=True)
sys.stdin.readline()
"""


def bytes_on_the_medium(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (folder / "blocks").glob("??/*") if path.suffix != ".map")


def test_two_processes_that_store_at_once_keep_every_quota(tiers: Tiers, catalog: Catalog, tmp_path: Path) -> None:
    for name in "ab":
        for index in range(40):
            node(catalog, f"{name}{index}", index % 4, 4096)
    command = [sys.executable, "-c", _FILLER, str(tmp_path)]
    fillers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    for word in ("ready\n", "done\n"):
        for filler in fillers:
            assert filler.stdout is not None
            assert filler.stdin is not None
            assert filler.stdout.readline() == word
            if word == "ready\n":
                filler.stdin.write("go on\n")
                filler.stdin.flush()
    for filler in fillers:
        filler.communicate("go on\n")

    for name, place in zip(("near", "far"), tiers.places, strict=True):
        assert place.usage.used <= place.tier.quota_bytes
        assert 0 < bytes_on_the_medium(tmp_path / name) <= place.tier.quota_bytes


def test_file_too_large_for_its_tier_keeps_its_first_part(tiers: Tiers, catalog: Catalog) -> None:
    large = node(catalog, "large", 300)
    for _ in range(3):  # three readers, one after the other
        fill(tiers, large)

    file = tiers.file(large)
    share = tiers.places[1].share_bytes
    assert file.is_oversize
    assert 0.9 * share <= file.cached_bytes() <= share
    assert tiers.places[1].usage.used == file.cached_bytes()
    first = sum(file.has(block) for block in range(share // BLOCK))
    assert first > 0.2 * share // BLOCK


def test_scan_of_a_file_too_large_leaves_the_others_alone(tiers: Tiers, catalog: Catalog) -> None:
    others = [node(catalog, f"f{index}", 20) for index in range(2)]
    assert all(fill(tiers, other) for other in others)

    fill(tiers, node(catalog, "large", 300))

    assert all(tiers.is_complete(other.id) for other in others)
    assert not tiers.places[1].is_pressed


# ---- what the catalog hears ------------------------------------------------------------------------------------------


def test_catalog_hears_what_each_tier_holds(tiers: Tiers, catalog: Catalog) -> None:
    near, far = node(catalog, "near", 4), node(catalog, "far", 20)
    fill(tiers, near)
    tiers.store(far.id, tiers.file(far), 0, memoryview(content(far))[:BLOCK])
    assert catalog.cached_by_tier() == {}

    tiers.flush()

    assert catalog.cached_by_tier() == {0: 4 * BLOCK, 1: BLOCK}
    assert used(tiers) == [4 * BLOCK, BLOCK]


def test_what_the_catalog_could_not_be_told_is_told_later(
    tiers: Tiers, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*uses: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    fill(tiers, node(catalog, "first", 4))
    monkeypatch.setattr(catalog, "note_use", refuse)
    with pytest.raises(sqlite3.OperationalError):
        tiers.flush()
    monkeypatch.undo()
    fill(tiers, node(catalog, "second", 2))

    tiers.flush()

    assert catalog.cached_by_tier() == {0: 6 * BLOCK}


def test_file_that_was_evicted_meanwhile_is_not_told(tiers: Tiers, catalog: Catalog) -> None:
    first = node(catalog, "first", 4)
    fill(tiers, first)
    tiers.file(first).stem.with_suffix(".map").unlink()

    tiers.flush()

    assert catalog.cached_by_tier() == {}


def test_use_is_recorded_by_a_clock_that_does_not_follow_the_time_of_day(
    tiers: Tiers, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [node(catalog, f"f{index}", 1) for index in range(3)]
    for file, now in zip(files, (2e9, 1e9, 3e9), strict=True):
        monkeypatch.setattr("time.time", lambda now=now: now)
        fill(tiers, file)
        tiers.note_use(file.id)
        tiers.flush()

    assert [id for id, _ in catalog.least_used(0, 10)] == [file.id for file in files]


def test_more_files_than_may_be_open_are_stored_and_found(
    tiers: Tiers, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "_kept_files", 5)
    files = [node(catalog, f"f{index}", 0, 100) for index in range(50)]

    for file in files:
        assert fill(tiers, file)

    assert all(tiers.file(file).read(0, 100) == content(file) for file in files)
    assert len(tiers._open) == 5


# ---- a medium in trouble ---------------------------------------------------------------------------------------------


def test_tier_that_cannot_be_written_is_named(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "near").write_bytes(b"not a folder")

    with pytest.raises(Unavailable, match="near"):
        opened(tmp_path, catalog)


def test_folder_that_somebody_emptied_is_made_again(tiers: Tiers, catalog: Catalog, tmp_path: Path) -> None:
    small, large = node(catalog, "small", 0, 100), node(catalog, "large", 3)
    assert fill(tiers, small)
    shutil.rmtree(tmp_path / "near" / "blocks")

    assert fill(tiers, large)
    assert fill(tiers, small)
    assert tiers.is_complete(small.id)


def test_medium_that_refuses_costs_the_cache_only(
    tiers: Tiers, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    small, large = node(catalog, "small", 0, 100), node(catalog, "large", 3)
    monkeypatch.setattr(os, "open", refuse)
    with structlog.testing.capture_logs() as lines:
        assert not fill(tiers, small)
        assert not fill(tiers, large)
        assert isinstance(tiers.file(large), UncachedFile)
    assert [line["event"] for line in lines] == ["tier.refused"]

    monkeypatch.undo()

    assert fill(tiers, small)
    assert fill(tiers, large)
    tiers.flush()
    assert tiers.cached_bytes == 3 * BLOCK + 100


def test_place_of_what_was_evicted_is_let_go(tiers: Tiers, catalog: Catalog) -> None:
    first = node(catalog, "first", 4)
    fill(tiers, first)
    tiers.flush()
    assert not tiers.release_evicted()
    tiers.file(first).stem.with_suffix(".map").unlink()
    tiers.places[0].usage.free(4 * BLOCK)

    assert tiers.release_evicted()
    assert not tiers._open
