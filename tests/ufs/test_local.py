"""Links, special files and permissions: what a local tree has and an HTTP server hides."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodel.errors import NotFound, PermissionRefused, UserError, VersionChanged
from ufs.base import Entry
from ufs.local import LocalFileSystem


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "dir").mkdir(parents=True)
    (folder / "file").write_bytes(b"inside")
    (folder / "dir" / "leaf").write_bytes(b"leaf")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "tree-2").mkdir()
    (tmp_path / "tree-2" / "secret").write_bytes(b"outside")
    return folder


def names(ufs: LocalFileSystem, path: str = "") -> dict[str, bool]:
    return {entry.name: entry.is_dir for entry in ufs.list(path)}


def read(ufs: LocalFileSystem, path: str) -> bytes:
    stat = ufs.stat(path)
    room = bytearray(stat.size)
    assert ufs.read_range(path, stat.version, 0, memoryview(room)) == stat.size
    return bytes(room)


@pytest.mark.parametrize("target", ["file", "dir/../file", "dir/leaf", "ABSOLUTE/file", "ABSOLUTE/dir/leaf", "again"])
def test_link_to_a_file_inside_shows_as_that_file(tree: Path, target: str) -> None:
    (tree / "again").symlink_to("file")
    (tree / "link").symlink_to(target.replace("ABSOLUTE", str(tree)))
    ufs = LocalFileSystem(str(tree))

    entry = next(entry for entry in ufs.list("") if entry.name == "link")

    assert entry.size == ufs.stat("link").size == len(read(ufs, "link"))
    assert read(ufs, "link") == (b"leaf" if target.endswith("leaf") else b"inside")


@pytest.mark.parametrize("target", ["dir", "ABSOLUTE/dir"])
def test_link_to_a_directory_inside_shows_as_that_directory(tree: Path, target: str) -> None:
    (tree / "link").symlink_to(target.replace("ABSOLUTE", str(tree)))
    ufs = LocalFileSystem(str(tree))

    assert names(ufs) == {"dir": True, "file": False, "link": True}
    assert names(ufs, "link") == {"leaf": False}
    assert read(ufs, "link/leaf") == b"leaf"


@pytest.mark.parametrize(
    "target",
    ["../secret", "ABSOLUTE/../secret", "/etc/passwd", "dir/../../secret", "../tree-2/secret", "/proc/self/root/etc"],
)
def test_link_that_leads_out_is_not_there(tree: Path, target: str) -> None:
    (tree / "link").symlink_to(target.replace("ABSOLUTE", str(tree)))
    ufs = LocalFileSystem(str(tree))

    assert names(ufs) == {"dir": True, "file": False}
    with pytest.raises(NotFound):
        ufs.stat("link")
    with pytest.raises(NotFound):
        ufs.read_range("link", "", 0, memoryview(bytearray(1)))


@pytest.mark.parametrize("target", ["..", "../tree-2", "/etc", "ABSOLUTE/.."])
def test_nothing_is_reached_through_a_directory_link_that_leads_out(tree: Path, target: str) -> None:
    (tree / "link").symlink_to(target.replace("ABSOLUTE", str(tree)))
    ufs = LocalFileSystem(str(tree))

    assert "link" not in names(ufs)
    for call in (lambda: list(ufs.list("link")), lambda: ufs.stat("link/secret"), lambda: ufs.stat("link/passwd")):
        with pytest.raises(NotFound):
            call()


def test_dangling_and_self_linked_names_are_not_there(tree: Path) -> None:
    (tree / "dangling").symlink_to("nothing")
    (tree / "self").symlink_to("self")
    ufs = LocalFileSystem(str(tree))

    assert names(ufs) == {"dir": True, "file": False}
    for name in ("dangling", "self"):
        with pytest.raises(NotFound):
            ufs.stat(name)


def test_links_never_make_the_tree_endless(tree: Path) -> None:
    (tree / "other").mkdir()
    (tree / "dir" / "up").symlink_to("..")
    (tree / "dir" / "here").symlink_to(".")
    (tree / "dir" / "across").symlink_to("../other")
    (tree / "other" / "back").symlink_to(tree / "dir")
    ufs = LocalFileSystem(str(tree))

    assert names(ufs, "dir") == {"leaf": False, "across": True}
    assert names(ufs, "dir/across") == {}
    assert names(ufs, "other") == {"back": True}
    assert names(ufs, "other/back") == {"leaf": False}


def test_special_files_are_not_there(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
    ufs = LocalFileSystem(str(tree))

    assert names(ufs) == {"dir": True, "file": False}
    for name in ("pipe", "socket"):
        with pytest.raises(NotFound):
            ufs.stat(name)
        with pytest.raises(NotFound):
            ufs.read_range(name, "", 0, memoryview(bytearray(1)))


def test_file_of_same_size_and_time_but_another_inode_is_another_version(tree: Path) -> None:
    ufs = LocalFileSystem(str(tree))
    before = ufs.stat("file")
    (tree / "new").write_bytes(b"INSIDE")
    os.utime(tree / "new", ns=(before.mtime_ns, before.mtime_ns))
    (tree / "new").rename(tree / "file")

    with pytest.raises(VersionChanged):
        ufs.read_range("file", before.version, 0, memoryview(bytearray(6)))


def test_source_that_is_a_file_shows_it_alone(tree: Path) -> None:
    ufs = LocalFileSystem(str(tree / "file"))
    stat = ufs.stat("file")

    assert ufs.stat("").is_dir
    assert list(ufs.list("")) == [Entry(name="file", is_dir=False, size=6, mtime_ns=stat.mtime_ns)]
    assert read(ufs, "file") == b"inside"
    for path in ("dir", "dir/leaf", "file/x"):
        with pytest.raises(NotFound):
            ufs.stat(path)
    for path in ("", "dir/leaf"):
        with pytest.raises(NotFound):
            ufs.read_range(path, stat.version, 0, memoryview(bytearray(1)))
    with pytest.raises(NotFound):
        list(ufs.list("file"))


def test_source_may_itself_be_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    (tmp_path / "file-link").symlink_to(tree / "file")

    assert names(LocalFileSystem(str(tmp_path / "link"))) == {"dir": True, "file": False}
    assert names(LocalFileSystem(str(tmp_path / "file-link"))) == {"file-link": False}
    assert read(LocalFileSystem(str(tmp_path / "file-link")), "file-link") == b"inside"


def test_source_may_come_later(tmp_path: Path) -> None:
    ufs = LocalFileSystem(str(tmp_path / "later"))
    with pytest.raises(NotFound):
        ufs.stat("")

    (tmp_path / "later").mkdir()

    assert ufs.stat("").is_dir


def test_listing_that_is_dropped_half_way_keeps_nothing_open(tree: Path) -> None:
    ufs = LocalFileSystem(str(tree))
    before = os.listdir("/proc/self/fd")

    entries = ufs.list("")
    next(entries)
    del entries

    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_relative_path_is_refused() -> None:
    with pytest.raises(UserError, match="absolute"):
        LocalFileSystem("data")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "file").write_bytes(b"x")
        (folder / "file").chmod(0o600)
        (folder / "dir").mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


@pytest.mark.root
def test_what_the_process_may_not_read_is_refused(as_nobody: Path) -> None:
    ufs = LocalFileSystem(str(as_nobody))

    assert names(ufs) == {"dir": True, "file": False}
    with pytest.raises(PermissionRefused, match="uid 65534"):
        ufs.read_range("file", ufs.stat("file").version, 0, memoryview(bytearray(1)))
    with pytest.raises(PermissionRefused):
        list(ufs.list("dir"))
    with pytest.raises(PermissionRefused):
        ufs.stat("dir/below")
