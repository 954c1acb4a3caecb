"""The datasets: made once below a folder and kept, for they take longer to make than to read.

Every dataset is a bucket of the S3 server and a folder of the HTTP server at the same time: same files, same disk.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 20
_SPARSE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to read, and how long a workload may take before its rate is taken from what it did."""

    name: str
    large_bytes: int
    small_files: int
    tree_folders: int
    flat_files: int
    random_s: float
    limit_s: float
    small_bytes: int = 128 << 10
    small_folders: int = 20
    files_per_folder: int = 1000


FULL = Sizes("full", 1 << 30, 20_000, 1000, 100_000, 5.0, 60.0)
QUICK = Sizes("quick", 256 << 20, 2_000, 20, 10_000, 1.0, 20.0)

LARGE_FILE = "model.bin"


class Data:
    """Folders `large`, `small`, `tree` and `flat` below *root*`/www`, and shuffled lists of their paths."""

    def __init__(self, root: Path, sizes: Sizes) -> None:
        self.root, self.sizes = root / sizes.name, sizes
        self.www = self.root / "www"
        self._lists = self.root / "lists"
        for folder in (self.www, self._lists):
            folder.mkdir(parents=True, exist_ok=True)

    def folder(self, dataset: str) -> Path:
        """The origin's own files of *dataset*."""
        return self.www / dataset

    def make(self, dataset: str) -> None:
        """Write *dataset* unless it is there."""
        folder = self.folder(dataset)
        if folder.exists():
            return
        new = folder.with_name(f"{dataset}.new")
        subprocess.run(["rm", "-rf", new], check=True)
        new.mkdir(parents=True)
        if dataset == "large":
            _write_random(new / LARGE_FILE, self.sizes.large_bytes)
        elif dataset == "small":
            for path in self.paths("small"):
                _write_random(new / path, self.sizes.small_bytes)
        else:
            for path in self.paths(dataset):
                _write_sparse(new / path)
        new.rename(folder)

    def paths(self, dataset: str) -> Iterator[str]:
        """Relative paths of *dataset*, in order."""
        sizes = self.sizes
        if dataset == "small":
            per_folder = sizes.small_files // sizes.small_folders
            yield from (f"class{n // per_folder:03}/{n:06}.jpg" for n in range(sizes.small_files))
        elif dataset == "tree":
            for folder in range(sizes.tree_folders):
                yield from (f"part{folder:04}/file{n:04}.dat" for n in range(sizes.files_per_folder))
        else:
            yield from (f"file{n:06}.dat" for n in range(sizes.flat_files))

    def shuffled(self, dataset: str, seed: int, count: int | None = None) -> Path:
        """A file with the paths of *dataset*, or *count* of them, in the order of epoch *seed*."""
        file = self._lists / f"{dataset}-{seed}-{count or 'all'}"
        if not file.exists():
            paths = list(self.paths(dataset))
            random.Random(seed).shuffle(paths)
            file.write_text("\n".join(paths[:count]) + "\n")
        return file

    def warm_origin(self, dataset: str) -> None:
        """Bring what the origins serve of *dataset* into memory, so that no cold read measures our own disk."""
        if dataset in ("large", "small"):
            for bucket in (dataset, juicefs_bucket(dataset)):
                if self.folder(bucket).exists():
                    subprocess.run(["find", self.folder(bucket), "-type", "f", "-exec", "cat", "{}", "+"],
                                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        else:
            subprocess.run(["find", self.folder(dataset), "-size", "+1G"], check=True)


def juicefs_bucket(dataset: str) -> str:
    """JuiceFS keeps files as objects in a format of its own."""
    return f"juicefs-{dataset}"


def _write_random(path: Path, size: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, size, _PIECE):
            file.write(os.urandom(min(_PIECE, size - start)))


def _write_sparse(path: Path) -> None:
    if not path.parent.exists():
        path.parent.mkdir()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.ftruncate(fd, _SPARSE_BYTES)
    os.close(fd)
