"""Sessions of a cache: whom the next one believes."""

import subprocess
import sys
from pathlib import Path

import pytest

from blockcache import session
from blockcache.session import Session


def test_processes_at_the_same_time_share_a_session(tmp_path: Path) -> None:
    first, second = Session(tmp_path), Session(tmp_path)

    assert first.digest == second.digest
    first.close()
    second.close()


def test_session_that_ended_well_goes_on(tmp_path: Path) -> None:
    first, second = Session(tmp_path), Session(tmp_path)
    first.close()
    second.close()

    third = Session(tmp_path)

    assert third.digest == first.digest
    assert third.is_continued
    third.close()


def test_one_process_that_leaves_does_not_end_the_session(tmp_path: Path) -> None:
    first, second = Session(tmp_path), Session(tmp_path)
    first.close()

    third = Session(tmp_path)

    assert third.digest == second.digest
    third.close()
    second.close()


def killed(folder: Path) -> bytes:
    """The digest of a session whose only process was killed."""
    code = (
        "import sys; from pathlib import Path; from blockcache.session import Session\n"
        f"session = Session(Path({str(folder)!r})); print(session.digest.hex(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = bytes.fromhex(process.stdout.readline().decode())
        process.kill()
    return found


def test_session_that_was_killed_is_not_believed(tmp_path: Path) -> None:
    before = killed(tmp_path)

    after = Session(tmp_path)

    assert after.digest != before
    assert not after.is_continued
    after.close()


def test_one_killed_among_several_does_not_end_the_session(tmp_path: Path) -> None:
    first = Session(tmp_path)

    assert killed(tmp_path) == first.digest

    second = Session(tmp_path)
    assert second.digest == first.digest
    first.close()
    second.close()
    third = Session(tmp_path)
    assert third.is_continued
    third.close()


def test_next_boot_does_not_believe_even_what_ended_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Session(tmp_path)
    first.close()
    (tmp_path / "boot_id").write_text("another boot\n")
    monkeypatch.setattr(session, "_BOOT", tmp_path / "boot_id")

    second = Session(tmp_path)

    assert second.digest != first.digest
    assert not second.is_continued
    second.close()


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"boot": 1}', bytes(100)])
def test_torn_state_is_not_believed(tmp_path: Path, garbage: bytes) -> None:
    first = Session(tmp_path)
    first.close()
    (tmp_path / "session.json").write_bytes(garbage)

    second = Session(tmp_path)

    assert second.digest != first.digest
    second.close()
