"""What every `UnderFileSystem` must do, as checks to run against any implementation that shows `TREE`.

Parametrise a test with `CHECKS` and give it a `Subject`; see tests/ufs/test_contract.py.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from datamodel.errors import NotFound, Precondition, UserError, VersionChanged
from ufs.base import UnderFileSystem

BIG = Random(1).randbytes((3 << 20) + 17)
NOT_UTF_8 = os.fsdecode(b"latin-\xe9\xff.txt")
TREE: dict[str, bytes | None] = {
    "empty.bin": b"",
    "three.txt": b"abc",
    "big.bin": BIG,
    "dir": None,
    "dir/nested": None,
    "dir/nested/leaf": b"leaf",
    "dir/sp ace": None,
    "dir/sp ace/100% & more": b"percent",
    "empty-dir": None,
    "naïve-日本語-😀": None,
    "naïve-日本語-😀/ü.txt": b"umlaut",
    NOT_UTF_8: b"bytes",
    **{
        name: name.encode()
        for name in (
            "with space.txt",
            "percent%41%.txt",
            "hash#and?question=1",
            "quotes\"and'ticks`",
            "<tag>&amp;&lt;.txt",
            "12:30.log",
            "scheme:like",
            "semi;colon,comma",
            "plus+tilde~bang!",
            "back\\slash",
            "(round)[square]{curly}",
            "x" * 240,
            "C=M;O=A",
            "tab\tand\nnewline",
        )
    },
}
"""Path to content; None for directories. Parents come before their children."""


@dataclass(frozen=True)
class Subject:
    """An implementation that shows *tree*, which lies in *folder* where the checks may change it."""

    ufs: UnderFileSystem
    folder: Path
    tree: dict[str, bytes | None]
    knows_paths_below_files: bool = False
    """A source that takes what follows a file's name for a parameter, and answers with the file."""


def plant(folder: Path, tree: dict[str, bytes | None]) -> None:
    """Write *tree* under *folder*, with times of whole and differing seconds."""
    for number, (path, content) in enumerate(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
            os.utime(folder / path, (1_700_000_000 + number, 1_700_000_000 + number))


def files_of(tree: dict[str, bytes | None]) -> dict[str, bytes]:
    return {path: content for path, content in tree.items() if content is not None}


def read(ufs: UnderFileSystem, path: str, offset: int, length: int) -> bytes:
    """*length* bytes of *path* as it is now; checks that nothing behind the buffer is touched."""
    room = bytearray(b"\xa5" * (length + 8))
    count = ufs.read_range(path, ufs.stat(path).version, offset, memoryview(room)[:length])

    assert room[length:] == b"\xa5" * 8

    return bytes(room[:count])


def stream(ufs: UnderFileSystem, path: str, version: str, stop_at: int | None = None) -> bytes:
    """What `read_from_start` brings until *stop_at* bytes are there; checks that it comes in order."""
    got = bytearray()

    def sink(offset: int, piece: memoryview) -> bool:
        assert offset == len(got)
        assert len(piece) > 0
        got.extend(piece)
        return stop_at is None or len(got) < stop_at

    ufs.read_from_start(path, version, sink)
    return bytes(got)


def check_root_is_a_directory(subject: Subject) -> None:
    assert subject.ufs.stat("").is_dir


def check_listing_has_every_name_once(subject: Subject) -> None:
    folders = ["", *(path for path, content in subject.tree.items() if content is None)]
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        expected = sorted(
            (path.removeprefix(prefix), content is None)
            for path, content in subject.tree.items()
            if path.startswith(prefix) and "/" not in path.removeprefix(prefix) and path != folder
        )

        found = sorted((entry.name, entry.is_dir) for entry in subject.ufs.list(folder))

        assert found == expected


def check_listing_never_contradicts_stat(subject: Subject) -> None:
    for entry in subject.ufs.list(""):
        stat = subject.ufs.stat(entry.name)

        assert entry.is_dir == stat.is_dir
        assert entry.size in (None, stat.size)
        assert entry.mtime_ns in (None, stat.mtime_ns)


def check_stat_tells_size_time_and_version(subject: Subject) -> None:
    for path, content in files_of(subject.tree).items():
        stat = subject.ufs.stat(path)

        assert (stat.is_dir, stat.size) == (False, len(content))
        assert stat.mtime_ns == (subject.folder / path).stat().st_mtime_ns
        assert stat.version == subject.ufs.stat(path).version != ""


def check_stat_of_directories(subject: Subject) -> None:
    for path, content in subject.tree.items():
        if content is None:
            assert subject.ufs.stat(path).is_dir
            assert subject.ufs.stat(path).version == ""


def check_every_byte_of_every_file(subject: Subject) -> None:
    for path, content in files_of(subject.tree).items():
        assert read(subject.ufs, path, 0, len(content) + 1) == content


def check_ranges_inside_a_file(subject: Subject) -> None:
    for offset, length in ((0, 1), (1, 4096), (1 << 20, 1 << 20), (len(BIG) - 1, 1), (12345, 2 << 20)):
        assert read(subject.ufs, "big.bin", offset, length) == BIG[offset : offset + length]


def check_reads_end_where_the_file_ends(subject: Subject) -> None:
    assert read(subject.ufs, "big.bin", len(BIG) - 5, 100) == BIG[-5:]
    assert read(subject.ufs, "big.bin", len(BIG), 100) == b""
    assert read(subject.ufs, "big.bin", len(BIG) + 1000, 100) == b""
    assert read(subject.ufs, "empty.bin", 0, 100) == b""
    assert read(subject.ufs, "three.txt", 0, 0) == b""


def check_whole_files_come_with_their_stat(subject: Subject) -> None:
    for path, content in files_of(subject.tree).items():
        stat, found = subject.ufs.read_whole(path, len(content))

        assert found == content
        # The source may not have shown yet whether it knows ranges.
        assert replace(stat, has_ranges=True) == replace(subject.ufs.stat(path), has_ranges=True)


def check_whole_files_keep_to_the_limit(subject: Subject) -> None:
    for path, limit in (("big.bin", len(BIG) - 1), ("big.bin", 0), ("three.txt", 2)):
        with pytest.raises(Precondition):
            subject.ufs.read_whole(path, limit)

    assert subject.ufs.read_whole("three.txt", 3)[1] == b"abc"


def check_only_files_are_read_whole(subject: Subject) -> None:
    below = () if subject.knows_paths_below_files else ("three.txt/below",)
    for path in ("", "dir", "empty-dir", "nothing", *below):
        with pytest.raises(NotFound):
            subject.ufs.read_whole(path, 1 << 20)


def check_whole_files_are_told_by_their_version(subject: Subject) -> None:
    path = subject.folder / "three.txt"
    before, _ = subject.ufs.read_whole("three.txt", 100)
    path.write_bytes(b"longer")
    os.utime(path, (1_800_000_000, 1_800_000_000))

    after, content = subject.ufs.read_whole("three.txt", 100)

    assert (after.size, content) == (6, b"longer")
    assert before.version != after.version == subject.ufs.stat("three.txt").version


def check_streams_bring_every_byte_in_order(subject: Subject) -> None:
    for path in ("big.bin", "empty.bin", "three.txt", "dir/nested/leaf"):
        version = subject.ufs.stat(path).version

        assert stream(subject.ufs, path, version) == subject.tree[path]


def check_streams_end_when_told(subject: Subject) -> None:
    version = subject.ufs.stat("big.bin").version
    got = stream(subject.ufs, "big.bin", version, stop_at=1000)

    assert 1000 <= len(got) < len(BIG)
    assert got == BIG[: len(got)]
    assert read(subject.ufs, "big.bin", 0, 100) == BIG[:100]


def check_streams_bring_the_pinned_version_only(subject: Subject) -> None:
    path = subject.folder / "three.txt"
    before = subject.ufs.stat("three.txt")
    path.write_bytes(b"xyz")
    os.utime(path, (1_800_000_000, 1_800_000_000))

    with pytest.raises(VersionChanged):
        stream(subject.ufs, "three.txt", before.version)


def check_missing_paths_are_not_found(subject: Subject) -> None:
    version = subject.ufs.stat("three.txt").version
    below = () if subject.knows_paths_below_files else ("three.txt/below",)
    for path in ("nothing", "dir/nothing", "nothing/below", *below):
        with pytest.raises(NotFound):
            subject.ufs.stat(path)
        with pytest.raises(NotFound):
            list(subject.ufs.list(path))
        with pytest.raises(NotFound):
            subject.ufs.read_range(path, version, 0, memoryview(bytearray(1)))


def check_a_file_is_no_directory_and_the_root_no_file(subject: Subject) -> None:
    version = subject.ufs.stat("three.txt").version

    with pytest.raises(NotFound):
        list(subject.ufs.list("three.txt"))
    with pytest.raises(NotFound):
        subject.ufs.read_range("", version, 0, memoryview(bytearray(1)))


def check_paths_that_leave_the_root_are_refused(subject: Subject) -> None:
    for path in ("..", "../x", "dir/../three.txt", "./three.txt", "/three.txt", "dir//nested", "dir/", "a\0b"):
        with pytest.raises(UserError):
            subject.ufs.stat(path)
        with pytest.raises(UserError):
            list(subject.ufs.list(path))
        with pytest.raises(UserError):
            subject.ufs.read_range(path, "", 0, memoryview(bytearray(1)))


def check_replaced_file_is_noticed(subject: Subject) -> None:
    path = subject.folder / "three.txt"
    before = subject.ufs.stat("three.txt")
    path.write_bytes(b"xyz")
    os.utime(path, (1_800_000_000, 1_800_000_000))

    with pytest.raises(VersionChanged):
        subject.ufs.read_range("three.txt", before.version, 0, memoryview(bytearray(3)))

    assert subject.ufs.stat("three.txt").version != before.version
    assert read(subject.ufs, "three.txt", 0, 3) == b"xyz"


def check_shortened_file_is_noticed(subject: Subject) -> None:
    path = subject.folder / "big.bin"
    before = subject.ufs.stat("big.bin")
    path.write_bytes(b"short")
    os.utime(path, (1_800_000_000, 1_800_000_000))

    with pytest.raises(VersionChanged):
        subject.ufs.read_range("big.bin", before.version, 1 << 20, memoryview(bytearray(100)))


def check_foreign_version_is_refused(subject: Subject) -> None:
    for version in ("", "nonsense", subject.ufs.stat("big.bin").version):
        with pytest.raises(VersionChanged):
            subject.ufs.read_range("three.txt", version, 0, memoryview(bytearray(3)))


def check_many_threads_read_at_once(subject: Subject) -> None:
    random = Random(2)
    version = subject.ufs.stat("big.bin").version
    offsets = [random.randrange(len(BIG)) for _ in range(200)]

    def one(offset: int) -> bytes:
        room = bytearray(10_000)
        count = subject.ufs.read_range("big.bin", version, offset, memoryview(room))
        return bytes(room[:count])

    with ThreadPoolExecutor(16) as pool:
        for offset, found in zip(offsets, pool.map(one, offsets), strict=True):
            assert found == BIG[offset : offset + 10_000]


CHECKS: list[Callable[[Subject], None]] = [value for name, value in sorted(globals().items()) if name[:6] == "check_"]
