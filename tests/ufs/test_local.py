"""Links, special files and permissions: what a local tree has and an HTTP server hides."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing

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


def link_of(ufs: LocalFileSystem, path: str) -> str | None:
    """The target that the listing and the question for the one name agree on."""
    folder, _, name = path.rpartition("/")
    entry = next(entry for entry in ufs.list(folder) if entry.name == name)
    stat = ufs.stat(path)
    assert (entry.is_dir, entry.size, entry.mtime_ns, entry.link_target) == (
        False,
        stat.size,
        stat.mtime_ns,
        stat.link_target,
    )
    assert stat.size == len(os.fsencode(stat.link_target or ""))
    assert stat.version == ""
    return stat.link_target


@pytest.mark.parametrize(
    "target", ["leaf", "../file", "../dir/leaf", "..", ".", "../dir", "nothing", "../no/thing", "link", "./x/../leaf"]
)
def test_link_that_stays_inside_is_shown_with_its_text(tree: Path, target: str) -> None:
    (tree / "dir" / "link").symlink_to(target)

    assert link_of(LocalFileSystem(str(tree)), "dir/link") == target


@pytest.mark.parametrize(
    ("target", "shown"),
    [("ABSOLUTE/file", "../file"), ("ABSOLUTE/dir/leaf", "../dir/leaf"), ("ABSOLUTE", ".."), ("ABSOLUTE/no", "../no")],
)
def test_absolute_link_to_somewhere_inside_is_shown_as_a_relative_one(tree: Path, target: str, shown: str) -> None:
    (tree / "dir" / "link").symlink_to(target.replace("ABSOLUTE", str(tree)))

    assert link_of(LocalFileSystem(str(tree)), "dir/link") == shown


def test_absolute_link_at_the_top_to_the_top_is_a_dot(tree: Path) -> None:
    (tree / "link").symlink_to(tree)

    assert link_of(LocalFileSystem(str(tree)), "link") == "."


def test_absolute_link_by_the_real_path_is_known_though_the_source_was_named_by_another(
    tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(tree)
    (tree / "link").symlink_to(tree / "file")

    assert link_of(LocalFileSystem(str(tmp_path / "alias")), "link") == "file"


def test_link_is_judged_through_the_links_on_its_way(tree: Path) -> None:
    (tree / "dir" / "deep").mkdir()
    (tree / "short").symlink_to("dir/deep")
    (tree / "inside").symlink_to("short/../leaf")  # by its words alone it would be ./leaf
    (tree / "deeper").symlink_to("short/../../file")
    (tree / "outside").symlink_to("short/../../../secret")
    (tree / "absolute").symlink_to(tree / "short")
    (tree / "through").symlink_to("absolute/../leaf")
    ufs = LocalFileSystem(str(tree))

    shown = {name: link_of(ufs, name) for name in names(ufs) if name not in ("dir", "file")}

    assert shown == {
        "short": "dir/deep",
        "inside": "short/../leaf",
        "deeper": "short/../../file",
        "absolute": "short",
        "through": "absolute/../leaf",
    }


def test_link_that_leaves_and_comes_back_is_refused_since_it_would_leave_the_mount(tree: Path) -> None:
    (tree / "link").symlink_to("../tree/file")

    assert names(LocalFileSystem(str(tree))) == {"dir": True, "file": False}


def test_circles_of_links_are_shown(tree: Path) -> None:
    (tree / "one").symlink_to("two")
    (tree / "two").symlink_to("one")
    ufs = LocalFileSystem(str(tree))

    assert (link_of(ufs, "one"), link_of(ufs, "two")) == ("two", "one")


def test_link_has_no_bytes_and_no_names_of_its_own(tree: Path) -> None:
    (tree / "link").symlink_to("file")
    (tree / "folder").symlink_to("dir")
    ufs = LocalFileSystem(str(tree))

    for call in (
        lambda: ufs.read_range("link", "", 0, memoryview(bytearray(1))),
        lambda: ufs.read_whole("link", 100),
        lambda: list(ufs.list("folder")),
    ):
        with pytest.raises(NotFound):
            call()


def test_refused_link_is_warned_of_once(tree: Path) -> None:
    (tree / "link").symlink_to("/etc/passwd")
    ufs = LocalFileSystem(str(tree))
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            names(ufs)

    assert [(line["event"], line["target"]) for line in lines] == [("link.refused", "/etc/passwd")]


def test_executable_files_and_the_times_of_folders_are_told(tree: Path) -> None:
    (tree / "dir" / "leaf").chmod(0o755)
    os.utime(tree / "dir", ns=(5, 1_600_000_000_123_456_789))
    ufs = LocalFileSystem(str(tree))

    entries = {entry.name: entry for entry in [*ufs.list(""), *ufs.list("dir")]}

    assert {name: entry.is_executable for name, entry in entries.items()} == {"dir": False, "file": False, "leaf": True}
    assert (ufs.stat("dir/leaf").is_executable, ufs.stat("file").is_executable) == (True, False)
    assert entries["dir"].mtime_ns == ufs.stat("dir").mtime_ns == 1_600_000_000_123_456_789


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
