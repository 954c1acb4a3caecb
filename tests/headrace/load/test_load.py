"""`headrace load` and `headrace refresh` on real mounts."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fusemount.mounts import content, headrace, mounted, until
from tests.ufs.servers import nginx

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

MIB = 1 << 20
_ENDS_WITHIN_S = 40


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "many").mkdir(parents=True)
    (root / "large").write_bytes(content(6 * MIB + 1, 1))
    for number in range(40):
        (root / "many" / f"{number}").write_bytes(content(1000 + number, number))
    root.chmod(0o755)
    return root


def test_loaded_files_need_no_source_and_are_not_read_again(tree: Path, tmp_path: Path) -> None:
    server = contextlib.ExitStack()
    url = server.enter_context(nginx(tree, tmp_path, "autoindex on;"))
    with server, mounted(tmp_path, url) as mount:
        first = headrace("load", str(mount.path))
        assert (first.returncode, "1 could not" in first.stderr) == (0, False), first.stderr
        # What is cached is written down a moment after it is.
        until(lambda: "0 files, 0.00B loaded" in headrace("load", str(mount.path)).stderr)
        second = headrace("load", str(mount.path))
        server.close()

        assert (second.returncode, "41 were cached" in second.stderr) == (0, True), second.stderr
        assert (mount.path / "large").read_bytes() == content(6 * MIB + 1, 1)
        assert (mount.path / "many" / "7").read_bytes() == content(1007, 7)


def test_files_that_cannot_be_loaded_are_listed(tree: Path, tmp_path: Path) -> None:
    with (
        nginx(tree, tmp_path, "autoindex on; location = /many/5 { return 403; }") as url,
        mounted(tmp_path, url) as mount,
    ):
        whole = headrace("load", "--quiet", str(mount.path))
        part = headrace("load", str(mount.path / "large"), str(mount.path / "many" / "7"))

    assert (whole.returncode, part.returncode) == (1, 0)
    assert f"{mount.path}/many/5: " in whole.stderr
    assert "1 could not be loaded" in whole.stderr


def test_interrupted_load_says_how_to_go_on(tree: Path, tmp_path: Path) -> None:
    with nginx(tree, tmp_path, "autoindex on;") as url, mounted(tmp_path, url) as mount:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "headrace.main", "load", "--rate", "100KiB/s", str(mount.path)]
        process = subprocess.Popen(command, stderr=theirs)
        os.close(theirs)
        until(lambda: mount.status()["reads"]["bytes"] > 0)

        process.send_signal(signal.SIGINT)

        assert process.wait(_ENDS_WITHIN_S) == 130
        with contextlib.suppress(OSError):  # a terminal whose other side is closed ends with EIO
            text = b""
            while piece := os.read(ours, 65536):
                text += piece
        os.close(ours)
        assert b"The same command goes on from here" in text
        assert b"Traceback" not in text
        assert b"\r" in text.replace(b"\r\n", b"")  # a bar, drawn again and again


def test_refresh_shows_what_is_new_and_hides_what_is_gone(tree: Path, tmp_path: Path) -> None:
    with nginx(tree, tmp_path, "autoindex on;") as url, mounted(tmp_path, url) as mount:
        before = set(os.listdir(mount.path / "many"))
        (tree / "many" / "new").write_bytes(b"new")
        (tree / "many" / "3").unlink()
        shutil.rmtree(tree / "none", ignore_errors=True)
        assert set(os.listdir(mount.path / "many")) == before

        result = headrace("refresh", str(mount.path / "many"))

        assert result.returncode == 0, result.stderr
        until(lambda: set(os.listdir(mount.path / "many")) == before - {"3"} | {"new"})
        assert (mount.path / "many" / "new").read_bytes() == b"new"
