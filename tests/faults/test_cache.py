"""Cache folders that are damaged, full, broken or taken: readers get the right bytes all the same."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from broker import kernel
from tests.faults.origin import Asked, Fault, FaultyOrigin
from tests.faults.readers import outcomes, reading
from tests.faults.sizes import MIB, READERS, ROUNDS, cases, in_full
from tests.faults.watching import status
from tests.fusemount.mounts import Mounted, content, headrace, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

FILES = {
    "large": content(9 * MIB + 5, 1),
    "middle": content(3 * MIB + 77, 2),
    **{f"small-{number}": content(20_000 + number, 100 + number) for number in range(20)},
}
LARGE, SMALL = {"large": FILES["large"]}, {"small-1": FILES["small-1"]}


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as made:
        for name, data in FILES.items():
            made.put(name, data)
        yield made


def kill_all(mount: Mounted) -> None:
    victims = [process["pid"] for process in status(mount)["processes"]]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{victim}/exe").exists() for victim in victims))


def cache_files(mount: Mounted) -> list[Path]:
    """Data files and maps, the newest first."""
    found = [path for path in (mount.cache / "blocks").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def data_file(mount: Mounted, size: int) -> Path:
    (found,) = [path for path in cache_files(mount) if path.suffix != ".map" and path.stat().st_size == size]
    return found


def flip(path: Path, offset: int) -> None:
    """As a medium does it: nothing but the byte tells."""
    before = path.stat()
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 0x10]), offset)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# ---- damage ----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero_the_end(path: Path) -> None:
    """What journaling file systems leave of data that had no time to get to the medium."""
    size = path.stat().st_size
    os.truncate(path, max(0, size - 100_000))
    os.truncate(path, size)


def garble(path: Path) -> None:
    path.write_bytes(Random(5).randbytes(path.stat().st_size))


@pytest.mark.parametrize("damage", cases([zero_the_end], [cut, empty, garble]), ids=lambda damage: damage.__name__)
def test_newest_cache_files_that_a_power_cut_spoilt_are_fetched_again(
    origin: FaultyOrigin, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    origin.plan = hold_the_tail
    for _ in range(ROUNDS):
        with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS):
            origin.until_stalled()
            until(lambda: len(cache_files(mount)) > 3)
            kill_all(mount)
        for path in cache_files(mount)[:12]:
            damage(path)

        origin.plan = lambda asked: None
        with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
            assert readers.finish() == []
            assert "Traceback" not in mount.log.read_text()


def hold_the_tail(asked: Asked) -> Fault | None:
    is_tail = asked.name == "large" and asked.offset + asked.length > 6 * MIB
    return Fault(stall_after=1000) if is_tail and asked.method == "GET" else None


@in_full
def test_names_that_a_power_cut_spoilt_are_asked_for_again(origin: FaultyOrigin, tmp_path: Path) -> None:
    with mounted(tmp_path, origin.url) as mount:
        assert set(outcomes(mount.path, FILES).values()) == {""}
        kill_all(mount)
    for path in mount.cache.glob("catalog.sqlite*"):
        garble(path)

    with mounted(tmp_path, origin.url) as mount, reading(mount.path, FILES, READERS) as readers:
        assert readers.finish() == []


@pytest.mark.parametrize(
    ("name", "ending"),
    cases([("large", "killed")], [("small-1", "clean"), ("large", "clean"), ("small-1", "killed")]),
)
def test_flipped_byte_of_a_complete_file_is_never_delivered(
    origin: FaultyOrigin, tmp_path: Path, name: str, ending: str
) -> None:
    file, data = {name: FILES[name]}, FILES[name]
    with mounted(tmp_path, origin.url) as mount:
        assert outcomes(mount.path, file) == {name: ""}
        until(lambda: status(mount)["cache"]["cachedBytes"] >= len(data))
        if ending == "killed":
            kill_all(mount)
    path = data_file(mount, len(data))
    flip(path, len(data) // 2)
    if ending == "clean":  # the medium itself is trusted until then; who writes leaves a trace
        os.utime(path)
    before = origin.counts()[f"GET {name}"]

    with mounted(tmp_path, origin.url) as mount:
        assert outcomes(mount.path, file) == {name: ""}
        assert "corrupt" in mount.log.read_text()
    assert origin.counts()[f"GET {name}"] > before


@in_full
def test_flipped_byte_of_a_partial_file_is_never_delivered(origin: FaultyOrigin, tmp_path: Path) -> None:
    data = FILES["large"]
    with mounted(tmp_path, origin.url) as mount, (mount.path / "large").open("rb", buffering=0) as reader:
        assert os.pread(reader.fileno(), 1000, 0) == data[:1000]
        until(lambda: status(mount)["cache"]["cachedBytes"] >= MIB)
    flip(data_file(mount, len(data)), 500)

    with mounted(tmp_path, origin.url) as mount:
        assert (mount.path / "large").read_bytes() == data
        assert "corrupt" in mount.log.read_text()


# ---- media -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def memory_disk(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir()
    kernel.mount("tmpfs", str(folder), "tmpfs", 0, f"size={size}")
    try:
        yield
    finally:
        kernel.umount(str(folder), kernel.MNT_DETACH)


def test_cache_on_a_disk_smaller_than_its_quota_leaves_room_for_names(origin: FaultyOrigin, tmp_path: Path) -> None:
    with memory_disk(tmp_path / "cache", 12 * MIB), mounted(tmp_path, origin.url) as mount:
        with reading(mount.path, FILES, READERS) as readers:
            assert readers.finish() == []
        for number in range(100):
            origin.put(f"name-{number:03}-{'x' * 200}", b"%d" % number)
        headrace("refresh", str(mount.path))

        until(lambda: len(os.listdir(mount.path)) == 100 + len(FILES))

        assert (mount.path / f"name-007-{'x' * 200}").read_bytes() == b"7"
        until(lambda: is_served_from_the_cache(origin, mount, SMALL))


def test_cache_on_a_disk_that_others_filled_costs_no_reader_anything(origin: FaultyOrigin, tmp_path: Path) -> None:
    with memory_disk(tmp_path / "cache", 12 * MIB), mounted(tmp_path, origin.url) as mount:
        with reading(mount.path, FILES, READERS) as readers:
            assert readers.finish() == []
        fill_up(mount.cache / "filler")
        with reading(mount.path, FILES, READERS) as readers:
            assert readers.finish() == []

        (mount.cache / "filler").unlink()
        until(lambda: is_served_from_the_cache(origin, mount, SMALL))


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def is_served_from_the_cache(origin: FaultyOrigin, mount: Mounted, files: dict[str, bytes]) -> bool:
    assert set(outcomes(mount.path, files).values()) == {""}
    before = origin.counts()
    assert set(outcomes(mount.path, files).values()) == {""}
    return not [request for request in origin.counts() - before if request.startswith("GET ")]


@in_full
def test_cache_on_a_disk_that_turns_read_only_costs_no_reader_anything(origin: FaultyOrigin, tmp_path: Path) -> None:
    with memory_disk(tmp_path / "cache", 64 * MIB), mounted(tmp_path, origin.url) as mount:
        assert outcomes(mount.path, LARGE) == {"large": ""}
        subprocess.run(["mount", "-o", "remount,ro", str(mount.cache)], check=False)
        with reading(mount.path, FILES, READERS) as readers:
            assert readers.finish() == []


# ---- quota -----------------------------------------------------------------------------------------------------------


def test_quota_is_never_exceeded_by_more_than_a_block_of_each_process(origin: FaultyOrigin, tmp_path: Path) -> None:
    quota, processes = 6 * MIB, 2
    words = ("--cache-size", str(quota), "--processes", str(processes))
    with (
        mounted(tmp_path, *words, origin.url) as mount,
        Watch(mount) as watch,
        reading(mount.path, FILES, READERS) as readers,
    ):
        assert readers.finish() == []
    assert 0 < watch.most <= quota + processes * MIB


class Watch:
    """The most bytes that data files in the cache had together."""

    def __init__(self, mount: Mounted) -> None:
        self._mount = mount
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before = 0
        while not self._stop.is_set():
            # A file that goes while another comes is counted beside it, but hardly so twice in a row.
            now = self._stored_bytes()
            self.most, before = max(self.most, min(before, now)), now

    def _stored_bytes(self) -> int:
        total = 0
        for path in (self._mount.cache / "blocks").glob("??/*"):
            if path.suffix != ".map":
                with contextlib.suppress(FileNotFoundError):
                    total += path.stat().st_blocks * 512
        return total


@in_full
def test_second_mount_on_one_cache_folder_is_refused(origin: FaultyOrigin, tmp_path: Path) -> None:
    with mounted(tmp_path, origin.url) as mount:
        other = tmp_path / "other"

        refused = headrace("mount", "--cache-dir", str(mount.cache), origin.url, str(other))

        assert refused.returncode == 1
        assert str(mount.path) in refused.stderr
        assert outcomes(mount.path, LARGE) == {"large": ""}
