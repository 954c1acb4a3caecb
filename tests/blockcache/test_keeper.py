"""The keeper: what it takes from a full tier and where it puts it, what it finds of dead processes, how it counts."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcache.catalog import Catalog, Node, Use
from blockcache.keeper import Keeper
from blockcache.tiers import Tiers
from datamodel.client import Tier
from tests.blockcache.test_tiers import BLOCK, content, fill, node, opened, tier_of, used


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "far" / "catalog.sqlite")


@pytest.fixture
def tiers(tmp_path: Path, catalog: Catalog) -> Iterator[Tiers]:
    tiers = opened(tmp_path, catalog)
    yield tiers
    tiers.close()


@pytest.fixture
def completed() -> list[int]:
    return []


@pytest.fixture
def keeper(tiers: Tiers, catalog: Catalog, completed: list[int]) -> Iterator[Keeper]:
    keeper = Keeper(tiers, catalog, lambda node: completed.append(node.id))
    assert keeper.keeps()
    yield keeper
    keeper.close()


def use(tiers: Tiers, catalog: Catalog, nodes: list[Node]) -> None:
    """Use *nodes* one after the other, and tell the catalog."""
    for order, one in enumerate(nodes):
        catalog.note_use([Use(one.id, None, 1e9 + order)])
    tiers.flush()


def relieved(keeper: Keeper) -> list[int]:
    gone: list[int] = []
    while batch := keeper.relieve():
        gone += [one.id for one in batch]
    return gone


def read(tiers: Tiers, node: Node) -> bytes:
    return tiers.file(node).read(0, node.size or 0)


# ---- from memory to disk ---------------------------------------------------------------------------------------------


def test_memory_hands_down_what_was_used_least_recently(
    tiers: Tiers, catalog: Catalog, keeper: Keeper, completed: list[int]
) -> None:
    nodes = [node(catalog, f"f{index}", 2, 100) for index in range(4)]
    assert all(fill(tiers, one) for one in nodes)
    tiers.places[0].usage.reserve(BLOCK, 1 << 40)
    use(tiers, catalog, nodes[::-1])

    gone = relieved(keeper)

    assert gone == completed == [one.id for one in nodes[:0:-1]]
    assert [tier_of(tiers, one) for one in nodes] == ["near", "far", "far", "far"]
    assert [read(tiers, one) == content(one) for one in nodes] == [True] * 4
    assert used(tiers) == [3 * BLOCK + 100, 6 * BLOCK + 300]
    assert catalog.cached_by_tier() == {0: 2 * BLOCK + 100, 1: 6 * BLOCK + 300}


def test_small_files_are_handed_down_too(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    nodes = [node(catalog, f"f{index}", 1) for index in range(10)]
    assert all(tiers.store_whole(one, content(one)) for one in nodes[:9])
    tiers.places[0].reserve(BLOCK)
    use(tiers, catalog, nodes[:9])

    relieved(keeper)

    assert {tier_of(tiers, one) for one in nodes[:5]} == {"far"}
    assert tiers.is_complete(nodes[0].id)
    assert read(tiers, nodes[0]) == content(nodes[0])


def test_file_that_changes_its_tier_is_another_inode_for_the_kernel(
    tiers: Tiers, catalog: Catalog, completed: list[int]
) -> None:
    keeper = Keeper(tiers, catalog, lambda node: (catalog.turn(node.id, passthrough=True), None)[1])
    assert keeper.keeps()
    nodes = [node(catalog, f"f{index}", 3) for index in range(3)]
    assert all(fill(tiers, one) for one in nodes)
    catalog.turn(nodes[0].id, passthrough=True)
    tiers.places[0].reserve(BLOCK)
    use(tiers, catalog, nodes)

    first = keeper.relieve()[0]

    assert (first.id, first.incarnation) == (nodes[0].id, 1)
    now = catalog.get(nodes[0].id)
    assert now is not None
    assert now.incarnation == 3
    keeper.close()


def test_who_reads_a_file_while_it_is_handed_down_reads_on(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    nodes = [node(catalog, f"f{index}", 3) for index in range(3)]
    assert all(fill(tiers, one) for one in nodes)
    held = tiers.file(nodes[0])
    tiers.places[0].reserve(BLOCK)
    use(tiers, catalog, nodes)

    relieved(keeper)

    assert held.is_evicted
    assert held.read(0, 3 * BLOCK) == content(nodes[0])
    assert tiers.file(nodes[0]) is not held


def test_partial_file_takes_its_blocks_along(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    partial, other = node(catalog, "partial", 4), node(catalog, "other", 4)
    tiers.store(partial.id, tiers.file(partial), 1, memoryview(content(partial))[BLOCK : 3 * BLOCK])
    assert fill(tiers, other)
    tiers.places[0].reserve(4 * BLOCK)
    use(tiers, catalog, [partial, other])

    relieved(keeper)

    file = tiers.file(partial)
    assert tier_of(tiers, partial) == "far"
    assert [file.has(block) for block in range(4)] == [False, True, True, False]
    assert file.read(BLOCK, 2 * BLOCK) == content(partial)[BLOCK : 3 * BLOCK]


def test_damaged_block_is_not_handed_down(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    nodes = [node(catalog, f"f{index}", 3) for index in range(3)]
    assert all(fill(tiers, one) for one in nodes)
    with tiers.file(nodes[0]).stem.open("r+b") as raw:
        raw.seek(BLOCK)
        raw.write(b"damage")
    tiers.places[0].reserve(BLOCK)
    use(tiers, catalog, nodes)

    relieved(keeper)

    assert [tiers.file(nodes[0]).has(block) for block in range(3)] == [True, False, True]


def test_last_tier_makes_room_first(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    old = [node(catalog, f"old{index}", 30) for index in range(3)]
    assert all(fill(tiers, one) for one in old)
    nodes = [node(catalog, f"f{index}", 3) for index in range(3)]
    assert all(fill(tiers, one) for one in nodes)
    tiers.places[0].reserve(BLOCK)
    tiers.places[1].reserve(BLOCK)
    use(tiers, catalog, [*old, *nodes])

    relieved(keeper)

    assert [tiers.is_complete(one.id) for one in (*old, *nodes)] == [False, False, True, True, True, True]
    assert all(count <= quota for _, quota, count in tiers.status())


# ---- from the last tier ----------------------------------------------------------------------------------------------


def test_least_recently_used_go_down_to_the_low_watermark(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    nodes = [node(catalog, f"f{index}", 15) for index in range(6)]
    assert all(fill(tiers, one) for one in nodes)
    tiers.places[1].reserve(BLOCK)
    use(tiers, catalog, [*nodes[3:], *nodes[:3]])

    gone = relieved(keeper)

    assert gone == [one.id for one in nodes[3:]]
    assert used(tiers) == [0, 46 * BLOCK]
    assert catalog.cached_by_tier() == {1: 45 * BLOCK}


def test_below_the_high_watermark_nothing_goes(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    nodes = [node(catalog, f"f{index}", 15) for index in range(6)]
    assert all(fill(tiers, one) for one in nodes)
    tiers.flush()

    assert relieved(keeper) == []


def test_many_files_go_in_batches(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.sqlite")
    tiers = Tiers((Tier(path=str(tmp_path), quota_bytes=1_000_000, high=0.5, low=0.1),), catalog, BLOCK)
    keeper = Keeper(tiers, catalog, lambda node: None)
    assert keeper.keeps()
    nodes = [node(catalog, f"f{index}", 0, 1000) for index in range(600)]
    assert all(tiers.store_whole(one, content(one)) for one in nodes)
    use(tiers, catalog, nodes)

    gone = relieved(keeper)

    assert gone == [one.id for one in nodes[:500]]
    assert tiers.cached_bytes == 100_000
    keeper.close()
    tiers.close()


def test_files_whose_rows_went_are_removed(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    small, large = node(catalog, "small", 1), node(catalog, "large", 3)
    assert fill(tiers, small)
    assert fill(tiers, large)
    tiers.flush()
    stems = [tiers.file(one).stem for one in (small, large)]
    for one in (small, large):
        catalog.forget(one.id)

    gone = keeper.take_orphans()

    assert [(one.id, one.incarnation) for one in gone] == [(small.id, 0), (large.id, 0)]
    assert [stem.exists() for stem in stems] == [False, False]
    assert used(tiers) == [0, 0]


# ---- keeping count ---------------------------------------------------------------------------------------------------


def test_count_that_went_wrong_is_put_right(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    assert fill(tiers, node(catalog, "f", 3))
    tiers.flush()
    tiers.places[0].usage.free(-1000)  # as if an eviction had raced with a store

    keeper.tidy()

    assert used(tiers) == [3 * BLOCK, 0]


def test_eviction_under_a_writer_does_not_spoil_the_count(tiers: Tiers, catalog: Catalog, keeper: Keeper) -> None:
    large = node(catalog, "large", 3)
    file, data = tiers.file(large), memoryview(content(large))
    tiers.store(large.id, file, 0, data[:BLOCK])
    assert tiers.reserve(file, BLOCK)

    keeper.evict([large.id])
    file.write(1, data[BLOCK : 2 * BLOCK])
    tiers.note_stored(large.id, file, BLOCK)
    tiers.flush()
    keeper.tidy()

    assert used(tiers) == [0, 0]
    assert not tiers.store(large.id, file, 2, data[2 * BLOCK :])


_STORER = """
import sys
from pathlib import Path
from blockcache.catalog import Catalog
from tests.blockcache.test_tiers import ROOT_ID, content, fill, opened

folder = Path(sys.argv[1])
catalog = Catalog(folder / "far" / "catalog.sqlite")
tiers = opened(folder, catalog)
for node in catalog.children(ROOT_ID):
    fill(tiers, node)
    print(node.name, flush=True)
sys.stdin.readline()
"""


def killed_after_storing(folder: Path, count: int) -> None:
    command = [sys.executable, "-c", _STORER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as storer:
        assert storer.stdout is not None
        for _ in range(count):
            storer.stdout.readline()
        storer.send_signal(signal.SIGKILL)


def test_what_a_killed_process_stored_is_counted_and_kept(tmp_path: Path, catalog: Catalog) -> None:
    nodes = [node(catalog, f"f{index}", index % 3, 500) for index in range(12)]
    killed_after_storing(tmp_path, len(nodes))
    assert catalog.cached_by_tier() == {}

    tiers = opened(tmp_path, catalog)
    keeper = Keeper(tiers, catalog, lambda node: None)
    assert keeper.keeps()

    assert tiers.cached_bytes == sum(one.size or 0 for one in nodes) == sum(catalog.cached_by_tier().values())
    assert all(tiers.is_complete(one.id) and read(tiers, one) == content(one) for one in nodes)
    keeper.close()
    tiers.close()


def test_keeper_of_a_living_cache_counts_what_another_process_left(
    tiers: Tiers, catalog: Catalog, keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [node(catalog, f"f{index}", 2) for index in range(4)]
    killed_after_storing(tmp_path, len(nodes))
    assert sum(used(tiers)) == 8 * BLOCK

    monkeypatch.setattr("blockcache.keeper._SWEEP_PERIOD_S", 0.0)
    keeper.tidy()

    assert sum(used(tiers)) == sum(catalog.cached_by_tier().values()) == 8 * BLOCK
    assert [place.usage.leftovers() for place in tiers.places] == [{}, {}]


def test_memory_that_forgot_everything_is_not_counted(tiers: Tiers, catalog: Catalog, tmp_path: Path) -> None:
    nodes = [node(catalog, f"f{index}", index) for index in range(1, 4)]
    assert all(fill(tiers, one) for one in nodes)
    tiers.flush()
    for path in (tmp_path / "near").glob("**/*"):
        if path.is_file():
            path.unlink()
    (tmp_path / "far" / "session.json").unlink()  # the machine was started again

    after = opened(tmp_path, catalog)
    keeper = Keeper(after, catalog, lambda node: None)
    assert keeper.keeps()

    assert used(after) == [0, 0]
    assert catalog.cached_by_tier() == {}
    assert all(fill(after, one) for one in nodes)
    keeper.close()
    after.close()


def test_file_whose_move_was_cut_short_is_where_it_was(tiers: Tiers, catalog: Catalog, tmp_path: Path) -> None:
    nodes = [node(catalog, name, blocks) for name, blocks in (("small", 1), ("large", 3), ("almost", 3))]
    assert all(fill(tiers, one) for one in nodes)
    tiers.flush()
    for one in nodes:
        copy = tiers.places[1].open(one)
        copy.write(0, memoryview(content(one))[:BLOCK])
    catalog.note_use([Use(nodes[2].id, 3 * BLOCK, 0.0, 1)])  # killed just before it let go of the old one
    (tmp_path / "far" / "session.json").unlink()

    after = opened(tmp_path, catalog)
    keeper = Keeper(after, catalog, lambda node: None)
    assert keeper.keeps()

    assert used(after) == [7 * BLOCK, 0]
    assert catalog.cached_by_tier() == {0: 7 * BLOCK}
    assert [tier_of(after, one) for one in nodes] == ["near"] * 3
    assert not [path for path in (tmp_path / "far" / "blocks").rglob("*") if path.is_file()]
    keeper.close()
    after.close()


def test_leftovers_without_meaning_go(tiers: Tiers, catalog: Catalog, tmp_path: Path) -> None:
    kept = node(catalog, "kept", 0, 100)
    assert fill(tiers, kept)
    folder = tmp_path / "near" / "blocks" / "63"
    folder.mkdir()
    for name in ("99", "99.map", "355.part", "611.map", "notes.txt"):
        (folder / name).write_bytes(b"left")
    half = node(catalog, "half-stored", 0, 100)
    path = tiers.places[0].stem(half.id)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(b"killed in the middle")
    os.utime(path, (0, 0))
    (tmp_path / "far" / "session.json").unlink()

    after = opened(tmp_path, catalog)
    keeper = Keeper(after, catalog, lambda node: None)
    assert keeper.keeps()

    assert [found.name for found in folder.iterdir()] == ["notes.txt"]  # not ours
    assert not Path(path).exists()
    assert after.is_complete(kept.id)
    keeper.close()
    after.close()


def ended_well(folder: Path, catalog: Catalog) -> None:
    first = opened(folder, catalog)
    keeper = Keeper(first, catalog, lambda node: None)
    assert keeper.keeps()
    assert fill(first, node(catalog, "f", 3))
    first.flush()
    keeper.close()
    first.close()


def test_session_that_ended_well_is_not_swept(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_well(tmp_path, catalog)
    swept: list[str] = []
    monkeypatch.setattr("blockcache.keeper.sweep", lambda place, places, catalog: swept.append(place.tier.path))

    second = opened(tmp_path, catalog)
    keeper = Keeper(second, catalog, lambda node: None)
    assert keeper.keeps()

    assert swept == []
    keeper.close()
    second.close()


def test_memory_that_is_new_though_all_ended_well_is_not_believed_to_hold_anything(
    tmp_path: Path, catalog: Catalog
) -> None:
    ended_well(tmp_path, catalog)
    shutil.rmtree(tmp_path / "near")

    second = opened(tmp_path, catalog)
    keeper = Keeper(second, catalog, lambda node: None)
    assert keeper.keeps()

    assert used(second) == [0, 0]
    assert catalog.cached_by_tier() == {}
    keeper.close()
    second.close()
