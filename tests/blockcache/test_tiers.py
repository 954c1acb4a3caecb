"""Which tier a file goes to, and what each tier has to give back."""

from pathlib import Path

import pytest

from blockcache.catalog import ROOT_ID, Catalog, Listed, Node, Use
from blockcache.tiers import Tiers
from datamodel.client import Tier

BLOCK = 1 << 16
NEAR, FAR = 10 * BLOCK, 100 * BLOCK


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "near" / "catalog.sqlite")


@pytest.fixture
def tiers(tmp_path: Path, catalog: Catalog) -> Tiers:
    near = Tier(path=str(tmp_path / "near"), quota_bytes=NEAR, high=0.9, low=0.5)
    far = Tier(path=str(tmp_path / "far"), quota_bytes=FAR, high=0.9, low=0.5)
    return Tiers((near, far), catalog, BLOCK)


def node(catalog: Catalog, name: str, blocks: int) -> Node:
    return catalog.record(ROOT_ID, Listed(name, False, blocks * BLOCK, 1, "v1"))


def tier_of(tiers: Tiers, node: Node) -> str:
    return tiers.file(node).stem.parents[2].name


def test_file_goes_to_the_nearest_tier_it_fits_in(tiers: Tiers, catalog: Catalog) -> None:
    files = [node(catalog, f"f{index}", blocks) for index, blocks in enumerate((4, 4, 4, 1))]

    assert [tier_of(tiers, file) for file in files] == ["near", "near", "far", "near"]


def test_room_that_was_given_back_is_used_again(tiers: Tiers, catalog: Catalog) -> None:
    tiers.note_totals({0: 9 * BLOCK})
    assert tier_of(tiers, node(catalog, "while-full", 4)) == "far"

    tiers.note_totals({0: 2 * BLOCK})

    assert tier_of(tiers, node(catalog, "after", 4)) == "near"


def test_full_tier_takes_no_more_though_another_has_room(tiers: Tiers, catalog: Catalog) -> None:
    near = tiers.file(node(catalog, "near", 4))
    tiers.note_totals({0: NEAR})
    far = tiers.file(node(catalog, "far", 4))

    assert not tiers.admits(near, BLOCK)
    assert tiers.admits(far, BLOCK)


def test_what_was_just_stored_counts_before_the_catalog_knows(tiers: Tiers, catalog: Catalog) -> None:
    first = node(catalog, "first", 4)
    file = tiers.file(first)
    tiers.note_totals({0: NEAR - BLOCK})

    tiers.note_stored(first.id, file, BLOCK)

    assert not tiers.admits(file, BLOCK)


def test_each_tier_gives_back_its_own_least_used_files(tiers: Tiers, catalog: Catalog) -> None:
    files = [node(catalog, f"f{index}", 4) for index in range(4)]
    catalog.note_use([Use(file.id, 4 * BLOCK, float(index), index % 2) for index, file in enumerate(files)])
    tiers.note_totals({0: NEAR, 1: 8 * BLOCK})

    assert tiers.victims() == [files[0].id, files[2].id]


def test_uses_name_the_tier_that_holds_the_bytes(tiers: Tiers, catalog: Catalog) -> None:
    large = node(catalog, "large", 20)
    file = tiers.file(large)
    file.write(0, memoryview(bytes(BLOCK)))
    tiers.note_stored(large.id, file, BLOCK)

    (use,) = tiers.take_uses()

    assert (use.id, use.cached_bytes, use.tier) == (large.id, BLOCK, 1)
