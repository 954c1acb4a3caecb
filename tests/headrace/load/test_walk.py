"""Finding the files to load."""

import os
from pathlib import Path

import pytest

from headrace.load.walk import File, files


def refused(path: str, error: OSError) -> None:
    raise AssertionError(f"{path}: {error}")


def test_files_at_every_depth_are_found_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    wanted = set()
    for path, size in (("x", 0), ("a/y", 3), ("a/b/c/z", 5)):
        (tmp_path / path).write_bytes(bytes(size))
        wanted.add(File(str(tmp_path / path), size))

    assert set(files(str(tmp_path), refused)) == wanted


def test_single_file_is_itself(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")

    assert list(files(str(tmp_path / "x"), refused)) == [File(str(tmp_path / "x"), 3)]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "alias").symlink_to("x")

    assert [file.path for file in files(str(tmp_path), refused)] == [str(tmp_path / "x")]


def test_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    told: list[str] = []

    assert list(files(str(tmp_path / "none"), lambda path, error: told.append(path))) == []
    assert told == [str(tmp_path / "none")]


def test_folder_that_cannot_be_listed_is_told_and_the_others_are_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    scandir = os.scandir

    def refuse_b(path: str) -> object:
        if path == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_b)
    told: list[str] = []

    found = {file.path for file in files(str(tmp_path), lambda path, error: told.append(path))}

    assert found == {str(tmp_path / "a" / "file"), str(tmp_path / "c" / "file")}
    assert told == [str(tmp_path / "b")]


def test_walk_that_is_given_up_closes_its_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    found = files(str(tmp_path), refused)
    next(found)

    found.close()  # type: ignore[attr-defined]  # it is a generator

    assert len(os.listdir("/proc/self/fd")) == before
