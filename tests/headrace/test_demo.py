"""`headrace demo` for a user without root, and interrupted. .ci/run runs the whole of it as root."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fusemount.mounts import until
from tests.fusemount.ordinary import Ordinary, ordinary_user

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

_ENDS_WITHIN_S = 40


@pytest.fixture(scope="module")
def user(private_mounts: None) -> Iterator[Ordinary]:
    with ordinary_user() as made:
        yield made


def processes_of(folder: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


def test_user_without_root_sees_what_works_without(user: Ordinary) -> None:
    result = user.run(
        "env", f"TMPDIR={user.home}", str(user.interpreter), "-m", "headrace.main", "demo", "--size", "4MiB"
    )

    assert result.returncode == 0, result.stderr
    assert "as at the origin" in result.stdout
    assert "Not shown without root" in result.stdout
    assert not list(user.home.glob("headrace-demo-*"))


def test_interrupted_demo_leaves_no_process_no_mount_and_no_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.main", "demo", "--size", "64MiB", "--origin-speed", "1MiB"]
    demo = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "headrace mount" in line and "http" in line:
            break  # the cold read has begun, which takes a minute
    assert processes_of(tmp_path)

    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does

    _, errors = demo.communicate(timeout=_ENDS_WITHIN_S)
    assert demo.returncode == 130
    assert "Traceback" not in errors
    until(lambda: not processes_of(tmp_path))
    assert not list(tmp_path.glob("headrace-demo-*"))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
