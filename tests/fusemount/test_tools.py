"""Programs of everyday use on a mount: each reads it in its own way, and all have to find what the source has."""

import mmap
import os
import socket
import stat
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fusemount.mounts import Mounted, content, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

MIB = 1 << 20
LARGE = 9 * MIB + 4321


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    root.chmod(0o755)
    (root / "large").write_bytes(content(LARGE, 1))
    (root / "empty").touch()
    (root / "folder" / "inner" / "empty").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"content\n")
    (root / "folder" / "run").write_text("#!/bin/sh\necho it runs\n")
    (root / "folder" / "run").chmod(0o755)
    (root / "link").symlink_to("folder/file")
    (root / "folder" / "up").symlink_to("../large")
    (root / ("n" * 255)).write_bytes(b"long")
    (root / "häßlich & 100% 'n'").write_bytes(b"odd")
    with zipfile.ZipFile(root / "archive.zip", "w") as archive:
        archive.writestr("a", b"a" * 100_000)
        archive.writestr("b/c", content(300_000, 2))
    repository = root / "repository"
    git(root, "init", "--quiet", "repository")
    for number in range(20):
        (repository / f"f{number}").write_bytes(content(5000, number))
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=first")
    return root


@pytest.fixture(scope="module", params=["large-files", "small-files"])
def mount(
    request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory, private_mounts: None
) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("mount"), "--profile", request.param, str(tree)) as made:
        until(lambda: made.status()["features"]["profile"] == request.param)
        yield made


def git(folder: Path, *words: str) -> str:
    return run("git", "-c", "safe.directory=*", "-C", str(folder), *words)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_find_sees_every_name_kind_and_size(mount: Mounted, tree: Path) -> None:
    # %s of a folder is the file system's own affair.
    words = ("(", "-type", "d", "-printf", r"%P/\n", ")", "-o", "-printf", r"%P %y %s %l\n")

    assert sorted(run("find", str(mount.path), *words).splitlines()) == sorted(
        run("find", str(tree), *words).splitlines()
    )


def test_folders_are_counted_by_their_links_once_they_are_listed(mount: Mounted) -> None:
    wanted = {".": 4, "folder": 3, "folder/inner": 3, "folder/inner/empty": 2, "large": 1}
    list(os.walk(mount.path))

    until(lambda: {path: (mount.path / path).stat().st_nlink for path in wanted} == wanted)


def test_rsync_finds_no_difference(mount: Mounted, tree: Path) -> None:
    words = ("--recursive", "--links", "--times", "--executability", "--checksum", "--dry-run", "--itemize-changes")

    assert run("rsync", *words, "--omit-dir-times", f"{mount.path}/", f"{tree}/") == ""
    assert run("rsync", *words, "--omit-dir-times", f"{tree}/", f"{mount.path}/") == ""


def test_cp_copies_everything(mount: Mounted, tree: Path, tmp_path: Path) -> None:
    run("cp", "--recursive", "--preserve=timestamps,links", f"{mount.path}/.", str(tmp_path))

    assert run("diff", "--recursive", "--no-dereference", str(tree), str(tmp_path)) == ""


def test_tar_packs_everything(mount: Mounted, tree: Path, tmp_path: Path) -> None:
    run("tar", "--create", "--xattrs", "--file", str(tmp_path / "all.tar"), "--directory", str(mount.path), ".")

    (tmp_path / "out").mkdir()
    run("tar", "--extract", "--file", str(tmp_path / "all.tar"), "--directory", str(tmp_path / "out"))
    assert run("diff", "--recursive", "--no-dereference", str(tree), str(tmp_path / "out")) == ""


def test_git_works_in_a_repository_and_clones_it(mount: Mounted, tmp_path: Path) -> None:
    assert git(mount.path / "repository", "log", "--format=%s") == "first\n"
    assert git(mount.path / "repository", "fsck", "--full") == ""

    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(mount.path / "repository"), "clone")

    assert (tmp_path / "clone" / "f7").read_bytes() == content(5000, 7)


def test_zip_archive_is_read_from_its_end(mount: Mounted) -> None:
    with zipfile.ZipFile(mount.path / "archive.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("b/c") == content(300_000, 2)


def test_script_runs(mount: Mounted) -> None:
    assert run(str(mount.path / "folder" / "run")) == "it runs\n"


def test_memory_map_reads_from_anywhere(mount: Mounted) -> None:
    data = content(LARGE, 1)
    with (mount.path / "large").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found: list[bool] = []

        def read(quarter: int) -> None:
            start, end = LARGE * quarter // 4, LARGE * (quarter + 1) // 4
            found.append(mapped[start:end] == data[start:end])

        readers = [threading.Thread(target=read, args=(quarter,)) for quarter in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()

    assert found == [True] * 4


def test_direct_reads_are_right(mount: Mounted, tmp_path: Path) -> None:
    run("dd", f"if={mount.path}/large", f"of={tmp_path}/copy", "bs=64K", "iflag=direct", "status=none")

    assert (tmp_path / "copy").read_bytes() == content(LARGE, 1)


def test_sendfile_and_splice_are_right(mount: Mounted) -> None:
    data = content(LARGE, 1)[:200_000]
    with (mount.path / "large").open("rb", buffering=0) as file:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
            assert os.sendfile(theirs.fileno(), file.fileno(), 0, len(data)) == len(data)
            received = b""
            while len(received) < len(data):
                received += ours.recv(MIB)
        reader, writer = os.pipe()
        spliced = os.splice(file.fileno(), writer, 50_000, offset_src=1000)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read() == data[1000 : 1000 + spliced]

    assert received == data


def test_extended_attributes_tell_where_a_file_is_from_and_how_much_is_cached(mount: Mounted, tree: Path) -> None:
    path = mount.path / "folder" / "file"
    assert path.read_bytes() == b"content\n"

    until(lambda: os.getxattr(path, "user.headrace.cached_percent") == b"100")
    shown = run("getfattr", "--dump", "--match=headrace", "--absolute-names", str(path))

    assert f'user.headrace.url="local://{tree}/folder/file"' in shown
    assert 'user.headrace.source="source"' in shown
    assert "user.headrace.version=" in shown
    assert os.listxattr(mount.path / "folder") == ["user.headrace.url", "user.headrace.source"]
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(path, "user.other")
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(path, "security.capability")


def test_every_way_to_write_is_refused(mount: Mounted) -> None:
    file, folder = mount.path / "folder" / "file", mount.path / "folder"
    for attempt in (
        lambda: os.open(file, os.O_WRONLY),
        lambda: os.open(file, os.O_RDWR),
        lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        lambda: os.open(folder / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(folder / "new"),
        lambda: os.mknod(folder / "new"),
        lambda: os.mkfifo(folder / "new"),
        lambda: os.symlink("x", folder / "new"),
        lambda: os.link(file, folder / "new"),
        lambda: os.rename(file, folder / "new"),
        lambda: os.unlink(file),
        lambda: os.rmdir(folder / "inner"),
        lambda: os.truncate(file, 0),
        lambda: os.chmod(file, 0o777),
        lambda: os.chown(file, 1, 1),
        lambda: os.utime(file),
        lambda: os.setxattr(file, "user.headrace.url", b"x"),
        lambda: os.setxattr(file, "user.new", b"x"),
        lambda: os.removexattr(file, "user.headrace.url"),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()


def test_statistics_of_the_file_system_are_sane(mount: Mounted, tree: Path) -> None:
    files = sum(not path.is_dir() or path.is_symlink() for path in tree.rglob("*"))
    list(os.walk(mount.path))

    shown = os.statvfs(mount.path)

    assert (shown.f_bsize, shown.f_frsize, shown.f_namemax, shown.f_bavail) == (4096, 4096, 255, 0)
    assert shown.f_blocks * 4096 >= LARGE
    assert files - 2 <= shown.f_files <= files  # whether links count is the catalog's affair
    assert shown.f_flag & os.ST_RDONLY
    assert "headrace" in run("df", "--output=source", str(mount.path))


def test_negative_answers_are_remembered_only_until_the_name_appears(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "first").touch()
    with mounted(tmp_path, "--ttl", "1", str(source)) as made:
        assert os.listdir(made.path) == ["first"]
        assert not (made.path / "second").exists()

        (source / "second").write_bytes(b"here")

        until((made.path / "second").exists)
        until(lambda: sorted(os.listdir(made.path)) == ["first", "second"])


def test_attributes_of_a_folder_stay_over_a_new_mount(tree: Path, tmp_path: Path) -> None:
    shown = []
    for _ in range(2):
        with mounted(tmp_path, str(tree)) as made:
            list(os.walk(made.path))
            found = [(made.path / path).stat() for path in ("", "folder", "folder/inner/empty")]
            shown.append([(one.st_ino, one.st_mode, one.st_nlink, one.st_mtime_ns, one.st_ctime_ns) for one in found])

    assert shown[0] == shown[1]


def test_modes_and_owner_are_as_asked(tree: Path, tmp_path: Path) -> None:
    words = ("--file-mode", "440", "--folder-mode", "550", "--owner", "123:456")
    with mounted(tmp_path, *words, str(tree)) as made:
        file, script, folder = (
            (made.path / path).lstat() for path in ("folder/file", "folder/run", "folder")
        )  # fmt: skip

    assert [stat.S_IMODE(found.st_mode) for found in (file, script, folder)] == [0o440, 0o550, 0o550]
    assert (file.st_uid, file.st_gid) == (123, 456)
