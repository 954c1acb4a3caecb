"""What survives a restart, and what does not stop one."""

from pathlib import Path

import msgspec
import pytest

from csi.records import Publication, Records, RuntimeRecord, StagedVolume, write_atomically
from csi.values import AccessMode, Capability, CleanPolicy
from datamodel.errors import Unavailable
from tests.csi.scene import KEY, LABEL, STAGING, TARGET

RECORD = RuntimeRecord(
    str(KEY),
    LABEL,
    CleanPolicy.ON_DEMAND,
    {"v": StagedVolume(STAGING, Capability(AccessMode.MULTI_NODE_READER_ONLY, "fuse", ("noexec", "ro")))},
    {TARGET: Publication("v", AccessMode.MULTI_NODE_READER_ONLY, True, "train", True)},
)


def test_record_is_the_same_after_a_restart(tmp_path: Path) -> None:
    Records(tmp_path).put(RECORD)

    again = Records(tmp_path)

    assert again.get(KEY) == RECORD
    assert again.of_volume("v") == RECORD
    assert again.of_volume("w") is None


def test_record_is_for_our_eyes_only_and_holds_no_secret(tmp_path: Path) -> None:
    Records(tmp_path / "runtimes").put(RECORD)
    file = tmp_path / "runtimes" / "cache.default.demo.json"

    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "runtimes").stat().st_mode & 0o777 == 0o700
    assert msgspec.json.decode(file.read_bytes()).keys() == {
        "key", "label_key", "clean_policy", "staged", "published", "version",
    }  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b'{"key": 1}', b'{"key": "../../etc", "label_key": "x"}', None],
)
def test_unreadable_record_is_put_aside_and_the_others_are_kept(tmp_path: Path, content: bytes | None) -> None:
    Records(tmp_path).put(RECORD)
    from_the_future = msgspec.json.encode(msgspec.structs.replace(RECORD, version=2))
    (tmp_path / "cache.default.broken.json").write_bytes(from_the_future if content is None else content)

    records = Records(tmp_path)

    assert records.all() == [RECORD]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cache.default.broken.unreadable",
        "cache.default.demo.json",
    ]


def test_rest_of_an_interrupted_write_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".cache.default.demo.json.1").write_bytes(b'{"key"')

    assert Records(tmp_path).all() == []


def test_change_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(RECORD)
    (tmp_path / "cache.default.demo.json").unlink()
    (tmp_path / "cache.default.demo.json").mkdir()

    with pytest.raises(Unavailable, match="record of cache/default/demo"):
        records.change(KEY, lambda record: msgspec.structs.replace(record, staged={}))

    assert records.get(KEY) == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["cache.default.demo.json"]


def test_forgetting_succeeds_without_a_disk(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(RECORD)
    (tmp_path / "cache.default.demo.json").unlink()
    (tmp_path / "cache.default.demo.json").mkdir()

    records.forget(KEY, lambda record: msgspec.structs.replace(record, staged={}))

    assert records.of_volume("v") is None


def test_atomic_write_does_not_follow_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "file").symlink_to(victim)

    write_atomically(tmp_path / "file", b"new")

    assert victim.read_text() == "precious"
    assert (tmp_path / "file").read_bytes() == b"new"
