"""The catalog against a model of it, and with so many names that cost shows."""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockcache.catalog import ROOT_ID, Catalog, Listed, Node
from tests.blockcache.listings import children, file, folder, link, root

MANY = 100_000


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "catalog.sqlite")


NAMES = ("a", "b", "c", "ü")
ENTRIES = st.builds(
    Listed,
    name=st.sampled_from(NAMES),
    is_dir=st.just(False),
    size=st.one_of(st.none(), st.integers(0, 3)),
    mtime_ns=st.one_of(st.none(), st.integers(1, 2)),
    version=st.sampled_from(("", "v1", "v2")),
    is_executable=st.booleans(),
).map(lambda entry: entry if entry.size is not None or not entry.version else file(entry.name, 1, 1, entry.version))
FOLDERS = st.builds(folder, st.sampled_from(NAMES))
LINKS = st.builds(link, st.sampled_from(NAMES), st.sampled_from(("x", "yy")))
ANY = st.one_of(ENTRIES, FOLDERS, LINKS)
LISTINGS = st.lists(ANY, max_size=4, unique_by=lambda entry: entry.name)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("list"), LISTINGS),
        st.tuples(st.just("part"), LISTINGS),
        st.tuples(st.just("record"), ANY),
        st.tuples(st.just("forget"), st.sampled_from(NAMES)),
        st.tuples(st.just("fill"), st.sampled_from(NAMES)),
    ),
    max_size=12,
)


@dataclass
class Model:
    """What a directory should hold: by name the entry as it was last told with everything that was ever known."""

    kinds: dict[str, tuple[bool, str | None]] = field(default_factory=dict)

    def take(self, entries: list[Listed], *, is_all: bool) -> None:
        if is_all:
            self.kinds = {}
        self.kinds |= {entry.name: (entry.is_dir, entry.link_target) for entry in entries}


def check_against(catalog: Catalog, model: Model) -> None:
    rows = children(catalog)
    assert {name: (node.is_dir, node.link_target) for name, node in rows.items()} == model.kinds
    everything = list(all_below(catalog, ROOT_ID))
    files = [node for node in everything if not node.is_dir and node.link_target is None]
    assert catalog.totals() == (len(files), sum(node.size or 0 for node in files))
    listed_at = root(catalog).listed_at
    assert root(catalog).folders == (0 if listed_at is None else sum(node.is_dir for node in rows.values()))
    assert not [node for node in everything if catalog.lookup(node.parent, node.name) != node]


def all_below(catalog: Catalog, id: int) -> Iterator[Node]:
    for node in catalog.children(id, limit=-1):
        yield node
        if node.is_dir:
            yield from all_below(catalog, node.id)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_of_answers_leaves_what_the_last_ones_said(
    tmp_path: Path, steps: list[tuple[str, object]]
) -> None:
    path = tmp_path / "catalog.sqlite"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    catalog, model, seen = Catalog(path), Model(), dict[int, tuple[str, str]]()
    for action, what in steps:
        if action in ("list", "part"):
            assert isinstance(what, list)
            begun = catalog.begin_listing(ROOT_ID)
            begun.add(what)
            if action == "list":
                list(begun.finish(1))
            model.take(what, is_all=action == "list")
        elif action == "record":
            assert isinstance(what, Listed)
            catalog.record(ROOT_ID, what)
            model.take([what], is_all=False)
        elif (found := catalog.lookup(ROOT_ID, str(what))) is not None:
            if action == "forget":
                catalog.forget(found.id)
                del model.kinds[found.name]
            elif found.is_dir:
                catalog.record_listing(found.id, [file("below", 3), folder("deep")], now=1)
        check_against(catalog, model)
        for node in catalog.children(ROOT_ID):
            if node.version:  # one id stands for one version for ever
                assert seen.setdefault(node.id, (node.name, node.version)) == (node.name, node.version)


def test_directory_of_a_hundred_thousand_is_listed_again_without_a_row_being_written(catalog: Catalog) -> None:
    entries = [file(f"image-{i:08}.jpeg") for i in range(MANY)]
    catalog.record_listing(ROOT_ID, entries, now=1)
    connection = catalog._database.connection
    before = connection.total_changes

    catalog.record_listing(ROOT_ID, entries, now=2)

    assert connection.total_changes - before == 1  # when it was listed
    assert catalog.totals() == (MANY, 10 * MANY)


def test_other_writers_get_their_turn_while_a_long_listing_is_recorded(catalog: Catalog) -> None:
    id = catalog.record(ROOT_ID, file("other")).id
    begun = catalog.begin_listing(ROOT_ID)
    entries = (file(f"f{i}") for i in range(20_000))
    lister = threading.Thread(target=begun.add, args=(entries,))
    turns = 0

    lister.start()
    while lister.is_alive():
        catalog.turn(id, passthrough=turns % 2 == 0)
        turns += 1
    lister.join()

    assert turns > 2


@pytest.mark.skipif(os.environ.get("HEADRACE_FULL") != "1", reason="a million names take a minute: HEADRACE_FULL=1")
@pytest.mark.timeout(600)
def test_million_files_are_listed_in_little_memory(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "bench" / "names.py"
    run = subprocess.run(
        [sys.executable, str(script), "--files", "1000000", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )

    figures = {line[:44].strip(): line[44:].strip() for line in run.stdout.splitlines()}
    assert float(figures["memory at the end, MiB"]) < 150
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 150 * 1024
