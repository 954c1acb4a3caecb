"""The benchmark's reader tells the truth about what it read: else every figure would be wrong."""

import json
import os
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[2] / "bench/reader.c"
_PAGE = 4096


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("reader") / "reader"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program, _SOURCE], check=True)
    return program


def read(program: Path, *words: str | Path) -> dict[str, float]:
    answer = subprocess.run([program, *words], check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(answer.stdout)
    return figures


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("a", "b/c"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
    for path in ("a/one", "a/two", "b/c/three"):
        (tmp_path / "tree" / path).write_bytes(os.urandom(3 * _PAGE + 1))
    return tmp_path / "tree"


def test_sequential_read_counts_every_byte(reader: Path, tree: Path) -> None:
    assert read(reader, "seq", tree / "a/one")["bytes"] == 3 * _PAGE + 1


def test_dropping_pages_reads_the_same_bytes(reader: Path, tree: Path) -> None:
    assert read(reader, "seq", "--drop", tree / "a/one")["bytes"] == 3 * _PAGE + 1


def test_mapped_read_by_threads_leaves_no_byte_out(reader: Path, tree: Path) -> None:
    assert read(reader, "mmap", tree / "a/one", "4")["bytes"] == 3 * _PAGE + 1


def test_random_reads_end_after_a_quarter_of_the_pages(reader: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(40 * _PAGE))

    figures = read(reader, "random", file, "3", "30")

    assert (figures["count"], figures["bytes"]) == (10, 10 * _PAGE)


def test_every_listed_file_is_read_whole_once(reader: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("b/c/three\na/one\na/two\n")

    figures = read(reader, "files", tree, tmp_path / "list", "2", "30")

    assert (figures["count"], figures["bytes"]) == (3, 3 * (3 * _PAGE + 1))


def test_walk_counts_files_and_folders(reader: Path, tree: Path) -> None:
    assert read(reader, "walk", tree, "30")["count"] == 6


def test_listing_counts_names_without_the_dots(reader: Path, tree: Path) -> None:
    assert read(reader, "list", tree / "a", "stat")["count"] == 2


def test_expired_limit_stops_before_the_next_file(reader: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a/one\n")

    assert read(reader, "stat", tree, tmp_path / "list", "1", "0")["count"] == 0


def test_missing_file_is_an_error_and_no_figure(reader: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a/none\n")

    answer = subprocess.run(
        [reader, "files", tree, tmp_path / "list", "1", "30"], capture_output=True, text=True, check=False
    )

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "a/none" in answer.stderr
