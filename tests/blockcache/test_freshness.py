"""What is believed of names, by whom and for how long, and what becomes of them as sources change."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from blockcache.catalog import ROOT_ID
from blockcache.origin import Origin
from blockcache.tree import Tree
from datamodel.errors import Corrupt, HeadraceError, NotFound, PermissionRefused, Unavailable, UserError
from tests.blockcache.datasets import dataset_of, names, opened, read, source
from ufs.base import Entry
from ufs.local import LocalFileSystem


async def test_answer_about_one_name_is_believed_by_the_other_process_too(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path) as one, dataset_of(ufs, tmp_path) as other:
        await opened(one, "a")
        asked = ufs.calls["stat"]

        await opened(other, "a")

    assert ufs.calls["stat"] == asked


async def test_opened_file_is_asked_for_again_where_listings_show_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ufs = source({"a": b"abc"})
    ufs.hides_times = True
    async with dataset_of(ufs, tmp_path, listing_ttl_s=60) as dataset:
        await names(dataset.tree)
        old = await opened(dataset, "a")
        ufs.plant("a", b"xyz")
        assert (await opened(dataset, "a")).id == old.id

        later = dataset.catalog.clock() + 61
        monkeypatch.setattr(dataset.catalog, "clock", lambda: later)
        await names(dataset.tree)

        assert (await opened(dataset, "a")).id != old.id
        assert await read(dataset, "a") == b"xyz"


async def test_opened_file_is_not_asked_for_again_where_the_listing_vouches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=60) as dataset:
        await opened(dataset, "a")
        later = dataset.catalog.clock() + 61
        monkeypatch.setattr(dataset.catalog, "clock", lambda: later)
        await names(dataset.tree)
        asked = ufs.calls["stat"]

        await opened(dataset, "a")

    assert ufs.calls["stat"] == asked


async def test_name_whose_source_is_away_is_not_asked_for_at_every_use(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        await read(dataset, "a")
        dataset.catalog.doubt_all()
        dataset.tree.doubt()
        ufs.away = Unavailable("away")
        asked = ufs.calls["stat"]

        for _ in range(5):
            assert await read(dataset, "a") == b"abc"

    assert ufs.calls["stat"] == asked + 1


@pytest.mark.parametrize("trouble", [PermissionRefused("no"), UserError("no index page"), Corrupt("half a page")])
async def test_known_names_outlive_a_source_that_does_not_say_that_they_are_gone(
    tmp_path: Path, trouble: HeadraceError
) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        await names(dataset.tree)
        await read(dataset, "a")
        ufs.away = trouble

        assert await names(dataset.tree) == ["a"]
        assert await read(dataset, "a") == b"abc"


async def test_source_whose_own_folder_is_gone_keeps_its_names(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    async with dataset_of(source(), tmp_path / "cache") as dataset:
        tree = Tree(dataset.catalog, {"/": Origin("local", [("local", LocalFileSystem(str(folder)))])}, 0)
        assert await names(tree) == ["a"]
        (folder / "a").unlink()
        folder.rmdir()

        assert await names(tree) == ["a"]


async def test_directory_that_is_gone_when_it_is_listed_is_forgotten(tmp_path: Path) -> None:
    ufs = source({"dir/a": b""})
    heard: list[tuple[int, tuple[str, ...]]] = []
    async with dataset_of(
        ufs, tmp_path, on_change=lambda directory, names: heard.append((directory, names))
    ) as dataset:
        await names(dataset.tree)
        id = (await dataset.tree.resolve("dir")).id
        ufs.remove("dir/a")

        with pytest.raises(NotFound):
            await dataset.tree.ensure_listed(id)

        assert dataset.catalog.get(id) is None
        assert heard == [(ROOT_ID, ("dir",))]


async def test_links_and_executable_files_come_through_from_listings_and_single_questions(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "run").write_bytes(b"#!")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("run")
    for is_listed in (False, True):
        async with dataset_of(source(), tmp_path / f"cache-{is_listed}") as dataset:
            tree = Tree(dataset.catalog, {"/": Origin("local", [("local", LocalFileSystem(str(folder)))])}, 300)
            if is_listed:
                await tree.ensure_listed(ROOT_ID)

            link, run = await tree.lookup(ROOT_ID, "link"), await tree.lookup(ROOT_ID, "run")

            assert (link.link_target, link.size, link.is_dir, link.version) == ("run", 3, False, "")
            assert (run.link_target, run.is_executable) == (None, True)
            with pytest.raises(NotFound):
                await tree.resolve("link/below")


async def test_source_with_one_file_shows_it_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"12345")
    async with dataset_of(source(), tmp_path / "cache") as dataset:
        ufs = LocalFileSystem(str(tmp_path / "weights.bin"))
        tree = Tree(dataset.catalog, {"/": Origin("local", [("local", ufs)])}, 300)

        assert await names(tree) == ["weights.bin"]
        assert (await tree.resolve("weights.bin")).size == 5
        with pytest.raises(NotFound):
            await tree.resolve("cache")


async def test_listing_that_breaks_off_in_the_middle_drops_nothing_and_is_asked_for_again(tmp_path: Path) -> None:
    ufs = source({f"f{i:04}": b"" for i in range(3000)})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        await names(dataset.tree)
        whole = ufs.list

        def half(path: str) -> Iterator[Entry]:
            yield from islice(whole(path), 2500)
            raise Unavailable("broke off")

        ufs.list = half  # type: ignore[method-assign]  # one scripted answer
        assert len(await names(dataset.tree)) == 3000

        ufs.list = whole  # type: ignore[method-assign]
        ufs.remove("f0000")
        assert len(await names(dataset.tree)) == 2999


async def test_file_that_became_a_folder_and_back_is_each_time_another_row(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        ids = [(await dataset.tree.resolve("a")).id]
        ufs.remove("a")
        ufs.plant("a/b", b"x")
        ids.append((await dataset.tree.resolve("a")).id)
        assert (await dataset.tree.resolve("a/b")).size == 1
        ufs.remove("a/b")
        ufs.plant("a", b"abcd")
        ids.append((await dataset.tree.resolve("a")).id)

        assert len(set(ids)) == 3
        assert dataset.catalog.totals() == (1, 4)
