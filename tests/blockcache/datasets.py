"""A cached dataset over sources in memory, for tests of everything above the cache file."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from blockcache.catalog import ROOT_ID, Node
from blockcache.dataset import CachedDataset, open_dataset
from blockcache.origin import Origin
from blockcache.tree import Tree
from datamodel.client import ClientConfig, Source, Tier
from tests.fakes.ufs import MemoryFileSystem

BLOCK = 4096


def content(size: int, seed: int = 5) -> bytes:
    return Random(seed).randbytes(size)


def source(files: dict[str, bytes] | None = None) -> MemoryFileSystem:
    ufs = MemoryFileSystem()
    for path, data in (files or {}).items():
        ufs.plant(path, data)
    return ufs


@asynccontextmanager
async def dataset_of(
    ufs: MemoryFileSystem,
    folder: Path,
    *,
    quota_bytes: int = 1 << 30,
    block_bytes: int = BLOCK,
    listing_ttl_s: float = 300,
    **hooks: Any,
) -> AsyncIterator[CachedDataset]:
    """The dataset with *ufs* as its only source, and its cache in *folder*."""
    config = ClientConfig(
        dataset="default/test",
        sources=(Source(name="source", url="memory://", path="/"),),
        tiers=(Tier(path=str(folder), quota_bytes=quota_bytes),),
        block_bytes=block_bytes,
        listing_ttl_s=listing_ttl_s,
    )
    origins = {"/": Origin("source", [("source", ufs)])}
    async with open_dataset(config, origins, **hooks) as dataset:
        yield dataset


async def opened(dataset: CachedDataset, path: str) -> Node:
    """The pinned row of *path*, as an open of the file gives it."""
    return await dataset.tree.pin((await dataset.tree.resolve(path)).id)


async def read(dataset: CachedDataset, path: str, offset: int = 0, size: int = 1 << 40) -> bytes:
    return bytes(await dataset.read((await opened(dataset, path)).id, offset, size))


async def names(tree: Tree, id: int = ROOT_ID) -> list[str]:
    """The names in directory *id*, in order."""
    await tree.ensure_listed(id)
    return sorted(node.name for node in tree.catalog.children(id, limit=-1))


def cache_files(folder: Path) -> list[str]:
    """Names of all files that hold or describe blocks."""
    return sorted(path.name for path in Path(folder, "blocks").glob("??/*"))


def complete_file(folder: Path) -> Path:
    """The only complete cache file."""
    (path,) = (path for path in Path(folder, "blocks").glob("??/*") if path.name.isdecimal())
    return path


def covered(ranges: Iterable[tuple[str, int, int]]) -> list[int]:
    """Blocks that *ranges* ask for, each as often as it is asked for."""
    blocks: list[int] = []
    for _, offset, length in ranges:
        blocks += range(offset // BLOCK, -(-(offset + length) // BLOCK))
    return sorted(blocks)
