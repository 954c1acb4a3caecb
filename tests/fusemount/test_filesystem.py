"""What each call means, without a kernel: modes of a file, stale node ids, pages of a folder."""

import stat
from pathlib import Path

import pytest
import structlog

from blockcache.catalog import ROOT_ID
from blockcache.dataset import CachedDataset
from datamodel.errors import NotFound, Unavailable, VersionChanged
from fusemount import nodes, packed
from fusemount.filesystem import FileSystem
from tests.blockcache.datasets import BLOCK, content, dataset_of, opened, source

DATA = content(2 * BLOCK)


class Backings:
    """A broker's answers: an id per node, or what it refuses with."""

    def __init__(self) -> None:
        self.given: dict[int, int] = {}
        self.refusal: Unavailable | None = None

    def open(self, node_id: int, fd: int) -> int:
        if self.refusal is not None:
            raise self.refusal
        return self.given.setdefault(node_id, len(self.given) + 1)


async def completed(dataset: CachedDataset, name: str) -> int:
    """The passthrough node id of *name*, which is read to its end."""
    node = await opened(dataset, name)
    await dataset.read(node.id, 0, 1 << 30)
    turned = dataset.catalog.turn(node.id, passthrough=True)
    assert turned is not None
    return nodes.node_id(turned)


async def test_lookup_gives_the_attributes_of_a_read_only_file(tmp_path: Path) -> None:
    ufs = source({"f": DATA})
    async with dataset_of(ufs, tmp_path) as dataset:
        found = await FileSystem(dataset, None).lookup(ROOT_ID, b"f")

    assert found.mode == stat.S_IFREG | 0o444
    assert (found.size, found.mtime_ns) == (len(DATA), ufs.files["f"].mtime_ns)


async def test_lookup_of_a_missing_name_is_not_found(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        with pytest.raises(NotFound):
            await FileSystem(dataset, None).lookup(ROOT_ID, b"\xff")


async def test_settled_inodes_are_believed_longer_than_files_that_may_change_their_mode(tmp_path: Path) -> None:
    async with dataset_of(source({"d/f": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, Backings().open)
        unlisted = await filesystem.lookup(ROOT_ID, b"d")
        await dataset.tree.ensure_listed(nodes.row_of(unlisted.node_id))
        folder = await filesystem.lookup(ROOT_ID, b"d")
        file = await filesystem.lookup(folder.node_id, b"f")
        passthrough = await completed(dataset, "d/f")

        assert (unlisted.ttl_s, unlisted.links) == (1, 1)
        assert (folder.ttl_s, folder.links) == (300, 2)
        assert file.ttl_s <= 1
        assert (await filesystem.attributes(passthrough)).ttl_s == 300


async def test_attributes_keep_the_node_id_that_the_kernel_asked_for(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, None)
        before = (await filesystem.lookup(ROOT_ID, b"f")).node_id
        await completed(dataset, "f")

        assert (await filesystem.attributes(before)).node_id == before
        assert (await filesystem.lookup(ROOT_ID, b"f")).node_id == before + 1


async def test_complete_file_opens_by_passthrough_with_one_id_for_all(tmp_path: Path) -> None:
    backings = Backings()
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, backings.open)
        node_id = await completed(dataset, "f")

        opens = [await filesystem.open(node_id) for _ in range(3)]

    assert [backing_id for _, backing_id in opens] == [1, 1, 1]
    assert all(flags & packed.PASSTHROUGH and not flags & packed.KEEP_CACHE for flags, _ in opens)


async def test_file_in_daemon_mode_never_opens_by_passthrough(tmp_path: Path) -> None:
    backings = Backings()
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, backings.open)
        before = (await filesystem.lookup(ROOT_ID, b"f")).node_id
        await completed(dataset, "f")

        assert (await filesystem.open(before))[1] == 0
    assert backings.given == {}


async def test_passthrough_of_an_evicted_file_is_stale_and_the_name_leads_to_daemon_mode(tmp_path: Path) -> None:
    backings = Backings()
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, backings.open)
        node_id = await completed(dataset, "f")
        dataset.keeper.evict([nodes.row_of(node_id)])

        with pytest.raises(VersionChanged):
            await filesystem.open(node_id)
        again = await filesystem.lookup(ROOT_ID, b"f")

        assert not nodes.is_passthrough(again.node_id)
        assert (await filesystem.open(again.node_id))[1] == 0
        assert await filesystem.read(again.node_id, 0, 100) == DATA[:100]


async def test_passthrough_without_the_means_for_it_is_stale(tmp_path: Path) -> None:
    # A mount whose former daemon had the shim, and this one has not.
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, None)
        node_id = await completed(dataset, "f")

        with pytest.raises(VersionChanged):
            await filesystem.open(node_id)
        assert not nodes.is_passthrough((await filesystem.lookup(ROOT_ID, b"f")).node_id)


async def test_open_that_comes_late_does_not_lead_others_away(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, Backings().open)
        late = await completed(dataset, "f")
        dataset.catalog.turn(nodes.row_of(late), passthrough=False)
        dataset.catalog.turn(nodes.row_of(late), passthrough=True)

        with pytest.raises(VersionChanged):
            await filesystem.open(late)

        found = await filesystem.lookup(ROOT_ID, b"f")
        assert found.node_id == late + 2
        assert (await filesystem.open(found.node_id))[1] == 1


async def test_refused_passthrough_is_not_asked_for_again(tmp_path: Path) -> None:
    backings = Backings()
    backings.refusal = Unavailable("cannot be stacked upon")
    async with dataset_of(source({"f": DATA, "g": DATA}), tmp_path) as dataset:
        filesystem = FileSystem(dataset, backings.open)
        with structlog.testing.capture_logs() as lines:
            for name in "fg":
                with pytest.raises(VersionChanged):
                    await filesystem.open(await completed(dataset, name))

        assert filesystem.passthrough_problem == "cannot be stacked upon"
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["passthrough.refused"]


async def test_node_whose_row_is_gone_is_stale(tmp_path: Path) -> None:
    async with dataset_of(source(), tmp_path) as dataset:
        filesystem = FileSystem(dataset, None)
        for call in (filesystem.attributes, filesystem.open):
            with pytest.raises(VersionChanged):
                await call(nodes.number(4711, 0))


async def test_open_of_a_changed_file_is_stale_and_its_name_leads_to_the_new_one(tmp_path: Path) -> None:
    ufs = source({"f": DATA})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        filesystem = FileSystem(dataset, None)
        old = (await filesystem.lookup(ROOT_ID, b"f")).node_id
        await filesystem.open(old)
        ufs.plant("f", b"new")

        with pytest.raises(VersionChanged):
            await filesystem.open(old)

        new = (await filesystem.lookup(ROOT_ID, b"f")).node_id
        assert await filesystem.read(new, 0, 10) == b"new"


async def test_pages_of_a_folder_follow_each_other_without_gap_or_repetition(tmp_path: Path) -> None:
    ufs = source({f"f{i:02}": b"" for i in range(25)})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        filesystem = FileSystem(dataset, None)
        names: list[bytes] = []
        after = 0
        while page := await filesystem.entries(ROOT_ID, after, 4):  # each page takes the listing afresh
            names += [name for name, _, _ in page]
            after = page[-1][2]

    assert sorted(names) == [b"f%02d" % i for i in range(25)]


async def test_statistics_are_of_what_was_seen(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA, "g": b"x"}), tmp_path) as dataset:
        await dataset.tree.ensure_listed(ROOT_ID)

        assert FileSystem(dataset, None).statistics() == (len(DATA) + 1, 0, 2)
