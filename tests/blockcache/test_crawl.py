"""Listing what nobody asked for: all of it, once, in the right order, and again when it is due or asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from blockcache.catalog import CATALOG_NAME, ROOT_ID, Catalog
from blockcache.crawl import Crawler
from blockcache.origin import Origin
from blockcache.tree import Tree
from datamodel.errors import NotFound, PermissionRefused, Unavailable, VersionChanged
from tests.blockcache.datasets import dataset_of, names, opened, read, source
from tests.fakes.ufs import MemoryFileSystem
from ufs.base import Entry

DEEP = {"top": b"1", "a/one": b"22", "a/b/two": b"333", "c/d/e/three": b"4444"}


@asynccontextmanager
async def crawling(ufs: MemoryFileSystem, folder: Path, ttl_s: float = 300) -> AsyncIterator[Crawler]:
    async with dataset_of(ufs, folder, listing_ttl_s=ttl_s) as dataset:
        yield Crawler(dataset.tree, lambda: True)


def listed(ufs: MemoryFileSystem) -> list[str]:
    return [path for call, path in ufs.asked if call == "list"]


async def test_crawl_lists_every_directory_once_and_upper_levels_first(tmp_path: Path) -> None:
    ufs = source(DEEP)
    async with crawling(ufs, tmp_path) as crawler:
        assert not crawler.is_complete

        await crawler.list_unlisted()

        assert crawler.is_complete
        assert crawler._catalog.totals() == (4, 10)
    paths = listed(ufs)
    assert sorted(paths) == ["", "a", "a/b", "c", "c/d", "c/d/e"]
    assert [path.count("/") for path in paths] == sorted(path.count("/") for path in paths)


async def test_crawl_goes_on_where_the_last_process_ended(tmp_path: Path) -> None:
    ufs = source(DEEP)
    async with crawling(ufs, tmp_path) as crawler:
        await crawler._tree.ensure_listed(ROOT_ID)
        await crawler._tree.ensure_listed((await crawler._tree.resolve("a")).id)
    ufs.asked.clear()

    async with crawling(ufs, tmp_path) as crawler:
        await crawler.list_unlisted()

        assert crawler.is_complete
    assert sorted(listed(ufs)) == ["a/b", "c", "c/d", "c/d/e"]


async def test_directory_that_is_forbidden_is_left_out_and_hides_no_other(tmp_path: Path) -> None:
    ufs = source(DEEP)
    ufs.errors_at["a"] = PermissionRefused("not for you")
    async with crawling(ufs, tmp_path) as crawler:
        with structlog.testing.capture_logs() as lines:
            await crawler.list_unlisted()

        assert crawler.is_complete
        assert crawler._catalog.totals()[0] == 2
        assert [line["path"] for line in lines if line["event"] == "crawl.left_out"] == ["a"]
        with pytest.raises(PermissionRefused):
            await crawler._tree.ensure_listed((await crawler._tree.resolve("a")).id)

        del ufs.errors_at["a"]
        await crawler.list_old()  # what was left out for now is due again
        await crawler.list_unlisted()

        assert crawler._catalog.totals()[0] == 4


async def test_source_that_is_away_ends_the_crawl_but_not_that_of_the_others(tmp_path: Path) -> None:
    here, gone = source({"x/y": b"1"}), source({"z/w": b"1"})
    gone.away = Unavailable("away")
    catalog = Catalog(tmp_path / CATALOG_NAME)
    tree = Tree(catalog, {"/gone": Origin("gone", [("gone", gone)]), "/here": Origin("here", [("here", here)])}, 300)
    crawler = Crawler(tree, lambda: True)

    with pytest.raises(Unavailable):
        await crawler.list_unlisted()

    assert not crawler.is_complete
    assert catalog.totals()[0] == 1


async def test_link_up_that_a_server_shows_as_a_directory_is_not_followed(tmp_path: Path) -> None:
    files = source({"leaf": b"1", "dir/below": b"22"})
    plain = files.list

    def with_loop(path: str) -> object:
        real = path.replace("dir/up/", "").replace("dir/up", "")
        entries = list(plain(real))
        return iter([*entries, Entry("up", True, 0, None)] if real == "dir" else entries)

    files.list = with_loop  # type: ignore[assignment,method-assign]  # a tree no memory has: dir/up is the root
    async with crawling(files, tmp_path) as crawler:
        with trio.fail_after(20):
            await crawler.list_unlisted()

        assert crawler.is_complete
        assert [node.name for node in crawler._catalog.children((await crawler._tree.resolve("dir/up")).id)] == [
            "dir",
            "leaf",
        ]


async def test_tree_without_an_end_ends_the_crawl(tmp_path: Path) -> None:
    ufs = MemoryFileSystem()
    ufs.list = lambda path: iter([Entry(f"level-{path.count('/')}", True, 0, None)])  # type: ignore[method-assign]
    async with crawling(ufs, tmp_path) as crawler:
        with trio.fail_after(20):
            await crawler.list_unlisted()

        assert crawler.is_complete


async def test_old_listings_are_taken_again_and_young_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    ufs = source(DEEP)
    async with crawling(ufs, tmp_path) as crawler:
        await crawler.list_unlisted()
        ufs.asked.clear()
        ufs.plant("a/new", b"55555")
        await crawler.list_old()
        assert listed(ufs) == []

        later = crawler._catalog.clock() + 601
        monkeypatch.setattr(crawler._catalog, "clock", lambda: later)
        await crawler.list_old()

        assert sorted(listed(ufs)) == ["", "a", "a/b", "c", "c/d", "c/d/e"]
        assert crawler._catalog.totals() == (5, 15)


async def test_crawl_gives_way_to_readers_but_not_for_ever(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ufs = source({"a": b""})
    async with dataset_of(ufs, tmp_path) as dataset:
        looks: list[float] = []

        def is_busy() -> bool:
            looks.append(trio.current_time())
            return True

        await Crawler(dataset.tree, lambda: True, is_busy).list_unlisted()

        assert looks[-1] - looks[0] > 0.5
    assert listed(ufs) == [""]


async def test_refresh_lists_again_what_was_listed_below_a_path(tmp_path: Path) -> None:
    ufs = source(DEEP)
    async with crawling(ufs, tmp_path) as crawler:
        await crawler.list_unlisted()
        ufs.asked.clear()
        ufs.plant("c/d/new", b"55555")
        request = crawler._catalog.request_refresh("/c/")
        assert crawler._catalog.is_refresh_pending(request)

        await crawler.refresh_as_asked()

        assert not crawler._catalog.is_refresh_pending(request)
        assert listed(ufs) == ["c", "c/d", "c/d/e"]
        assert crawler._catalog.totals()[0] == 5


async def test_refresh_of_everything_finds_new_changed_and_removed_names(tmp_path: Path) -> None:
    ufs = source(DEEP)
    heard: list[tuple[int, tuple[str, ...]]] = []
    async with dataset_of(
        ufs, tmp_path, on_change=lambda directory, names: heard.append((directory, names))
    ) as dataset:
        crawler = Crawler(dataset.tree, lambda: True)
        await crawler.list_unlisted()
        assert heard == []
        a = (await dataset.tree.resolve("a")).id
        old = await opened(dataset, "a/one")
        ufs.plant("a/one", b"other")
        ufs.plant("a/added", b"")
        ufs.remove("top")
        dataset.catalog.request_refresh("")

        await crawler.refresh_as_asked()

        assert sorted(heard) == [(ROOT_ID, ("top",)), (a, ("one", "added"))]
        assert (await opened(dataset, "a/one")).id != old.id
        assert await read(dataset, "a/one") == b"other"


async def test_refresh_of_a_name_that_is_new_lists_its_directory(tmp_path: Path) -> None:
    ufs = source(DEEP)
    async with crawling(ufs, tmp_path) as crawler:
        await crawler.list_unlisted()
        ufs.plant("a/new", b"1")
        crawler._catalog.request_refresh("a/new")

        await crawler.refresh_as_asked()

        assert (await crawler._tree.resolve("a/new")).size == 1


async def test_refresh_asks_for_files_whose_listing_shows_no_change(tmp_path: Path) -> None:
    ufs = source({"a": b"abc", "b": b"abc"})
    ufs.hides_times = True
    async with dataset_of(ufs, tmp_path) as dataset:
        crawler = Crawler(dataset.tree, lambda: True)
        await crawler.list_unlisted()
        old = await opened(dataset, "a")
        ufs.plant("a", b"xyz")
        assert (await opened(dataset, "a")).id == old.id
        dataset.catalog.request_refresh("")

        await crawler.refresh_as_asked()

        assert (await opened(dataset, "a")).id != old.id
        assert await read(dataset, "a") == b"xyz"


async def test_refresh_while_the_source_is_away_is_over_with_a_warning_and_keeps_all_names(tmp_path: Path) -> None:
    ufs = source(DEEP)
    async with crawling(ufs, tmp_path) as crawler:
        await crawler.list_unlisted()
        ufs.away = Unavailable("away")
        request = crawler._catalog.request_refresh("")

        with structlog.testing.capture_logs() as lines:
            await crawler.refresh_as_asked()

        assert "refresh.failed" in [line["event"] for line in lines]
        assert not crawler._catalog.is_refresh_pending(request)
        assert crawler._catalog.totals()[0] == 4


async def test_recovery_of_a_troubled_source_is_noticed_though_nobody_reads(tmp_path: Path) -> None:
    ufs = source(DEEP)
    async with dataset_of(ufs, tmp_path) as dataset:
        crawler = Crawler(dataset.tree, lambda: True)
        ufs.away = Unavailable("away")
        with pytest.raises(Unavailable):
            await crawler.list_unlisted()
        origin = dataset.origins["/"]
        assert "away" in origin.problem
        ufs.away = None

        await crawler.look_at_troubled()

        assert origin.problem == ""


async def test_source_whose_own_folder_is_gone_is_in_trouble(tmp_path: Path) -> None:
    ufs = source(DEEP)
    async with dataset_of(ufs, tmp_path) as dataset:
        ufs.next_errors = [NotFound("status 404")]

        with pytest.raises(Unavailable, match="404"):
            await Crawler(dataset.tree, lambda: True).list_unlisted()

        assert "404" in dataset.origins["/"].problem


async def test_changes_are_heard_by_the_other_process_of_the_mount_and_once(tmp_path: Path) -> None:
    ufs = source(DEEP)
    heard: list[tuple[int, tuple[str, ...]]] = []
    async with (
        dataset_of(ufs, tmp_path) as keeper,
        dataset_of(ufs, tmp_path, on_change=lambda directory, names: heard.append((directory, names))) as other,
    ):
        crawler = Crawler(keeper.tree, lambda: True)
        await crawler.list_unlisted()
        a = (await other.tree.resolve("a")).id
        ufs.remove("a/one")
        ufs.plant("a/two", b"")
        keeper.catalog.request_refresh("a")
        await crawler.refresh_as_asked()

        await other.tree.hear()
        await other.tree.hear()

        assert [(directory, sorted(names)) for directory, names in heard] == [(a, ["one", "two"])]
        assert await names(other.tree, a) == ["b", "two"]


async def test_refresh_in_one_process_makes_the_other_ask_again(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path) as keeper, dataset_of(ufs, tmp_path) as other:
        await other.tree.resolve("a")  # asked for alone: no listing
        asked = ufs.calls["stat"]
        await other.tree.resolve("a")
        assert ufs.calls["stat"] == asked

        keeper.catalog.doubt_all()
        await other.tree.hear()
        await other.tree.resolve("a")

        assert ufs.calls["stat"] == asked + 1


async def test_directory_that_goes_while_it_is_listed_takes_its_rows_along(tmp_path: Path) -> None:
    ufs = source({"a/one": b"1"})
    async with dataset_of(ufs, tmp_path) as dataset:
        a = (await dataset.tree.resolve("a")).id
        plain = ufs.list

        def list_and_drop(path: str) -> object:
            dataset.catalog.forget(a)
            return plain(path)

        ufs.list = list_and_drop  # type: ignore[assignment,method-assign]  # one scripted answer
        with pytest.raises(VersionChanged):
            await dataset.tree.list_again(a)

        assert dataset.catalog.children(a) == []
        assert dataset.catalog.totals() == (0, 0)
