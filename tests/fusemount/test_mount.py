"""Real mounts by the real command, over a folder and over a web server."""

import errno
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount.localcache import OWNER_NAME
from tests.contract.check_under_file_system import TREE, plant
from tests.fusemount.mounts import Mounted, content, digest, headrace, layers, mounted, until, walk
from tests.ufs.servers import nginx

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

MIB = 1 << 20
DEEP = "/".join(f"level-{i}" for i in range(40))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    root.chmod(0o755)
    plant(root, TREE)
    (root / "blocks-1").write_bytes(content(MIB, 1))
    (root / "blocks-3").write_bytes(content(3 * MIB, 2))
    (root / "large").write_bytes(content(40 * MIB + 13, 3))
    (root / DEEP).mkdir(parents=True)
    (root / DEEP / "leaf").write_bytes(b"deep")
    (root / ("l" * 255)).write_bytes(b"long")
    (root / "many").mkdir()
    for i in range(3000):
        (root / "many" / f"{i:04}").write_bytes(b"%d" % i)
    return root


@pytest.fixture(scope="module")
def local(tree: Path, tmp_path_factory: pytest.TempPathFactory, private_mounts: None) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("local"), str(tree)) as mount:
        yield mount


@pytest.fixture(scope="module")
def remote(tree: Path, tmp_path_factory: pytest.TempPathFactory, private_mounts: None) -> Iterator[Mounted]:
    with (
        nginx(tree, tmp_path_factory.mktemp("nginx"), "autoindex on; autoindex_format json;") as url,
        mounted(tmp_path_factory.mktemp("remote"), url) as mount,
    ):
        yield mount


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_everything_is_there_byte_by_byte(request: pytest.FixtureRequest, tree: Path, kind: str) -> None:
    mount: Mounted = request.getfixturevalue(kind)
    wanted = walk(tree, without="many")

    found = walk(mount.path, without="many")

    assert found.keys() == wanted.keys()
    assert found == wanted


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_many_small_files_are_listed_and_read(request: pytest.FixtureRequest, kind: str) -> None:
    mount: Mounted = request.getfixturevalue(kind)

    names = sorted(os.listdir(mount.path / "many"))

    assert names == [f"{i:04}" for i in range(3000)]
    for i in range(0, 3000, 3):
        assert (mount.path / "many" / f"{i:04}").read_bytes() == b"%d" % i


def test_name_that_is_not_there_is_an_error_of_the_right_kind(local: Mounted) -> None:
    with pytest.raises(FileNotFoundError):
        (local.path / ("x" * 256)).stat()
    with pytest.raises(FileNotFoundError):
        (local.path / "none").stat()
    with pytest.raises(NotADirectoryError):
        (local.path / "three.txt" / "below").stat()


def test_attributes_are_those_of_a_read_only_dataset(local: Mounted, tree: Path) -> None:
    shown, real = (local.path / "large").stat(), (tree / "large").stat()

    assert (shown.st_size, shown.st_mtime_ns, shown.st_mode & 0o777) == (real.st_size, real.st_mtime_ns, 0o444)
    assert (local.path / "dir").stat().st_mode & 0o777 == 0o555


def test_writes_are_refused_also_for_root(local: Mounted) -> None:
    for attempt in (
        lambda: (local.path / "new").write_bytes(b"x"),
        lambda: (local.path / "large").write_bytes(b"x"),
        lambda: (local.path / "large").unlink(),
        lambda: (local.path / "large").chmod(0o777),
        lambda: (local.path / "large").rename(local.path / "other"),
        lambda: (local.path / "folder").mkdir(),
        lambda: (local.path / "dir").rmdir(),
        lambda: (local.path / "link").symlink_to("x"),
        lambda: os.truncate(local.path / "large", 0),
        lambda: os.utime(local.path / "large"),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()


def test_inode_number_is_the_same_before_and_after_the_kernel_reads_by_itself(local: Mounted) -> None:
    path = local.path / "blocks-1"
    before = path.stat().st_ino

    def is_read_without_a_daemon() -> bool:
        path.read_bytes()
        served = local.status()["reads"]["bytes"]
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == content(MIB, 1)
        return bool(local.status()["features"]["passthrough"] and local.status()["reads"]["bytes"] == served)

    until(is_read_without_a_daemon)

    assert path.stat().st_ino == before


def test_random_reads_are_right(remote: Mounted) -> None:
    data = content(40 * MIB + 13, 3)
    with (remote.path / "large").open("rb", buffering=0) as file:
        for offset in (0, MIB - 1, 5 * MIB + 7, 40 * MIB, 40 * MIB + 12, 17 * MIB, 40 * MIB + 13):
            assert os.pread(file.fileno(), 70_000, offset) == data[offset : offset + 70_000]


def test_status_tells_what_is_served(local: Mounted, tree: Path) -> None:
    (local.path / "blocks-3").read_bytes()
    until(lambda: local.status()["cache"]["cachedBytes"] > 0)

    status = local.status()

    assert status["mountpoint"] == str(local.path)
    assert status["cacheDir"] == str(local.cache)
    assert status["sources"] == [{"name": "source", "url": f"local://{tree}", "healthy": True, "problem": ""}]
    roles = [process["role"] for process in status["processes"]]
    assert [role for role in roles if role != "standby"] == ["broker", "daemon", "daemon"]
    assert status["features"]["survivesKill"] is True
    assert status["cache"]["quotaBytes"] == 20 << 30
    assert status["files"] > 0
    assert {"hits", "misses", "bytes", "hitRatio", "bytesPerSecond", "pushedBytes"} == status["reads"].keys()


def test_status_text_is_for_people(local: Mounted) -> None:
    text = headrace("status", str(local.path)).stdout

    assert "survives kill -9 yes" in text
    assert "healthy" in text


def test_second_mount_on_one_mountpoint_is_refused(local: Mounted, tree: Path) -> None:
    result = headrace("mount", "--background", str(tree), str(local.path))

    assert result.returncode == 1
    assert "already" in result.stderr
    assert layers(local.path) == 1


def test_killed_daemons_cost_no_reader_a_byte(tree: Path, tmp_path: Path) -> None:
    wanted = hashlib.blake2b((tree / "large").read_bytes()).hexdigest()
    with nginx(tree, tmp_path, "autoindex on; limit_rate 20m;") as url, mounted(tmp_path, url) as mount:
        found: list[str] = []

        def read() -> None:
            found.append(digest(mount.path / "large"))

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        killed: set[int] = set()
        for _ in range(3):
            (victim, *_) = [pid for pid in mount.pids("daemon") if pid not in killed]
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            until(lambda: len(set(mount.pids("daemon")) - killed) == 2)
        for reader in readers:
            reader.join()

        assert found == [wanted] * 4
        assert digest(mount.path / "large") == wanted


def test_second_read_needs_no_source(tree: Path, tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    cold.mkdir()
    with nginx(tree, tmp_path, "autoindex on;") as url:
        with mounted(cold, "--ttl", "0", url) as mount:
            wanted = digest(mount.path / "large")
            os.listdir(mount.path / "dir")
        address = url
    with mounted(cold, "--ttl", "0", address) as mount:
        assert digest(mount.path / "large") == wanted == digest(tree / "large")
        assert sorted(os.listdir(mount.path / "dir")) == ["nested", "sp ace"]
        with pytest.raises(OSError, match=r"Input/output|timed out"):
            (mount.path / "never-seen").stat()
        until(lambda: not mount.status()["sources"][0]["healthy"])


def test_changed_file_is_never_mixed_with_what_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    old, new = content(12 * MIB, 4), content(12 * MIB, 5)
    (tree / "f").write_bytes(old)
    with mounted(tmp_path, "--ttl", "0", str(tree)) as mount:
        with (mount.path / "f").open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 100, 0) == old[:100]
            (tree / "new").write_bytes(new)
            (tree / "new").rename(tree / "f")
            for offset in range(0, 12 * MIB, MIB // 2):
                assert _read_or_stale(file.fileno(), offset) in (old[offset : offset + 1000], None)

        def shows_new() -> bool:
            return (mount.path / "f").read_bytes() == new

        until(shows_new)


def test_killed_mount_is_cleaned_up_by_umount(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, str(tree)) as mount:
        (broker,), daemons = mount.pids("broker"), mount.pids("daemon")
        os.kill(broker, signal.SIGKILL)

        gone = headrace("status", str(mount.path))
        listed = headrace("status")
        ended = headrace("umount", str(mount.path))

    assert gone.returncode == 1
    assert "headrace umount" in gone.stderr
    assert f"{mount.path}  DEAD" in listed.stdout
    assert ended.returncode == 0
    assert layers(mount.path) == 0
    assert list(mount.path.iterdir()) == []
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in daemons))  # they served it to its end
    assert "Traceback" not in mount.log.read_text()


def test_umount_ends_every_process_and_keeps_the_cache(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, str(tree)) as mount:
        (mount.path / "three.txt").read_bytes()
        pids = [*mount.pids("broker"), *mount.pids("daemon")]

        assert headrace("umount", str(mount.path)).returncode == 0

        assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)
    assert layers(mount.path) == 0
    assert (mount.cache / "catalog.sqlite").exists()
    assert headrace("umount", str(mount.path)).returncode == 1


def test_umount_of_a_mount_in_use_names_who_uses_it(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, str(tree)) as mount:
        with (mount.path / "three.txt").open("rb"):
            refused = headrace("umount", str(mount.path))
        assert (refused.returncode, layers(mount.path)) == (1, 1)
        assert f"(pid {os.getpid()})" in refused.stderr

        assert headrace("umount", str(mount.path)).returncode == 0


def test_mountpoint_below_a_linked_folder_is_the_same_by_both_names(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    words = ("--cache-dir", str(tmp_path / "cache"), "--log-file", f"{tmp_path}/log", str(tree), f"{tmp_path}/link/mnt")
    result = headrace("mount", "--background", *words)
    assert result.returncode == 0, result.stderr

    assert (tmp_path / "real" / "mnt" / "three.txt").read_bytes() == b"abc"
    assert headrace("status", f"{tmp_path}/real/mnt").returncode == 0
    assert headrace("umount", f"{tmp_path}/real/mnt").returncode == 0
    assert layers(tmp_path / "real" / "mnt") == 0


def test_mountpoint_that_is_not_empty_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    result = headrace("mount", str(tree), str(tmp_path))

    assert (result.returncode, "is not empty" in result.stderr) == (2, True)
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("path", ["file", "none/mnt", "link"])
def test_mountpoint_that_cannot_be_one_is_refused(tree: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")

    result = headrace("mount", str(tree), str(tmp_path / path))

    assert result.returncode == 2
    assert "MOUNTPOINT" in result.stderr
    assert "Traceback" not in result.stderr


def test_source_that_is_away_is_said_clearly(tmp_path: Path) -> None:
    words = ("--cache-dir", str(tmp_path / "cache"), "http://127.0.0.1:1/", str(tmp_path / "mnt"))

    foreground = headrace("mount", *words)
    background = headrace("mount", "--background", "--log-file", str(tmp_path / "log"), *words)

    for result in (foreground, background):
        assert result.returncode == 1
        assert "headrace mount: source 'source'" in result.stderr
        assert "Traceback" not in result.stderr
    assert layers(tmp_path / "mnt") == 0


def test_daemon_that_cannot_start_ends_the_mount_and_says_why(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "blocks").write_bytes(b"in the way")
    (cache / OWNER_NAME).touch()

    result = headrace("mount", "--cache-dir", str(cache), str(tree), str(tmp_path / "mnt"))

    assert result.returncode == 1
    assert f"headrace mount: {tmp_path}/mnt: " in result.stderr
    assert "must be writable" in result.stderr.rpartition("headrace mount:")[2]
    assert result.stderr.count("daemon.started") < 20
    assert layers(tmp_path / "mnt") == 0
    assert headrace("status", str(tmp_path / "mnt")).stderr.endswith("`headrace status` lists them\n")


def test_two_sources_are_two_folders(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, f"a={tree}/dir", f"b={tree}") as mount:
        assert sorted(os.listdir(mount.path)) == ["a", "b"]
        assert (mount.path / "a" / "nested" / "leaf").read_bytes() == b"leaf"
        assert (mount.path / "b" / "three.txt").read_bytes() == b"abc"


def test_lost_cache_folder_does_not_end_the_mount(tree: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, str(tree)) as mount:
        (mount.path / "three.txt").read_bytes()
        shutil.rmtree(mount.cache / "blocks")

        assert (mount.path / "blocks-3").read_bytes() == content(3 * MIB, 2)


def _read_or_stale(fd: int, offset: int) -> bytes | None:
    try:
        return os.pread(fd, 1000, offset)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None
