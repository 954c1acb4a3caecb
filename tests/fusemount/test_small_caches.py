"""Caches too small for what is read, under real mounts: memory hands down to the disk, large files lose blocks."""

import os
import threading
from pathlib import Path
from random import Random

import pytest

from tests.faults.origin import FaultyOrigin
from tests.fusemount.mounts import Mounted, content, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

MIB = 1 << 20
FILES = {
    **{f"large-{number}": content(2 * MIB + number, number) for number in range(6)},
    **{f"small-{number:02}": content(60_000 + number, 100 + number) for number in range(40)},
}


def cached(mount: Mounted) -> list[int]:
    return [tier["cachedBytes"] for tier in mount.status()["cache"]["tiers"]]


def read_all(mount: Mounted) -> None:
    for name, data in FILES.items():
        assert (mount.path / name).read_bytes() == data


def test_memory_hands_down_to_the_disk_under_readers(tmp_path: Path) -> None:
    total = sum(map(len, FILES.values()))
    with FaultyOrigin() as origin:
        for name, data in FILES.items():
            origin.put(name, data)
        words = ("--memory-size", "8MiB", "--cache-size", "64MiB", "--processes", "2", origin.url)
        with mounted(tmp_path, *words) as mount:
            held = os.open(mount.path / "large-0", os.O_RDONLY)
            assert os.pread(held, 10, 0) == FILES["large-0"][:10]

            read_all(mount)

            until(lambda: sum(cached(mount)) == total and cached(mount)[0] <= 8 * MIB)
            before = origin.counts()
            read_all(mount)
            assert [request for request in origin.counts() - before if request.startswith("GET ")] == []
            assert cached(mount)[1] > 0
            assert os.pread(held, len(FILES["large-0"]), 0) == FILES["large-0"]
            os.close(held)


def test_disk_keeps_what_memory_handed_down_when_the_mount_ends(tmp_path: Path) -> None:
    with FaultyOrigin() as origin:
        for name, data in FILES.items():
            origin.put(name, data)
        words = ("--memory-size", "8MiB", "--cache-size", "64MiB", origin.url)
        with mounted(tmp_path, *words) as mount:
            read_all(mount)
            until(lambda: sum(cached(mount)) == sum(map(len, FILES.values())) and cached(mount)[0] <= 8 * MIB)

        with mounted(tmp_path, *words) as mount:
            until(lambda: cached(mount)[0] == 0)
            before = origin.counts()
            kept = cached(mount)[1]
            read_all(mount)
            fetched = sum(len(FILES[request[4:]]) for request in origin.counts() - before if request[4:] in FILES)
            assert 0 < kept <= sum(map(len, FILES.values())) - fetched


def test_file_larger_than_the_cache_is_right_however_it_is_read(tmp_path: Path) -> None:
    data, other = content(24 * MIB + 77, 1), content(3 * MIB, 2)
    wrong: list[int] = []

    def read_here_and_there(path: Path, seed: int) -> None:
        random = Random(seed)
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for _ in range(150):
                offset = random.randrange(len(data))
                if os.pread(file.fileno(), 5000, offset) != data[offset : offset + 5000]:
                    wrong.append(offset)

    with FaultyOrigin() as origin:
        origin.put("large", data)
        origin.put("other", other)
        with mounted(tmp_path, "--cache-size", "16MiB", "--processes", "2", origin.url) as mount:
            assert (mount.path / "other").read_bytes() == other
            readers = [
                threading.Thread(target=read_here_and_there, args=(mount.path / "large", seed)) for seed in range(4)
            ]
            for reader in readers:
                reader.start()
            assert (mount.path / "large").read_bytes() == data
            for reader in readers:
                reader.join()

            assert wrong == []
            assert os.getxattr(mount.path / "other", "user.headrace.cached_percent") == b"100"
            assert (
                0 < int(os.getxattr(mount.path / "large", "user.headrace.cached_percent")) <= 42
            )  # half the quota, and a block per process
            assert mount.status()["cache"]["cachedBytes"] <= 16 * MIB
