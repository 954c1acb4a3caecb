"""What a mount is tuned for, decided once per connection: many small files, or large ones.

Small files cost messages, so there the kernel opens them without one and gets contents pushed ahead of their readers;
large ones cost bytes, so there the kernel reads complete files by passthrough. The kernel cannot do both on one mount.
"""

from typing import Literal

import trio

from blockcache.catalog import ROOT_ID
from blockcache.dataset import CachedDataset
from datamodel.errors import HeadraceError
from obs import logs

log = logs.get("fusemount")

Profile = Literal["small-files", "large-files"]

_SAMPLE = 50_000
_FEWEST_FILES = 1000
_MEDIAN_BYTES, _SMALL_BYTES = 256 << 10, 1 << 20
_SMALL_SHARE = 0.95
_LOOK_FOR_S = 1.0


async def choose(dataset: CachedDataset) -> Profile:
    """The profile that the configuration names, or the one that suits the sizes known of *dataset*.

    Where too few are known, folders are listed, nearest to the root first, for a second at most.
    """
    if dataset.config.profile != "auto":
        return dataset.config.profile
    with trio.move_on_after(_LOOK_FOR_S):
        await _look_around(dataset)
    return suggest(dataset.catalog.sizes(_SAMPLE))


def suggest(sizes: list[int]) -> Profile:
    """small-files: there are 1,000 files at least, half of them up to 256 KiB, 95 % up to 1 MiB, and these hold most of
    the bytes."""
    small = [size for size in sizes if size <= _SMALL_BYTES]
    is_small = (
        len(sizes) >= _FEWEST_FILES
        and sorted(sizes)[len(sizes) // 2] <= _MEDIAN_BYTES
        and len(small) >= _SMALL_SHARE * len(sizes)
        and 2 * sum(small) >= sum(sizes)
    )
    return "small-files" if is_small else "large-files"


async def _look_around(dataset: CachedDataset) -> None:
    waiting = [ROOT_ID]
    try:
        while waiting and len(dataset.catalog.sizes(_FEWEST_FILES)) < _FEWEST_FILES:
            folder = waiting.pop(0)
            await dataset.tree.ensure_listed(folder)
            waiting += [node.id for node in dataset.catalog.children(folder) if node.is_dir]
    except HeadraceError as error:
        log.warning("profile.guessed", error=str(error))  # readers will be told when they ask
