"""Listings in pieces: what becomes of rows, of totals, and of what other processes are told."""

from pathlib import Path

import pytest
import structlog.testing

from blockcache.catalog import ROOT_ID, Catalog, Listed, Use
from datamodel.errors import VersionChanged
from tests.blockcache.listings import children, file, folder, link, root

MANY = 100_000


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "catalog.sqlite")


def test_listing_that_breaks_off_adds_and_updates_but_drops_nothing(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a", 1), file("b", 1), file("c", 1)], now=1)
    begun = catalog.begin_listing(ROOT_ID)

    begun.add([file("a", 2), file("new")])

    assert {name: node.size for name, node in children(catalog).items()} == {"a": 2, "b": 1, "c": 1, "new": 10}
    assert root(catalog).listed_at == 1


def test_listing_in_pieces_is_the_same_as_in_one(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file(f"f{i}") for i in range(5000)], now=1)
    before = children(catalog)
    begun = catalog.begin_listing(ROOT_ID)

    for start in range(1000, 5000, 100):
        begun.add([file(f"f{i}") for i in range(start, start + 100)])
    dropped = [name for names in begun.finish(2) for name in names]

    assert sorted(dropped) == sorted(f"f{i}" for i in range(1000))
    assert {name: node.id for name, node in children(catalog).items()} == {
        f"f{i}": before[f"f{i}"].id for i in range(1000, 5000)
    }


def test_name_that_somebody_found_while_a_listing_was_under_way_is_not_dropped_by_it(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [file("a", version="v1")], now=1)
    begun = catalog.begin_listing(ROOT_ID)
    begun.add([file("a")])
    catalog.record(ROOT_ID, file("fresh"))
    catalog.record(ROOT_ID, file("a", version="v2"))

    assert list(begun.finish(2)) == []

    assert sorted(children(catalog)) == ["a", "fresh"]


def test_name_that_is_listed_twice_is_one_row(catalog: Catalog) -> None:
    begun = catalog.begin_listing(ROOT_ID)
    begun.add([file("a", 1), file("a", 2)])
    begun.add([file("a", 2)])
    list(begun.finish(1))

    assert [node.size for node in catalog.children(ROOT_ID)] == [2]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "nul\0", "x" * 256, "ü" * 128])
def test_name_that_no_directory_can_have_is_left_out_with_a_warning(catalog: Catalog, name: str) -> None:
    with structlog.testing.capture_logs() as lines:
        catalog.record_listing(ROOT_ID, [file(name), file("good")], now=1)

    assert list(children(catalog)) == ["good"]
    assert [line["event"] for line in lines] == ["names.refused"]


def test_link_is_a_row_with_its_target(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [link("a", "über/\udcff"), file("b", 3)], now=1)

    found = children(catalog)["a"]

    assert (found.is_dir, found.link_target, found.size, found.version) == (False, "über/\udcff", 7, "")
    assert catalog.totals() == (1, 3)


OTHERS = [
    (link("a", "x"), link("a", "y")),
    (link("a", "x"), file("a", 1)),
    (file("a", 1), link("a", "x")),
    (link("a", "x"), folder("a")),
    (folder("a"), link("a", "x")),
]


@pytest.mark.parametrize(("old", "new"), OTHERS, ids=str)
def test_link_that_leads_elsewhere_or_becomes_something_else_is_another_row(
    catalog: Catalog, old: Listed, new: Listed
) -> None:
    before = catalog.record(ROOT_ID, old)

    catalog.record_listing(ROOT_ID, [new], now=1)

    after = children(catalog)["a"]
    assert after.id != before.id
    assert (after.is_dir, after.link_target) == (new.is_dir, new.link_target)


def test_link_that_is_listed_again_keeps_its_row(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [link("a", "x")], now=1)
    before = children(catalog)["a"]

    assert catalog.record_listing(ROOT_ID, [link("a", "x")], now=2) == ()
    assert children(catalog)["a"] == before


def test_file_that_becomes_executable_keeps_its_row(catalog: Catalog) -> None:
    catalog.record(ROOT_ID, file("a", version="v1"))
    catalog.record_listing(ROOT_ID, [file("a")], now=1)
    before = children(catalog)["a"]

    changed = catalog.record_listing(ROOT_ID, [file("a", is_executable=True)], now=2)

    after = children(catalog)["a"]
    assert (after.id, before.is_executable, after.is_executable) == (before.id, False, True)
    assert changed == ("a",)


def test_listed_directory_knows_how_many_directories_are_in_it(catalog: Catalog) -> None:
    catalog.record(ROOT_ID, folder("one"))
    assert root(catalog).folders == 0  # not listed yet: what is known is not all
    catalog.record_listing(ROOT_ID, [folder("one"), folder("two"), file("three"), link("four", "one")], now=1)
    assert root(catalog).folders == 2

    catalog.record_listing(ROOT_ID, [folder("one"), file("three")], now=2)

    assert root(catalog).folders == 1


def test_directory_has_the_time_of_its_last_change_also_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    catalog = Catalog(path)
    catalog.record_listing(ROOT_ID, [folder("a")], now=1)
    id = children(catalog)["a"].id

    def mtime_ns() -> int:
        node = Catalog(path).get(id)
        assert node is not None
        assert node.mtime_ns is not None
        return node.mtime_ns

    first = mtime_ns()
    catalog.record_listing(id, [file("x"), file("y")], now=2)  # the first listing is no change
    catalog.record_listing(id, [file("y"), file("x")], now=3)
    assert mtime_ns() == first

    times = [first]
    for entries in ([file("x")], [file("x"), file("z")], [file("x", 11), file("z")]):
        catalog.record_listing(id, entries, now=4)
        times.append(mtime_ns())
    catalog.record(id, file("found"))
    times.append(mtime_ns())
    catalog.forget(children(catalog, id)["found"].id)
    times.append(mtime_ns())

    assert times == sorted(set(times))


def test_time_that_the_source_tells_of_a_directory_is_the_one_shown(catalog: Catalog) -> None:
    catalog.record_listing(ROOT_ID, [folder("a", 100)], now=1)
    id = children(catalog)["a"].id
    catalog.record_listing(id, [file("x")], now=1)
    catalog.record_listing(id, [], now=2)
    assert children(catalog)["a"].mtime_ns == 100

    changed = catalog.record_listing(ROOT_ID, [folder("a", 200)], now=3)

    assert (children(catalog)["a"].mtime_ns, changed) == (200, ("a",))


def test_changed_names_are_told_but_not_those_that_a_first_listing_brings(catalog: Catalog) -> None:
    catalog.record(ROOT_ID, file("known", version="v1"))
    catalog.record(ROOT_ID, file("gone", version="v1"))
    assert sorted(catalog.record_listing(ROOT_ID, [file("known", 11), file("new")], now=1)) == ["gone", "known"]

    changed = catalog.record_listing(ROOT_ID, [file("known", 12), file("newer"), file("same")], now=2)
    again = catalog.record_listing(ROOT_ID, [file("known", 12), file("newer"), file("same")], now=3)

    assert sorted(changed) == ["known", "new", "newer", "same"]
    assert again == ()


def test_changes_reach_other_processes_once_and_not_their_author(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    author, reader = Catalog(path), Catalog(path)
    since = reader.last_change()
    author.record_listing(ROOT_ID, [folder("a"), file("b")], now=1)
    author.record_listing(ROOT_ID, [folder("a"), file("c")], now=2)
    id = author.record(children(author)["a"].id, file("x")).parent

    heard = reader.changes(since)

    assert {parent: sorted(names) for parent, names in heard.names.items()} == {ROOT_ID: ["b", "c"], id: ["x"]}
    assert not heard.is_all
    assert reader.changes(heard.last).names == {}
    assert author.changes(since).names == {}


def test_reader_who_was_away_for_too_long_hears_that_anything_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockcache.catalog._KEPT_CHANGES", 10)
    path = tmp_path / "catalog.sqlite"
    author, reader = Catalog(path), Catalog(path)
    since = reader.last_change()
    author.record_listing(ROOT_ID, [], now=1)
    author.record_listing(ROOT_ID, [file(f"f{i}") for i in range(30)], now=2)

    author.prune_changes()

    heard = reader.changes(since)
    assert heard.is_all
    assert sum(map(len, heard.names.values())) == 10
    assert not reader.changes(heard.last).is_all


def test_names_of_another_source_at_the_same_place_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    catalog = Catalog(path)
    catalog.adopt({"/": "one"})
    catalog.record_listing(ROOT_ID, [file("a", version="v1"), folder("b")], now=1)
    catalog.record(children(catalog)["b"].id, file("c"))
    Catalog(path).adopt({"/": "one"})
    assert catalog.totals() == (2, 20)

    Catalog(path).adopt({"/": "two"})

    assert children(catalog) == {}
    assert catalog.totals() == (0, 0)
    assert root(catalog).listed_at is None
    assert len(catalog.take_orphans()) == 1


def test_source_that_is_replaced_takes_no_other_along(catalog: Catalog) -> None:
    catalog.adopt({"/a": "one", "/b": "two"})
    catalog.record_listing(ROOT_ID, [folder("a"), folder("b")], now=1)
    before = children(catalog)

    catalog.adopt({"/a": "one", "/b": "three", "/c": "four"})
    catalog.record_listing(ROOT_ID, [folder("a"), folder("b"), folder("c")], now=2)

    after = children(catalog)
    assert after["a"].id == before["a"].id
    assert after["b"].id != before["b"].id


def test_names_below_a_directory_that_is_gone_are_refused(catalog: Catalog) -> None:
    gone = catalog.record(ROOT_ID, folder("a")).id
    begun = catalog.begin_listing(gone)
    catalog.forget(gone)

    with pytest.raises(VersionChanged):
        begun.add([file("x")])
    with pytest.raises(VersionChanged):
        catalog.record(gone, file("x"))
    with pytest.raises(VersionChanged):
        catalog.find(gone, "x")


def test_large_folder_that_is_dropped_goes_in_bounded_transactions(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockcache.listing._ROWS_AT_ONCE", 7)
    top = catalog.record(ROOT_ID, folder("top")).id
    catalog.record_listing(top, [file(f"f{i}") for i in range(50)] + [folder(f"d{i}") for i in range(5)], now=1)
    for name, node in children(catalog, top).items():
        if name.startswith("d"):
            catalog.record_listing(node.id, [file(f"g{i}", version="v") for i in range(20)], now=1)
    assert catalog.totals()[0] == 150

    catalog.record_listing(ROOT_ID, [], now=2)

    assert catalog.totals() == (0, 0)
    assert len(catalog.take_orphans()) == 100
    assert children(catalog, top) == {}


def test_tiers_are_summed_up_as_rows_come_and_go(catalog: Catalog) -> None:
    ids = [catalog.record(ROOT_ID, file(name, version="v")).id for name in "abc"]
    catalog.note_use([Use(ids[0], 5, 1.0), Use(ids[1], 6, 1.0, 1), Use(ids[2], 7, 1.0, 1)])
    assert catalog.cached_by_tier() == {0: 5, 1: 13}

    catalog.note_use([Use(ids[1], 6, 2.0, 0)])
    catalog.forget(ids[2])

    assert catalog.cached_by_tier() == {0: 11}


def test_no_question_reads_more_rows_than_it_answers_with(catalog: Catalog) -> None:
    top = catalog.record(ROOT_ID, folder("top")).id
    id = catalog.record(top, file("a", version="v1")).id
    asked: list[str] = []
    connection = catalog._database.connection
    connection.set_trace_callback(asked.append)
    catalog.get(id)
    catalog.lookup(top, "a")
    catalog.find(top, "a")
    catalog.children(top)
    catalog.record_listing(top, [file("a"), file("b"), folder("c")], now=1)
    catalog.record(top, file("b", version="v2"))
    catalog.pin([(id, file("a", version="v1"))])
    catalog.turn(id, passthrough=True)
    catalog.note_use([Use(id, 5, 1.0)])
    catalog.least_used(0, 10)
    catalog.note_evicted(id)
    catalog.known([id])
    catalog.unlisted(0, 10)
    catalog.listed_before(5.0, 10)
    catalog.listed_folders(top)
    catalog.unvouched(top)
    catalog.repeats(top, ROOT_ID)
    catalog.leave_out(top)
    catalog.forgive()
    catalog.forget(top)
    catalog.cached_by_tier()
    catalog.totals()
    catalog.changes(0)
    catalog.prune_changes()
    connection.set_trace_callback(None)

    statements = {text for text in asked if text.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))}
    plans = {text: plan_of(catalog, text) for text in statements}

    assert len(statements) > 20
    assert not {text: plan for text, plan in plans.items() if plan - FEW_ROWS}


FEW_ROWS = {
    "SCAN CONSTANT ROW",
    "SCAN counter",
    "SCAN dropped",
    "SCAN json_each VIRTUAL TABLE INDEX 1:",
    "SCAN sqlite_sequence",
    "SCAN tier_total",
}
"""A row per tier or per table, or as many as were asked about."""


def plan_of(catalog: Catalog, statement: str) -> set[str]:
    """Steps of the plan that go through whole tables, or sort."""
    rows = catalog._database.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    return {str(row[3]) for row in rows if str(row[3]).startswith(("SCAN", "USE TEMP"))}
