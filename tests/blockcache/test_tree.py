"""Names: asked for once, believed for a while, and kept when the source is away."""

from pathlib import Path

import pytest
import structlog
import trio
import trio.testing

from blockcache.catalog import ROOT_ID
from blockcache.origin import Origin
from blockcache.tree import Tree
from datamodel.errors import NotFound, Unavailable, VersionChanged
from tests.blockcache.datasets import dataset_of, names, opened, read, source


async def test_listing_is_taken_once_however_many_ask(tmp_path: Path) -> None:
    ufs = source({"a": b"", "b": b""})
    async with dataset_of(ufs, tmp_path) as dataset:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(dataset.tree.ensure_listed, ROOT_ID)

        assert await names(dataset.tree) == ["a", "b"]
    assert ufs.calls["list"] == 1


async def test_lookup_in_a_listed_folder_asks_nothing(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        await names(dataset.tree)

        assert (await dataset.tree.lookup(ROOT_ID, "a")).size == 3
        with pytest.raises(NotFound):
            await dataset.tree.lookup(ROOT_ID, "b")
    assert ufs.calls["stat"] == 0


async def test_lookup_without_a_listing_asks_for_that_name_only(tmp_path: Path) -> None:
    ufs = source({"dir/a": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        assert (await dataset.tree.resolve("dir/a")).size == 3

    assert (ufs.calls["stat"], ufs.calls["list"]) == (2, 0)


async def test_name_that_is_missing_at_the_source_is_not_found(tmp_path: Path) -> None:
    async with dataset_of(source({"a": b""}), tmp_path) as dataset:
        for path in ("b", "a/b", "..", "a/../a", "./a"):
            with pytest.raises(NotFound):
                await dataset.tree.resolve(path)


async def test_name_that_went_at_the_source_goes_here_too(tmp_path: Path) -> None:
    ufs = source({"a": b"", "b": b""})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        await names(dataset.tree)
        ufs.remove("a")

        with pytest.raises(NotFound):
            await dataset.tree.lookup(ROOT_ID, "a")
        assert await names(dataset.tree) == ["b"]


async def test_sizes_that_a_listing_does_not_tell_are_asked_for(tmp_path: Path) -> None:
    ufs = source({f"f{i:03}": b"x" * i for i in range(100)})
    ufs.hides_sizes = True
    async with dataset_of(ufs, tmp_path) as dataset:
        await names(dataset.tree)

        assert [node.size for node in dataset.catalog.children(ROOT_ID)] == list(range(100))


async def test_file_that_goes_while_its_size_is_asked_for_is_left_out(tmp_path: Path) -> None:
    ufs = source({"a": b"", "b": b""})
    ufs.hides_sizes = True
    async with dataset_of(ufs, tmp_path) as dataset:
        ufs.calls.clear()
        list_names = ufs.list

        def list_then_remove(path: str) -> object:
            entries = list(list_names(path))
            ufs.remove("a")
            return iter(entries)

        ufs.list = list_then_remove  # type: ignore[assignment,method-assign]  # one scripted answer

        assert await names(dataset.tree) == ["b"]


async def test_source_that_goes_away_while_sizes_are_asked_for_is_unavailable(tmp_path: Path) -> None:
    ufs = source({f"f{i}": b"x" for i in range(40)})
    ufs.hides_sizes = True
    async with dataset_of(ufs, tmp_path) as dataset:
        list_names = ufs.list

        def list_then_go(path: str) -> object:
            entries = list(list_names(path))
            ufs.away = Unavailable("went")
            return iter(entries)

        ufs.list = list_then_go  # type: ignore[assignment,method-assign]  # one scripted answer

        with pytest.raises(Unavailable, match="went"):
            await dataset.tree.ensure_listed(ROOT_ID)


async def test_known_names_are_served_while_the_source_is_away(tmp_path: Path) -> None:
    ufs = source({"read": b"abc", "listed": b"abcd", "dir/below": b"abcde"})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        await names(dataset.tree)
        await read(dataset, "read")
        await names(dataset.tree, (await dataset.tree.resolve("dir")).id)
        ufs.away = Unavailable("away")

        assert await names(dataset.tree) == ["dir", "listed", "read"]
        assert (await dataset.tree.resolve("listed")).size == 4
        assert (await dataset.tree.resolve("dir/below")).size == 5
        assert await read(dataset, "read") == b"abc"


async def test_names_are_served_from_the_last_run_while_the_source_is_away(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        await names(dataset.tree)
        await read(dataset, "a")
    ufs.away = Unavailable("away")

    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        assert await names(dataset.tree) == ["a"]
        assert await read(dataset, "a") == b"abc"


async def test_unknown_name_is_unavailable_while_the_source_is_away(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    ufs.away = Unavailable("away")
    async with dataset_of(ufs, tmp_path) as dataset:
        with pytest.raises(Unavailable):
            await dataset.tree.resolve("a")
        with pytest.raises(Unavailable):
            await dataset.tree.ensure_listed(ROOT_ID)


async def test_opening_a_file_that_was_only_listed_needs_the_source(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path) as dataset:
        await names(dataset.tree)
        ufs.away = Unavailable("away")

        with pytest.raises(Unavailable):
            await opened(dataset, "a")


async def test_stale_answers_are_a_warning(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        await names(dataset.tree)
        ufs.away = Unavailable("away")
        with structlog.testing.capture_logs() as lines:
            await names(dataset.tree)
            await dataset.tree.resolve("a")

    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["listing.stale", "attributes.stale"]


async def test_source_is_asked_again_when_the_listing_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ufs = source({"a": b""})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=60) as dataset:
        await names(dataset.tree)
        ufs.plant("b", b"")
        assert await names(dataset.tree) == ["a"]

        later = dataset.catalog.clock() + 61
        monkeypatch.setattr(dataset.catalog, "clock", lambda: later)

        assert await names(dataset.tree) == ["a", "b"]


async def test_listing_from_the_future_is_not_believed(tmp_path: Path) -> None:
    ufs = source({"a": b""})
    async with dataset_of(ufs, tmp_path) as dataset:
        dataset.catalog.record_listing(ROOT_ID, [], now=dataset.catalog.clock() + 10_000)

        assert await names(dataset.tree) == ["a"]


async def test_replaced_file_is_another_row_when_it_is_opened_again(tmp_path: Path) -> None:
    ufs = source({"a": b"abc"})
    async with dataset_of(ufs, tmp_path, listing_ttl_s=0) as dataset:
        old = await opened(dataset, "a")
        ufs.plant("a", b"xyz")

        with pytest.raises(VersionChanged):
            await dataset.tree.pin(old.id)
        new = await opened(dataset, "a")

    assert new.id != old.id


async def test_locks_of_listings_are_not_kept(tmp_path: Path) -> None:
    async with dataset_of(source({f"d{i}/f": b"" for i in range(20)}), tmp_path) as dataset:
        for i in range(20):
            await names(dataset.tree, (await dataset.tree.resolve(f"d{i}")).id)

        assert len(dataset.tree._listing) == 0


async def test_several_sources_show_as_folders_of_the_root(tmp_path: Path) -> None:
    async with dataset_of(source(), tmp_path) as dataset:
        first, second = source({"x": b"1"}), source({"y": b"22"})
        tree = Tree(
            dataset.catalog, {"/one": Origin("one", [("one", first)]), "/two": Origin("two", [("two", second)])}, 300
        )

        assert await names(tree) == ["one", "two"]
        assert (await tree.resolve("two/y")).size == 2
        with pytest.raises(NotFound):
            await tree.resolve("one/y")
        with pytest.raises(NotFound):
            await tree.resolve("three")


async def test_source_that_left_the_configuration_leaves_no_names(tmp_path: Path) -> None:
    async with dataset_of(source(), tmp_path) as dataset:
        origins = {f"/{name}": Origin(name, [(name, source({"x": b"1"}))]) for name in ("one", "two")}
        tree = Tree(dataset.catalog, origins, 300)
        await tree.resolve("two/x")

        tree = Tree(dataset.catalog, {"/one": origins["/one"]}, 300)

        assert await names(tree) == ["one"]
        assert dataset.catalog.totals() == (0, 0)
