"""A source that can give no part of a file: each file is read once, front to back."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from datamodel.errors import DeadlineExceeded, Unavailable
from tests.blockcache.datasets import BLOCK, content, dataset_of, opened, read
from tests.fakes.ufs import MemoryFileSystem
from ufs.base import Sink, Stat

LARGE = content(300 * BLOCK + 5)


@dataclass
class RangelessFileSystem(MemoryFileSystem):
    """*breaks_at* ends the next read there with an error."""

    fronts: int = 0
    breaks_at: list[int] = field(default_factory=list)

    def stat(self, path: str) -> Stat:
        stat = super().stat(path)
        return Stat(stat.is_dir, stat.size, stat.mtime_ns, stat.version, has_ranges=False)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        raise AssertionError("a part of a file was asked for")

    def read_from_start(self, path: str, version: str, sink: Sink) -> None:
        self.fronts += 1
        data = memoryview(self.files[path].content)
        end = self.breaks_at.pop() if self.breaks_at else len(data)
        for offset in range(0, end, 1000):
            if not sink(offset, data[offset : offset + 1000]):
                return
        if end < len(data):
            raise Unavailable("broke off")


def rangeless() -> RangelessFileSystem:
    ufs = RangelessFileSystem()
    ufs.plant("f", LARGE)
    return ufs


async def test_file_is_read_once_for_all_its_readers(tmp_path: Path) -> None:
    ufs = rangeless()
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")
        found: dict[int, bytes] = {}

        async def one(offset: int) -> None:
            found[offset] = bytes(await dataset.read(node.id, offset, 3 * BLOCK))

        async with trio.open_nursery() as nursery:
            for offset in (250 * BLOCK, 17, 0, 299 * BLOCK):
                nursery.start_soon(one, offset)
        assert found == {offset: LARGE[offset : offset + 3 * BLOCK] for offset in found}
        assert await read(dataset, "f") == LARGE

    assert ufs.fronts == 1


async def test_read_that_breaks_off_begins_again(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    ufs = rangeless()
    ufs.breaks_at = [100 * BLOCK, 50 * BLOCK]
    async with dataset_of(ufs, tmp_path) as dataset:
        assert await read(dataset, "f") == LARGE

    assert ufs.fronts == 3


async def test_source_that_always_breaks_off_is_given_up(tmp_path: Path, patient_clock: trio.testing.MockClock) -> None:
    ufs = rangeless()
    ufs.breaks_at = [10 * BLOCK] * 1000
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "f")

        with pytest.raises(DeadlineExceeded, match="broke off"):
            await dataset.read(node.id, 200 * BLOCK, 10)

        assert bytes(await dataset.read(node.id, 5, 10)) == LARGE[5:15]


async def test_file_without_room_in_the_cache_is_delivered(tmp_path: Path) -> None:
    ufs = rangeless()
    async with dataset_of(ufs, tmp_path, quota_bytes=3 * BLOCK) as dataset:
        assert await read(dataset, "f", 290 * BLOCK, 3 * BLOCK) == LARGE[290 * BLOCK : 293 * BLOCK]
