#!/usr/bin/env python3
"""What a dataset's names cost: listing them for the first time and again, finding one, and the memory of it all.

    bench/names.py [--files N] [--per-directory N] [--folder DIR]

A tree of empty names comes out of memory, so that only our own work is measured: no source, no mount, one process.
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blockcache.catalog import CATALOG_NAME, ROOT_ID, Catalog
from blockcache.crawl import Crawler
from blockcache.origin import Origin
from blockcache.tree import Tree
from ufs.base import DIRECTORY, Entry, Stat, UnderFileSystem

_LOOKUPS, _ROUNDS = 20_000, 5


class Names(UnderFileSystem):
    """*files* files in directories of *per_directory* each."""

    def __init__(self, files: int, per_directory: int) -> None:
        self._files, self._per_directory = files, per_directory

    @property
    def directories(self) -> int:
        return -(-self._files // self._per_directory)

    def stat(self, path: str) -> Stat:
        return Stat(False, 131072, 1, "v1") if "/" in path else DIRECTORY

    def list(self, path: str) -> Iterator[Entry]:
        if not path:
            for number in range(self.directories):
                yield Entry(f"directory-{number:06}", True, 0, None)
            return
        first = int(path.rpartition("-")[2]) * self._per_directory
        for number in range(first, min(self._files, first + self._per_directory)):
            yield Entry(f"image-{number:08}.jpeg", False, 131072, number)

    def close(self) -> None:
        """Nothing is held."""


def show(what: str, value: str) -> None:
    print(f"{what:<44}{value:>16}", flush=True)


def rss_mib() -> float:
    return float(psutil.Process().memory_info().rss) / (1 << 20)


def median_us(call: Callable[[int], object], count: int) -> float:
    rounds = []
    for _ in range(_ROUNDS):
        numbers = [random.randrange(count) for _ in range(_LOOKUPS)]
        begun = time.perf_counter()
        for number in numbers:
            call(number)
        rounds.append((time.perf_counter() - begun) / _LOOKUPS * 1e6)
    return statistics.median(rounds)


async def measure(catalog: Catalog, files: int, per_directory: int) -> None:
    names = Names(files, per_directory)
    tree = Tree(catalog, {"/": Origin("names", [("source", names)])}, 3600.0)
    crawler = Crawler(tree, lambda: True)
    show("memory before, MiB", f"{rss_mib():.0f}")
    begun = time.perf_counter()
    await crawler.list_unlisted()
    show("listed for the first time, files/s", f"{files / (time.perf_counter() - begun):,.0f}")
    show("memory then, MiB", f"{rss_mib():.0f}")
    directories = [node.id for node in catalog.children(ROOT_ID, limit=-1)]
    begun = time.perf_counter()
    for id in directories:
        await tree.list_again(id)
    show("listed again unchanged, files/s", f"{files / (time.perf_counter() - begun):,.0f}")
    await measure_answers(tree, directories, files, per_directory)


async def measure_answers(tree: Tree, directories: list[int], files: int, per_directory: int) -> None:
    catalog = tree.catalog

    def look_up(number: int) -> None:
        # Known and fresh names are found without waiting for anything, so one step runs it to its end.
        try:
            tree.lookup(directories[number // per_directory], f"image-{number:08}.jpeg").send(None)
        except StopIteration:
            return
        raise AssertionError("the tree had to ask")

    show("lookup of a random name, us", f"{median_us(look_up, files):.1f}")
    last = catalog.children(directories[-1], limit=-1)[-1].id
    show("attributes of a random file, us", f"{median_us(lambda number: catalog.get(2 + number % last), files):.1f}")
    begun = time.perf_counter()
    for id in directories:
        after = 0
        while page := catalog.children(id, after):
            after = page[-1].id
    show("pages of directories read, names/s", f"{files / (time.perf_counter() - begun):,.0f}")
    show("totals, us", f"{median_us(lambda _: catalog.totals(), 1):.1f}")
    show("cached bytes by tier, us", f"{median_us(lambda _: catalog.cached_by_tier(), 1):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--per-directory", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the catalog is made")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="names-", dir=arguments.folder))
    try:
        trio.run(measure, Catalog(folder / CATALOG_NAME), arguments.files, arguments.per_directory)
        size = sum(path.stat().st_size for path in folder.glob(f"{CATALOG_NAME}*"))
        show("catalog on disk, bytes per file", f"{size / arguments.files:.0f}")
        show("memory at the end, MiB", f"{rss_mib():.0f}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
