"""What a mount is tuned for, out of the sizes of its files."""

from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from datamodel.errors import Unavailable
from fusemount.profile import choose, suggest
from tests.blockcache.datasets import dataset_of, source

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("sizes", "profile"),
    [
        ([], "large-files"),
        ([10 * KIB] * 999, "large-files"),
        ([10 * KIB] * 1000, "small-files"),
        ([0] * 1000, "small-files"),
        ([256 * KIB] * 1000, "small-files"),
        ([257 * KIB] * 1000, "large-files"),
        ([100 * KIB] * 950 + [2 * MIB] * 50, "large-files"),
        ([200 * KIB] * 960 + [2 * MIB] * 40, "small-files"),
        ([200 * KIB] * 940 + [2 * MIB] * 60, "large-files"),
        ([10 * KIB] * 5000 + [5 * GIB] * 3, "large-files"),
    ],
)
def test_suggestion_follows_number_sizes_and_bytes(sizes: list[int], profile: str) -> None:
    assert suggest(sizes) == profile


async def test_unknown_dataset_is_looked_at_from_the_root_down(tmp_path: Path) -> None:
    ufs = source({f"d{i % 3}/inner/f{i}": b"small" for i in range(1000)})
    async with dataset_of(ufs, tmp_path) as dataset:
        assert await choose(dataset) == "small-files"


async def test_known_dataset_is_not_looked_at(tmp_path: Path) -> None:
    ufs = source({f"f{i}": b"small" for i in range(1000)})
    async with dataset_of(ufs, tmp_path) as dataset:
        await dataset.tree.ensure_listed(1)
    ufs.away = Unavailable("away")
    async with dataset_of(ufs, tmp_path) as dataset:
        assert await choose(dataset) == "small-files"


async def test_source_that_is_away_costs_no_mount(tmp_path: Path) -> None:
    ufs = source({f"f{i}": b"small" for i in range(1000)})
    ufs.away = Unavailable("away")
    async with dataset_of(ufs, tmp_path) as dataset:
        assert await choose(dataset) == "large-files"


async def test_source_that_does_not_answer_costs_a_second_at_most(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with dataset_of(source({"f": b""}), tmp_path) as dataset:
        dataset.tree.ensure_listed = _never  # type: ignore[method-assign]  # a source cannot be made to hang for ever
        began = trio.current_time()

        assert await choose(dataset) == "large-files"
        assert trio.current_time() - began == 1


async def _never(id: int) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("profile", ["small-files", "large-files"])
async def test_what_was_asked_for_is_taken(tmp_path: Path, profile: str) -> None:
    async with dataset_of(source({"f": b""}), tmp_path) as dataset:
        dataset.config = msgspec.structs.replace(dataset.config, profile=profile)

        assert await choose(dataset) == profile
