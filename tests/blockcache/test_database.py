"""The catalog's file: damaged, shared, of another schema, somebody else's, or on a full disk."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcache.catalog import ROOT_ID, Catalog
from datamodel.errors import Unavailable
from tests.blockcache.listings import file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Catalog:
    return Catalog(path)


@pytest.mark.parametrize("garbage", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_damaged_file_is_started_afresh(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)

    assert Catalog(path).record(ROOT_ID, file("a")).name == "a"


def test_file_of_another_schema_is_started_afresh(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE node (id INTEGER)")
        db.execute("PRAGMA user_version = 1")
    db.close()

    assert Catalog(path).record(ROOT_ID, file("a")).name == "a"


def test_ids_of_a_catalog_started_afresh_do_not_meet_those_of_the_lost_one(path: Path) -> None:
    # A process that still has the lost file open shares the cache folder with us.
    lost = Catalog(path).record(ROOT_ID, file("a")).id
    path.write_bytes(b"garbage" * 1000)
    path.with_name("catalog.sqlite-wal").unlink()

    assert abs(Catalog(path).record(ROOT_ID, file("a")).id - lost) > 1000


def test_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="must be writable"):
        Catalog(tmp_path / "file" / "catalog.sqlite")


def test_threads_write_at_once(catalog: Catalog) -> None:
    def write(part: int) -> None:
        for i in range(20):
            catalog.record(ROOT_ID, file(f"{part}-{i}"))

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert catalog.totals()[0] == 80


def test_processes_that_start_at_once_on_a_new_file_share_one_catalog(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from blockcache.catalog import *\n"
        "sys.stdin.read(1)\n"
        f"catalog = Catalog(Path({str(path)!r}))\n"
        "for i in range(20): catalog.record(ROOT_ID, Listed(f'{sys.argv[1]}-{i}', False, 1, 1))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for i in range(3)
    ]

    errors = [process.communicate(b"x", timeout=30)[1] for process in processes]

    assert errors == [b""] * 3
    assert Catalog(path).totals()[0] == 60


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand files over")
def test_catalog_that_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    os.chown(folder, 65534, 65534)

    catalog = Catalog(folder / "catalog.sqlite")

    assert {path.stat().st_uid for path in folder.iterdir()} == {65534}
    assert catalog.totals() == (0, 0)


@pytest.fixture
def small_disk(tmp_path: Path, private_mounts: None) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32M", "small", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0


@pytest.mark.root
def test_names_and_versions_find_room_though_the_disk_is_full(small_disk: Path) -> None:
    catalog = Catalog(small_disk / "catalog.sqlite")
    catalog.record_listing(ROOT_ID, [file(f"f{i:05}") for i in range(5000)], now=1)
    catalog.reserve()
    fill_up(small_disk / "of-somebody-else")

    files = catalog.children(ROOT_ID, limit=-1)
    for start in range(0, 5000, 10):
        versions = [file(node.name, version=f"1700000000-{node.id}-v1") for node in files[start : start + 10]]
        catalog.pin([(node.id, found) for node, found in zip(files[start : start + 10], versions, strict=True)])
    catalog.record_listing(ROOT_ID, [file(f"more{i:05}") for i in range(5000)], now=2)

    assert catalog.totals()[0] == 5000
    assert catalog.lookup(ROOT_ID, "more04999") is not None


def test_clock_is_one_for_all_processes_and_does_not_follow_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite"
    first = Catalog(path)
    real = first.clock()
    monkeypatch.setattr("blockcache.database.time.time", lambda: 5.0)  # as after a jump back by half a century

    second = Catalog(path)

    assert 0 <= second.clock() - real < 60
    assert 0 <= first.clock() - real < 60
