"""Folders cut into pages: nothing twice, nothing left out, whatever the sizes asked for."""

import stat
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcache.catalog import Name
from fusemount import nodes, packed
from fusemount.packed import Attributes, Look
from fusemount.pages import Pages

MOST_NAMES = 3000
LARGEST_ENTRY_BYTES = 152 + 256
LOOK = Look(1, 2, 0o440, 0o550, 300.0, 1.5, 0.5)
PACKERS = [packed.pack_names, packed.fastest_pack_names()]


def names_of(names: list[bytes]) -> list[Name]:
    """Files with rows 10, 20, 30… in the order of *names*."""
    return [
        (row, name, 0, 7, 5_000_000_003, 0, 1, 0, 0)
        for row, name in zip(range(10, 10 * len(names) + 10, 10), names, strict=True)
    ]


def parsed(page: bytes) -> Iterator[tuple[bytes, int]]:
    """(name, offset) of each packed entry, as the kernel would cut them apart."""
    at = 0
    while at < len(page):
        inode, offset, length, kind = struct.unpack_from("<2Q2I", page, at + 128)
        assert kind == stat.S_IFREG >> 12
        assert inode == struct.unpack_from("<Q", page, at)[0] >> nodes.INCARNATION_BITS
        yield page[at + 152 : at + 152 + length], offset
        at += -(-(152 + length) // 8) * 8
    assert at == len(page)


def walk(names: list[Name], sizes: list[int]) -> tuple[list[bytes], int]:
    """All names, read by pages of *sizes* in turn; and how often the folder itself was read."""
    reads = 0
    pages, found, after, turn = Pages(packed.fastest_pack_names(), LOOK), [], 0, 0

    def read(limit: int) -> list[Name]:
        nonlocal reads
        reads += 1
        return [name for name in names if name[0] > after][:limit]

    while page := pages.page(1, after, sizes[turn % len(sizes)], read):
        assert len(page) <= sizes[turn % len(sizes)]
        for name, offset in parsed(page):
            found.append(name)
            after = offset
        turn += 1
    return found, reads


@given(
    st.lists(st.binary(min_size=1, max_size=255), max_size=60),
    st.lists(st.integers(LARGEST_ENTRY_BYTES, 20_000), min_size=1, max_size=5),
)
def test_pages_follow_each_other_without_gap_or_repetition(names: list[bytes], sizes: list[int]) -> None:
    assert walk(names_of(names), sizes)[0] == names


flags = st.integers(0, 1)
any_name = st.tuples(
    st.integers(2, 1 << 40), st.binary(min_size=1, max_size=255), flags, st.integers(0, (1 << 63) - 1),
    st.integers(-(1 << 62), 1 << 62), st.integers(0, 1 << 30), st.integers(1, 1 << 31) | st.just(1), flags, flags,
)  # fmt: skip


@given(st.lists(any_name, max_size=20), st.tuples(*[st.floats(0, 1e9)] * 3))
def test_names_are_packed_in_c_as_they_are_in_python(names: list[Name], ttls: tuple[float, float, float]) -> None:
    look = Look(1000, 1001, 0o640, 0o750, *ttls)

    wanted, found = (pack(names, look) for pack in PACKERS)

    assert (found[0], list(found[1])) == (wanted[0], list(wanted[1]))


@pytest.mark.parametrize(
    "row", [(1, b"x" * 256, 0, 0, 0, 0, 1, 0, 0), (1, "text", 0, 0, 0, 0, 1, 0, 0), (1, b"x"), None, (None,) * 9]
)
def test_what_is_no_name_is_refused(row: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        PACKERS[1]([row], LOOK)  # type: ignore[list-item]  # the point of it


def test_folder_is_read_in_long_runs_however_small_the_pages() -> None:
    names = [b"%d" % number for number in range(MOST_NAMES)]

    found, reads = walk(names_of(names), [4096])

    assert found == names
    assert reads == -(-MOST_NAMES // 256) + 1


def test_reader_who_starts_in_the_middle_gets_the_rest() -> None:
    names = names_of([b"a", b"b", b"c"])

    page = Pages(packed.pack_names, LOOK).page(1, 20, 4096, lambda limit: [name for name in names if name[0] > 20])

    assert [name for name, _ in parsed(page)] == [b"c"]


def test_folder_that_changed_is_read_afresh() -> None:
    pages = Pages(packed.pack_names, LOOK)
    first = pages.page(1, 0, 4096, lambda limit: names_of([b"old"]))

    pages.forget(1)
    second = pages.page(1, 0, 4096, lambda limit: names_of([b"new"]))

    assert [[name for name, _ in parsed(page)] for page in (first, second)] == [[b"old"], [b"new"]]


def test_times_before_1970_and_parts_of_seconds_are_kept() -> None:
    reply = packed.attributes(Attributes(1, stat.S_IFDIR | 0o555, 2, 0, -1, 0, 0, 0.25))

    valid_s, valid_ns, _ = struct.unpack_from("<Q2I", reply)
    (mtime_s,) = struct.unpack_from("<q", reply, 16 + 32)
    (mtime_ns,) = struct.unpack_from("<I", reply, 16 + 52)
    assert (valid_s, valid_ns) == (0, 250_000_000)
    assert (mtime_s, mtime_ns) == (-1, 999_999_999)
