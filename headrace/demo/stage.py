"""What both parts of the demo stand on: a folder that goes away, an origin with real files, and a table of results.

Whatever ends the demo, Ctrl-C included, what was started is ended and what was made is removed.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from broker.kernel import MS_PRIVATE, MS_REC
from datamodel.errors import Corrupt
from datamodel.names import DAEMON_UID
from headrace.demo.origin import Origin

SMALL_FILES = 200
SMALL_FOLDER = "small files"
_CLONE_NEWNS = 0x00020000
_PR_SET_PDEATHSIG = 1
_READ_DEADLINE_S = 120.0
_END_DEADLINE_S = 30.0


class Stage(contextlib.ExitStack):
    """A folder *work* with an origin of two large files of *size* bytes and many small ones, at *bytes_per_s*."""

    def __init__(self, size: int, bytes_per_s: int) -> None:
        super().__init__()
        self.size, self.bytes_per_s = size, bytes_per_s
        self.rows: list[tuple[str, str]] = []

    def __enter__(self) -> "Stage":
        self.work = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
        self.callback(shutil.rmtree, self.work)
        self.work.chmod(0o755)
        self.files = self.work / "origin"
        try:
            self.digest = self._make_files()
        except BaseException:
            self.close()
            raise
        self.origin = Origin(self.files, self.bytes_per_s)
        self.callback(self.origin.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        try:
            return super().__exit__(kind, error, traceback)
        finally:
            signal.signal(signal.SIGINT, before)

    def row(self, what: str, value: str) -> None:
        """Print one line of the table."""
        print(f"  {what:<62} {value}", flush=True)
        self.rows.append((what, value))

    def start(self, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
        """Run *command* until the stage ends, with its output in *log*; it ends with us even if we are killed."""
        file = self.enter_context(log.open("ab"))
        libc = ctypes.CDLL(None)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )  # fmt: skip
        self.callback(_end, process)
        return process

    def reader(self, command: list[str]) -> "subprocess.Popen[str]":
        """Start *command* as user nobody, or as ourselves where nobody could not reach the stage."""
        folders = (self.work, *self.work.parents)
        is_open = all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)
        switch = {"user": DAEMON_UID, "group": DAEMON_UID, "extra_groups": []} if not os.geteuid() and is_open else {}
        process: subprocess.Popen[str] = subprocess.Popen(
            command,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **switch,  # type: ignore[call-overload]  # mypy cannot match the keywords
        )
        return process

    def timed(self, command: list[str]) -> tuple[float, str]:
        """Seconds and output of *command*, run by `reader`.

        Raises:
            Corrupt: it failed.
        """
        start = time.monotonic()
        process = self.reader(command)
        try:
            output, errors = process.communicate(timeout=_READ_DEADLINE_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise Corrupt(f"{command[0]} failed with code {process.returncode}: {errors.strip()}")
        return time.monotonic() - start, output

    def rate(self, file: Path) -> str:
        """Speed of one reader of *file*."""
        seconds, _ = self.timed(["dd", f"if={file}", "of=/dev/null", "bs=1M"])
        return f"{self.size / seconds / (1 << 20):,.0f} MiB/s"

    def small_rate(self, folder: Path) -> str:
        """Speed of one reader of the small files."""
        seconds, _ = self.timed(["cat", *map(str, sorted(folder.iterdir()))])
        return f"{SMALL_FILES / seconds:,.0f} files/s"

    def check(self, file: Path) -> None:
        """Compare the bytes of a large file with those of the origin.

        Raises:
            Corrupt: they differ.
        """
        _, output = self.timed(["sha256sum", str(file)])
        if output.split()[0] != self.digest:
            raise Corrupt(f"{file}: the bytes read are not those of the origin")
        self.row(f"SHA-256 of {file.name}", "as at the origin")

    def _make_files(self) -> str:
        """Returns the SHA-256 of both large files."""
        (self.files / SMALL_FOLDER).mkdir(parents=True)
        digest = hashlib.sha256()
        with (self.files / "first.bin").open("wb") as first, (self.files / "second.bin").open("wb") as second:
            for _ in range(self.size >> 20):
                piece = os.urandom(1 << 20)
                digest.update(piece)
                first.write(piece)
                second.write(piece)
        for number in range(SMALL_FILES):
            (self.files / SMALL_FOLDER / f"Nº {number}.txt").write_bytes(os.urandom(4096))
        return digest.hexdigest()


def enter_private_mounts() -> None:
    """Give this process and its children a mount table of their own, so that no mount of theirs can stay.

    Raises:
        OSError: not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a private mount namespace was refused")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_DEADLINE_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
