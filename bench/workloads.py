"""The workloads: what is done to a mounted dataset, and which row of the table each step fills.

Each starts with a system mounted on an empty cache and an origin that has its files in memory. A cold step reads what
the system has never seen; before a warm step everything written so far has reached the disk and the moment is over in
which a kernel entry of an incomplete file lives.
"""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data import LARGE_FILE, Data, Sizes
from machine import Cost, Meter, drop_names, drop_page_cache
from reader import Reader, ReaderFailed, Reading
from rows import Cell, Table
from systems import Mounted

_SETTLE_S = 2.0
_THREADS, _LOADER_THREADS, _MMAP_THREADS = 8, 8, 4
_STATS = 100_000


@dataclass(slots=True)
class Bench:
    """One system's turn. *remount* ends the mount and makes it again on the same cache."""

    data: Data
    reader: Reader
    table: Table
    system: str
    is_native: bool
    mount: Mounted
    origin_pids: list[int]
    remount: Callable[[], Mounted]

    @property
    def sizes(self) -> Sizes:
        return self.data.sizes

    def step(self, row: str, *words: str | Path | float, rate: Callable[[Reading], float]) -> None:
        """Run the reader once and note its rate and what it cost."""
        meter, origin = self.mount.meter(), Meter(self.origin_pids)
        reading = self.reader.run(*words, limit_s=4 * self.sizes.limit_s)
        self.note(row, rate(reading), reading.bytes / 2**30, meter.read(), origin.read())

    def note(self, row: str, value: float, gib: float, cost: Cost, origin: Cost) -> None:
        self.table.setdefault(row, {}).setdefault(self.system, Cell()).add(value, gib, cost, origin)

    def check(self, dataset: str, path: str) -> None:
        """Compare a file with the origin's: speed with wrong bytes is none.

        Raises:
            ReaderFailed: they differ.
        """
        compared = subprocess.run(["cmp", self.mount.root / path, self.data.folder(dataset) / path],
                                  capture_output=True, text=True)  # fmt: skip
        if compared.returncode:
            raise ReaderFailed(f"wrong bytes: {compared.stdout}{compared.stderr}")

    def settle(self) -> None:
        os.sync()
        time.sleep(_SETTLE_S)


def large(bench: Bench) -> None:
    file = bench.mount.root / LARGE_FILE
    # To drop a native file's pages is to go to the disk: that is the row "disk".
    drop = [] if bench.is_native else ["--drop"]
    if bench.is_native:
        drop_page_cache()
    bench.step("large_cold", "seq", file, rate=_mib)
    bench.settle()
    bench.step("large_warm", "seq", *drop, file, rate=_mib)
    bench.step("large_kept", "seq", file, rate=_mib)
    bench.step("random_1", "random", *drop, file, 1, bench.sizes.random_s, rate=_per_s)
    bench.step("random_8", "random", *drop, file, _THREADS, bench.sizes.random_s, rate=_per_s)
    drop_page_cache()
    bench.step("large_disk", "seq", file, rate=_mib)
    drop_page_cache()
    bench.step("random_8_disk", "random", file, _THREADS, bench.sizes.random_s, rate=_per_s)
    bench.check("large", LARGE_FILE)


def mmap(bench: Bench) -> None:
    file = bench.mount.root / LARGE_FILE
    if bench.is_native:
        drop_page_cache()
    bench.step("mmap_cold", "mmap", file, _MMAP_THREADS, rate=_mib)
    bench.settle()
    bench.step("mmap_kept", "mmap", file, _MMAP_THREADS, rate=_mib)
    bench.check("large", LARGE_FILE)


def small(bench: Bench) -> None:
    def epoch(row: str, number: int) -> None:
        order = bench.data.shuffled("small", number)
        bench.step(row, "files", bench.mount.root, order, _LOADER_THREADS, 2 * bench.sizes.limit_s, rate=_per_s)

    if bench.is_native:
        drop_page_cache()
    epoch("small_first", 1)
    bench.settle()
    epoch("small_second", 2)
    drop_page_cache()
    epoch("small_disk", 3)
    for path in list(bench.data.paths("small"))[::97]:
        bench.check("small", path)


def tree(bench: Bench) -> None:
    root, limit_s = bench.mount.root, bench.sizes.limit_s
    some = bench.data.shuffled("tree", 1, _STATS)
    if bench.is_native:
        drop_page_cache()
    bench.step("find_cold", "walk", root, limit_s, rate=_per_s)
    bench.settle()
    bench.step("find_again", "walk", root, limit_s, rate=_per_s)
    bench.step("stat_kept", "stat", root, some, 1, limit_s, rate=_per_s)
    drop_names()
    bench.step("stat_dropped", "stat", root, some, 1, limit_s, rate=_per_s)
    if bench.is_native:
        return
    bench.mount = bench.remount()
    start = time.monotonic()
    (bench.mount.root / some.read_text().partition("\n")[0]).stat()
    bench.note("mount_known", bench.mount.seconds + time.monotonic() - start, 0.0, Cost(), Cost())
    bench.step("find_known", "walk", root, limit_s, rate=_per_s)


def flat(bench: Bench) -> None:
    root = bench.mount.root
    if bench.is_native:
        drop_page_cache()
    bench.step("flat_cold", "list", root, "names", rate=_per_s)
    bench.settle()
    bench.step("flat_again", "list", root, "names", rate=_per_s)
    drop_names()
    bench.step("flat_stat", "list", root, "stat", rate=_per_s)
    bench.step("flat_stat_kept", "list", root, "stat", rate=_per_s)


def _mib(reading: Reading) -> float:
    return reading.mib_per_s


def _per_s(reading: Reading) -> float:
    return reading.per_s


WORKLOADS: dict[str, tuple[str, Callable[[Bench], None]]] = {
    "large": ("large", large),
    "mmap": ("large", mmap),
    "small": ("small", small),
    "tree": ("tree", tree),
    "flat": ("flat", flat),
}
"""By the name that `--workload` takes: the dataset and what is done to it."""
