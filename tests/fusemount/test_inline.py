"""What is answered without a turn of the event loop, byte by byte as the kernel reads it."""

import errno
import os
import stat
import struct
from pathlib import Path

from blockcache.catalog import ROOT_ID
from blockcache.dataset import CachedDataset
from fusemount import nodes, packed
from fusemount.filesystem import FileSystem
from fusemount.inline import Inline
from tests.blockcache.datasets import BLOCK, content, dataset_of, opened, source

LOOKUP, GETATTR, READLINK, OPEN, READ, STATFS, OPENDIR, READDIRPLUS = 1, 3, 5, 14, 15, 17, 27, 44
DATA = content(3 * BLOCK + 5)


def inline(dataset: CachedDataset, *, no_open: bool = False) -> Inline:
    return Inline(FileSystem(dataset, None, no_open=no_open), no_open=no_open)


async def listed(dataset: CachedDataset) -> None:
    await dataset.tree.ensure_listed(ROOT_ID)


def read_in(handle: int, offset: int, size: int) -> bytes:
    return struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)


def entry_of(reply: object) -> tuple[int, int, int, int]:
    """(node id, seconds to believe it, mode, size) of a LOOKUP's answer."""
    assert isinstance(reply, bytes)
    assert len(reply) == 128
    node, _, entry_s, _, _, _ = struct.unpack_from("<4Q2I", reply)
    _, size, _, _, _, _, _, _, _, mode = struct.unpack_from("<6Q4I", reply, 40)
    return node, entry_s, mode, size


async def test_lookup_of_a_known_name_has_its_attributes(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        await listed(dataset)
        node = await dataset.tree.lookup(ROOT_ID, "f")

        reply = inline(dataset).answer(LOOKUP, ROOT_ID, b"f\0")

        assert entry_of(reply) == (nodes.node_id(node), 300, stat.S_IFREG | 0o444, len(DATA))


async def test_lookup_of_a_name_that_is_not_there_may_be_believed_for_a_moment(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        await listed(dataset)

        assert entry_of(inline(dataset).answer(LOOKUP, ROOT_ID, b"none\0"))[:2] == (0, 5)


async def test_what_has_to_be_asked_for_is_left_to_who_may_wait(tmp_path: Path) -> None:
    async with dataset_of(source({"d/f": DATA}), tmp_path) as dataset:
        answer = inline(dataset).answer

        assert answer(LOOKUP, ROOT_ID, b"d\0") is None
        assert answer(READDIRPLUS, ROOT_ID, read_in(ROOT_ID, 0, 4096)) is None
        assert answer(GETATTR, nodes.number(4711, 0), bytes(16)) is None
        assert answer(OPEN, nodes.number(4711, 0), bytes(8)) is None
        assert answer(LOOKUP, nodes.number(4711, 0), b"x\0") is None
        assert answer(STATFS, ROOT_ID, b"") is None


async def test_listing_that_is_too_old_is_left_to_who_may_wait(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path, listing_ttl_s=0) as dataset:
        await listed(dataset)

        assert inline(dataset).answer(LOOKUP, ROOT_ID, b"f\0") is None


async def test_attributes_of_a_known_inode_keep_its_incarnation(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        node = await opened(dataset, "f")
        before = nodes.node_id(node)
        dataset.catalog.turn(node.id, passthrough=True)

        reply = inline(dataset).answer(GETATTR, before, bytes(16))

        assert isinstance(reply, bytes)
        assert struct.unpack_from("<Q2I2Q", reply) == (300, 0, 0, node.id, len(DATA))


async def test_read_of_cached_bytes_is_answered_and_counted(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        node = await opened(dataset, "f")
        handle = nodes.node_id(node)
        answer = inline(dataset).answer
        assert answer(READ, handle, read_in(handle, 0, 10)) is None
        await dataset.read(node.id, 0, len(DATA))
        await dataset.read(node.id, 0, 1)
        hits = dataset.counters.hits

        for offset, size in ((0, 10), (BLOCK - 1, 2), (5, len(DATA)), (len(DATA) - 1, 100), (len(DATA), 1)):
            found = answer(READ, handle, read_in(handle, offset, size))

            assert isinstance(found, bytes | memoryview)
            assert bytes(found) == DATA[offset : offset + size]
        assert dataset.counters.hits == hits + 4  # the last was empty


async def test_open_for_writing_is_refused(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        node = await opened(dataset, "f")

        reply = inline(dataset).answer(OPEN, nodes.node_id(node), struct.pack("<2I", os.O_RDWR, 0))

        assert reply == errno.EROFS


async def test_small_files_are_opened_without_a_message(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        assert inline(dataset, no_open=True).answer(OPEN, 1 << 20, bytes(8)) == errno.ENOSYS


async def test_folder_opened_again_keeps_what_the_kernel_has_until_it_changes(tmp_path: Path) -> None:
    ufs = source({"f": b""})
    async with dataset_of(ufs, tmp_path) as dataset:
        await listed(dataset)
        filesystem = FileSystem(dataset, None)
        answer = Inline(filesystem, no_open=False).answer

        def keeps() -> bool:
            reply = answer(OPENDIR, ROOT_ID, bytes(8))
            assert isinstance(reply, bytes)
            _, flags, _ = struct.unpack("<Q2I", reply)
            assert flags & packed.CACHE_DIR
            return bool(flags & packed.KEEP_CACHE)

        assert [keeps(), keeps()] == [False, True]
        filesystem.note_changed(ROOT_ID)
        assert [keeps(), keeps()] == [False, True]
        await dataset.tree.list_again(ROOT_ID)
        assert [keeps(), keeps()] == [False, True]


async def test_error_of_the_catalog_is_left_to_who_can_tell_it(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        answer = inline(dataset).answer

    # The dataset is closed, as a disk that is gone would have it.
    (tmp_path / "catalog.sqlite").unlink()
    assert answer(GETATTR, nodes.number(4711, 0), bytes(16)) is None


async def test_small_file_that_is_cached_is_read_at_once_by_a_new_process(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA[:BLOCK]}), tmp_path) as dataset:
        node = await opened(dataset, "f")
        await dataset.read(node.id, 0, BLOCK)
    async with dataset_of(source({"f": DATA[:BLOCK]}), tmp_path) as dataset:
        handle = nodes.node_id(node)

        found = inline(dataset).answer(READ, handle, read_in(handle, 0, BLOCK))

    assert found is not None
    assert dataset.counters.hits == 1
