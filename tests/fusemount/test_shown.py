"""Which listings the kernel may go on with, as all processes of a mount know them."""

from pathlib import Path

import pytest

from fusemount.shown import Shown
from fusemount.slots import Slots


@pytest.mark.parametrize("has_folder", [True, False])
def test_listing_that_was_shown_is_the_latest_until_another_is_taken(tmp_path: Path, has_folder: bool) -> None:
    shown = Shown(tmp_path if has_folder else None)
    assert not shown.is_latest(7, 0.0)

    shown.note(7, 1234.5)

    assert shown.is_latest(7, 1234.5)
    assert not shown.is_latest(7, 1234.6)
    assert not shown.is_latest(8, 1234.5)


def test_other_processes_of_the_mount_know(tmp_path: Path) -> None:
    first, second = Shown(tmp_path), Shown(tmp_path)
    first.note(7, 1234.5)

    assert second.is_latest(7, 1234.5)
    second.forget(7)
    assert not first.is_latest(7, 1234.5)


def test_directories_that_share_a_slot_only_forget_each_other(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.note(7, 1234.5)

    shown.forget(7 + 65536)
    assert shown.is_latest(7, 1234.5)
    shown.note(7 + 65536, 1234.5)

    assert not shown.is_latest(7, 1234.5)
    assert shown.is_latest(7 + 65536, 1234.5)


def test_file_that_cannot_be_had_costs_only_the_sharing(tmp_path: Path) -> None:
    (tmp_path / "slots").mkdir()
    slots = Slots(tmp_path / "slots", 4)

    slots.put(5, 1, (1 << 64) - 1)

    assert (slots.get(5), slots.get(1), slots.get(2)) == ((1, (1 << 64) - 1), (1, (1 << 64) - 1), (0, 0))
