"""The mount table, line by line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from broker import mountinfo

PLAIN = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"


def test_fields_of_a_line() -> None:
    (mount,) = mountinfo.parse(PLAIN)

    assert (mount.mount_id, mount.device, mount.root, mount.target) == (36, "98:0", "/mnt1", "/mnt2")
    assert mount.options == {"rw", "noatime"}
    assert (mount.kind, mount.source, mount.is_read_only) == ("ext3", "/dev/root", False)


@pytest.mark.parametrize("optional", [b"", b"shared:7 ", b"shared:7 master:1 propagate_from:2 "])
def test_number_of_optional_fields_does_not_matter(optional: bytes) -> None:
    (mount,) = mountinfo.parse(b"1 2 0:5 / /x ro " + optional + b"- fuse.headrace src ro\n")

    assert (mount.kind, mount.source, mount.is_read_only) == ("fuse.headrace", "src", True)


def test_octal_escapes_are_decoded() -> None:
    line = rb"1 2 0:5 /a\040b /m\011n\012o\134p\303\244 ro - fuse.headrace head\040race ro" + b"\n"

    (mount,) = mountinfo.parse(line)

    assert (mount.root, mount.target, mount.source) == ("/a b", "/m\tn\no\\pä", "head race")


def test_path_that_is_not_utf_8_keeps_its_bytes() -> None:
    (mount,) = mountinfo.parse(b"1 2 0:5 / /m\xff ro - tmpfs none rw\n")

    assert mount.target.encode(errors="surrogateescape") == b"/m\xff"


@given(some.integers(min_value=0, max_value=len(PLAIN)))
def test_torn_last_line_hides_no_other(cut: int) -> None:
    mounts = mountinfo.parse(PLAIN + PLAIN.replace(b"36", b"37")[:cut])

    assert mounts[0].mount_id == 36
    assert len(mounts) in (1, 2)


@given(some.binary(max_size=200))
def test_garbage_is_no_mount_or_an_error_of_the_number_only(garbage: bytes) -> None:
    assert mountinfo.parse(garbage.replace(b" - ", b"")) == []


def test_layers_of_one_target_come_in_order() -> None:
    lower, upper = PLAIN, PLAIN.replace(b"36", b"37")
    other = PLAIN.replace(b"/mnt2", b"/mnt3")

    assert [mount.mount_id for mount in mountinfo.at(mountinfo.parse(lower + other + upper), "/mnt2")] == [36, 37]


def test_table_is_read_until_two_reads_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [PLAIN[:20], PLAIN, PLAIN, b"too late"]
    monkeypatch.setattr(Path, "read_bytes", lambda _: texts.pop(0))

    assert len(mountinfo.read("/any")) == 1


def test_own_table_has_the_root() -> None:
    assert mountinfo.at(mountinfo.read(), "/")
