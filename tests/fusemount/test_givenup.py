"""Which files are not waited for a second time."""

from pathlib import Path

import pytest

from fusemount.givenup import GivenUp


@pytest.mark.parametrize("has_folder", [True, False])
def test_file_is_given_up_for_a_moment_only(tmp_path: Path, has_folder: bool) -> None:
    given_up = GivenUp(tmp_path if has_folder else None)

    given_up.note(7, now=100.0)

    assert given_up.has(7, now=101.0)
    assert not given_up.has(8, now=101.0)
    assert not given_up.has(7 + 1024, now=101.0)
    assert not given_up.has(7, now=102.0)


def test_other_processes_of_the_mount_know(tmp_path: Path) -> None:
    GivenUp(tmp_path).note(7, now=100.0)

    assert GivenUp(tmp_path).has(7, now=101.0)


def test_what_an_earlier_boot_gave_up_does_not_count(tmp_path: Path) -> None:
    GivenUp(tmp_path).note(7, now=1_000_000.0)

    assert not GivenUp(tmp_path).has(7, now=50.0)


def test_folder_that_cannot_be_written_costs_only_the_sharing(tmp_path: Path) -> None:
    (tmp_path / "given-up").mkdir()

    given_up = GivenUp(tmp_path)
    given_up.note(7, now=100.0)

    assert given_up.has(7, now=101.0)
