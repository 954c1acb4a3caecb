"""The catalog: rows that keep their ids, and what happens to them when the source changes."""

import os
import sqlite3
from pathlib import Path

import pytest

from blockcache.catalog import ROOT_ID, Catalog, Listed, Use
from tests.blockcache.listings import children, file, folder

NOT_UTF_8 = os.fsdecode(b"latin-\xe9\xff")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Catalog:
    return Catalog(path)


def test_listing_makes_rows_and_notes_its_time(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a", 1), folder("b")], now=123.5)

    assert {(node.name, node.is_dir, node.size) for node in catalog.children(ROOT_ID)} == {
        ("a", False, 1),
        ("b", True, None),
    }
    root = catalog.get(ROOT_ID)
    assert root is not None
    assert root.listed_at == 123.5


def test_ids_are_the_same_after_reopening(path: Path) -> None:
    Catalog(path).record_listing(ROOT_ID, [file(f"f{i}") for i in range(50)], now=1)
    before = {name: node.id for name, node in children(Catalog(path)).items()}

    Catalog(path).record_listing(ROOT_ID, [file(f"f{i}") for i in reversed(range(50))], now=2)

    assert {name: node.id for name, node in children(Catalog(path)).items()} == before


def test_id_of_a_dropped_row_is_never_given_again(path: Path) -> None:
    catalog = Catalog(path)
    dropped = catalog.record(ROOT_ID, file("a")).id
    catalog.forget(dropped)

    assert Catalog(path).record(ROOT_ID, file("b")).id > dropped


def test_another_version_gets_a_new_row(catalog: Catalog) -> None:
    old = catalog.record(ROOT_ID, file("a", version="v1"))

    new = catalog.record(ROOT_ID, file("a", version="v2"))

    assert new.id != old.id
    assert catalog.get(old.id) is None


def test_same_version_keeps_its_row(catalog: Catalog) -> None:
    old = catalog.record(ROOT_ID, file("a", version="v1"))

    assert catalog.record(ROOT_ID, file("a", version="v1")).id == old.id


def test_first_version_is_pinned_on_the_row_that_a_listing_made(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a")], now=1)
    listed = children(catalog)["a"]

    pinned = catalog.record(ROOT_ID, file("a", version="v1"))

    assert (pinned.id, pinned.version) == (listed.id, "v1")


@pytest.mark.parametrize(
    "listed", [file("a", size=11), file("a", mtime_ns=6), file("a", mtime_ns=4), folder("a")], ids=str
)
def test_listing_that_contradicts_a_pinned_row_makes_a_new_one(catalog: Catalog, listed: Listed) -> None:
    old = catalog.record(ROOT_ID, file("a", version="v1"))

    catalog.record_listing(ROOT_ID, [listed], now=1)

    assert children(catalog)["a"].id != old.id


@pytest.mark.parametrize("listed", [file("a"), file("a", size=None), file("a", mtime_ns=None)], ids=str)
def test_listing_that_knows_less_keeps_a_pinned_row(catalog: Catalog, listed: Listed) -> None:
    old = catalog.record(ROOT_ID, file("a", version="v1"))

    catalog.record_listing(ROOT_ID, [listed], now=1)

    known = children(catalog)["a"]
    assert (known.id, known.size, known.mtime_ns, known.version) == (old.id, 10, 5, "v1")


def test_listing_corrects_the_time_of_a_row_that_is_not_pinned(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a", mtime_ns=1)], now=1)
    id = children(catalog)["a"].id

    catalog.record_listing(ROOT_ID, [file("a", mtime_ns=2)], now=2)

    found = children(catalog)["a"]
    assert (found.id, found.mtime_ns) == (id, 2)


def test_listing_drops_what_is_gone(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a"), file("b")], now=1)

    catalog.record_listing(ROOT_ID, [file("b")], now=2)

    assert list(children(catalog)) == ["b"]


def test_everything_below_a_dropped_folder_goes(catalog: Catalog) -> None:
    top = catalog.record(ROOT_ID, folder("top"))
    middle = catalog.record(top.id, folder("middle"))
    leaf = catalog.record(middle.id, file("leaf", version="v1"))
    catalog.note_use([Use(leaf.id, 10, 1.0)])

    catalog.record_listing(ROOT_ID, [], now=1)

    assert catalog.get(leaf.id) is None
    assert catalog.totals() == (0, 0)
    assert [id for id, _ in catalog.take_orphans()] == [leaf.id]


def test_dropped_row_of_a_pinned_file_is_told_once(catalog: Catalog) -> None:
    # Also if nothing is recorded as cached: what was fetched a moment ago is recorded a second later.
    old = catalog.record(ROOT_ID, file("a", version="v1"))
    catalog.turn(old.id, passthrough=True)

    catalog.record(ROOT_ID, file("a", version="v2"))

    assert catalog.take_orphans() == [(old.id, 1)]
    assert catalog.take_orphans() == []


def test_dropped_row_of_a_file_that_was_never_opened_leaves_nothing_behind(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a")], now=1)

    catalog.record_listing(ROOT_ID, [], now=2)

    assert catalog.take_orphans() == []


@pytest.mark.parametrize("name", [NOT_UTF_8, "ü 😀", "x" * 255, "tab\tand\nnewline", "'; DROP TABLE node; --", " "])
def test_any_name_is_found_again(catalog: Catalog, name: str) -> None:
    catalog.record_listing(ROOT_ID, [file(name)], now=1)

    found = catalog.lookup(ROOT_ID, name)

    assert found is not None
    assert found.name == name


def test_children_go_on_after_an_id_although_the_listing_was_refreshed_in_between(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file(f"f{i}") for i in range(10)], now=1)
    first = catalog.children(ROOT_ID, limit=4)

    catalog.record_listing(ROOT_ID, [file(f"f{i}") for i in range(10) if i != 5], now=2)
    rest = catalog.children(ROOT_ID, after=first[-1].id, limit=100)

    assert [node.name for node in first + rest] == [f"f{i}" for i in range(10) if i != 5]


def test_page_of_a_directory_is_read_from_an_index_without_sorting(path: Path) -> None:
    Catalog(path)
    with sqlite3.connect(path) as db:
        query = "EXPLAIN QUERY PLAN SELECT * FROM node WHERE parent = 1 AND id > 5 ORDER BY id LIMIT 10"
        plan = " ".join(str(row[3]) for row in db.execute(query))
    db.close()

    assert "parent=? AND rowid>?" in plan
    assert "TEMP B-TREE" not in plan


def test_turn_changes_the_parity_once(catalog: Catalog) -> None:
    id = catalog.record(ROOT_ID, file("a")).id

    turned = [catalog.turn(id, passthrough=passthrough) for passthrough in (True, True, False, False, True)]

    assert [node.incarnation for node in turned if node] == [1, 1, 2, 2, 3]


def test_least_used_comes_first(catalog: Catalog) -> None:
    ids = [catalog.record(ROOT_ID, file(name)).id for name in "abc"]

    catalog.note_use([Use(ids[0], 5, 30.0), Use(ids[1], 6, 10.0), Use(ids[2], 7, 20.0)])

    assert catalog.least_used(0, 10) == [(ids[1], 6), (ids[2], 7), (ids[0], 5)]
    assert catalog.cached_by_tier() == {0: 18}


def test_use_without_a_size_keeps_the_size(catalog: Catalog) -> None:
    id = catalog.record(ROOT_ID, file("a")).id

    catalog.note_use([Use(id, 5, 1.0)])
    catalog.note_use([Use(id, None, 2.0)])

    assert catalog.least_used(0, 1) == [(id, 5)]


def test_evicted_file_is_no_longer_cached_nor_read_by_passthrough(catalog: Catalog) -> None:
    id = catalog.record(ROOT_ID, file("a")).id
    catalog.note_use([Use(id, 5, 1.0)])
    catalog.turn(id, passthrough=True)

    assert catalog.note_evicted(id) == 1

    node = catalog.get(id)
    assert node is not None
    assert node.incarnation == 2
    assert catalog.cached_by_tier() == {}


def test_evicting_a_row_that_is_gone_tells_so(catalog: Catalog) -> None:
    assert catalog.note_evicted(99) is None


def test_known_rows_are_told_with_what_they_hold(catalog: Catalog) -> None:
    a, b = (catalog.record(ROOT_ID, file(name)).id for name in "ab")
    catalog.note_use([Use(a, 5, 1.0)])

    assert catalog.known([a, b, 99]) == {a: 5, b: 0}


def test_totals_count_files_and_their_known_sizes(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a", 10), file("b", None), folder("c")], now=1)

    assert catalog.totals() == (2, 10)


def test_versions_that_came_with_the_content_are_pinned_where_they_fit(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.sqlite")
    listed = [Listed(name, False, 3, None) for name in "abcd"] + [Listed("unsized", False, None, None)]
    catalog.record_listing(ROOT_ID, listed, now=1.0)
    ids = {node.name: node.id for node in catalog.children(ROOT_ID)}
    catalog.pin([(ids["b"], Listed("b", False, 3, 7, "other"))])
    catalog.forget(ids["c"])

    rows = catalog.pin(
        [
            (ids["a"], Listed("a", False, 3, 7, "v1")),
            (ids["b"], Listed("b", False, 3, 7, "v1")),
            (ids["c"], Listed("c", False, 3, 7, "v1")),
            (ids["d"], Listed("d", False, 4, 7, "v1")),
            (ids["unsized"], Listed("unsized", False, 9, 7, "v1")),
        ]
    )

    assert [row and (row.name, row.size, row.version) for row in rows] == [
        ("a", 3, "v1"),
        None,
        None,
        None,
        ("unsized", 9, "v1"),
    ]


def test_row_that_was_read_before_is_read_anew_once_another_process_changed_it(path: Path) -> None:
    ours, theirs = Catalog(path), Catalog(path)
    id = ours.record(ROOT_ID, file("a")).id
    assert [node.incarnation for node in (ours.get(id), theirs.get(id)) if node] == [0, 0]

    theirs.turn(id, passthrough=True)
    turned = ours.get(id)
    theirs.pin([(id, file("a", version="v1"))])
    pinned = ours.get(id)
    theirs.record_listing(ROOT_ID, [], now=1)

    assert turned is not None
    assert turned.incarnation == 1
    assert pinned is not None
    assert pinned.version == "v1"
    assert ours.get(id) is None


def test_row_that_nobody_changed_is_the_one_in_memory(catalog: Catalog) -> None:
    id = catalog.record(ROOT_ID, file("a")).id
    first = catalog.get(id)

    catalog.note_use([Use(id, 5, 1.0)])

    assert catalog.get(id) is first
    catalog.forget_rows()
    assert catalog.get(id) == first
