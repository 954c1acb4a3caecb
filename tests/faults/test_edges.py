"""Files and sources at the edge of what is possible."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.origin import FaultyOrigin, Patterned
from tests.faults.readers import reading
from tests.faults.sizes import IS_FULL, MIB, READERS, in_full
from tests.faults.watching import status
from tests.fusemount.mounts import Mounted, content, headrace, layers, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

GIB = 1 << 30
HUGE = Patterned(100 * GIB)


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as made:
        yield made


def resident_bytes(mount: Mounted) -> int:
    return int(max(process["rssBytes"] for process in status(mount)["processes"]))


def test_file_of_100_gib_is_read_at_far_offsets_in_little_memory(origin: FaultyOrigin, tmp_path: Path) -> None:
    origin.put("huge", HUGE)
    step = GIB if IS_FULL else 9 * GIB
    with mounted(tmp_path, origin.url) as mount:
        assert (mount.path / "huge").stat().st_size == 100 * GIB
        with (mount.path / "huge").open("rb", buffering=0) as file:
            for offset in [*range(5, HUGE.size - MIB, step), HUGE.size - 100_000, 0]:
                length = min(300_000, HUGE.size - offset)
                assert read_fully(file.fileno(), offset, length) == HUGE.read(offset, length)
            assert os.pread(file.fileno(), 10, HUGE.size) == b""

        until(lambda: status(mount)["cache"]["cachedBytes"] > 0)
        assert resident_bytes(mount) < 150 * MIB
        assert sum(path.stat().st_blocks * 512 for path in mount.cache.rglob("*")) < GIB


def read_fully(fd: int, offset: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += os.pread(fd, length - len(data), offset + len(data))
    return data


def test_empty_things_are_empty(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "empty folder").mkdir(parents=True)
    (tree / "empty file").touch()
    with mounted(tmp_path, str(tree)) as mount:
        assert list((mount.path / "empty folder").iterdir()) == []
        assert (mount.path / "empty file").stat().st_size == 0
        assert (mount.path / "empty file").read_bytes() == b""
        with (mount.path / "empty file").open("rb") as file:
            assert os.pread(file.fileno(), 10, 5) == b""


@in_full
def test_source_without_any_file_is_an_empty_folder(origin: FaultyOrigin, tmp_path: Path) -> None:
    with mounted(tmp_path, origin.url) as mount:
        assert os.listdir(mount.path) == []


def test_names_of_255_bytes_and_empty_files_of_a_web_server_are_served(origin: FaultyOrigin, tmp_path: Path) -> None:
    files = {
        "a" * 255: content(1000, 1),
        "ü" * 127 + "b": content(2000, 2),
        ".hidden": content(3, 3),
        "empty": b"",
        "# % & ? + ;=' \"~": content(4, 4),
    }
    for name, data in files.items():
        origin.put(name, data)
    with mounted(tmp_path, origin.url) as mount:
        assert sorted(os.listdir(mount.path)) == sorted(files)
        with reading(mount.path, files, READERS) as readers:
            assert readers.finish() == []
        with pytest.raises(FileNotFoundError):
            (mount.path / ("x" * 256)).stat()


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("", 2, "SOURCE"),
        ("htp://host/", 2, "htp"),
        ("http://", 2, "host"),
        ("http://127.0.0.1:99999/", 2, "address"),
        ("http://127.0.0.1:1/", 1, "refused"),
        ("http://no-such-host.invalid/", 1, "no-such-host.invalid"),
        ("/no/such/folder", 2, "/no/such/folder"),
        ("name=", 2, "name"),
    ],
)
def test_source_that_cannot_be_is_said_clearly(tmp_path: Path, source: str, code: int, said: str) -> None:
    result = headrace("mount", "--cache-dir", str(tmp_path / "cache"), source, str(tmp_path / "mnt"))

    assert (result.returncode, said in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr
    assert layers(tmp_path / "mnt") == 0


def test_missing_path_of_a_web_server_is_said_clearly(origin: FaultyOrigin, tmp_path: Path) -> None:
    result = headrace("mount", "--cache-dir", str(tmp_path / "cache"), f"{origin.url}none/", str(tmp_path / "mnt"))

    assert result.returncode == 1
    assert "no such path" in result.stderr
    assert layers(tmp_path / "mnt") == 0


@in_full
def test_single_file_as_a_source_is_one_file(origin: FaultyOrigin, tmp_path: Path) -> None:
    origin.put("only", data := content(70_000, 1))
    origin.put("other", b"x")
    with mounted(tmp_path, f"{origin.url}only") as mount:
        assert os.listdir(mount.path) == ["only"]
        assert (mount.path / "only").read_bytes() == data


def test_mount_inside_its_own_source_is_refused(tmp_path: Path) -> None:
    result = headrace("mount", "--cache-dir", str(tmp_path / "cache"), str(tmp_path), str(tmp_path / "mnt"))

    assert result.returncode == 2
    assert "is inside the source" in result.stderr
