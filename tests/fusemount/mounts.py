"""`headrace mount` and its relatives as a user runs them, for tests with real mounts."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from broker import mountinfo

_RUN_S = 40


@dataclass(frozen=True)
class Mounted:
    """A mount that serves *path*; *log* is what its processes wrote."""

    path: Path
    cache: Path
    log: Path

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(headrace("status", str(self.path), "-o", "json").stdout)
        return found

    def pids(self, role: str) -> list[int]:
        return [process["pid"] for process in self.status()["processes"] if process["role"] == role]


def headrace(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end; what it leaves in the background logs to a file of its own."""
    command = [sys.executable, "-m", "headrace.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=_RUN_S, check=False)


@contextlib.contextmanager
def mounted(folder: Path, *words: str) -> Iterator[Mounted]:
    """Mount *words* (sources and options) on a folder in *folder*, with its cache beside it."""
    folder.chmod(0o755)
    mount = Mounted(folder / "mnt", folder / "cache", folder / "mount.log")
    options = ("--background", "--cache-dir", str(mount.cache), "--log-file", str(mount.log))
    result = headrace("mount", *options, *words, str(mount.path))
    assert result.returncode == 0, result.stderr + mount.log.read_text()
    try:
        yield mount
    finally:
        headrace("umount", "--lazy", str(mount.path))


def layers(path: Path) -> int:
    return len(mountinfo.at(mountinfo.read(), str(path)))


def content(size: int, seed: int) -> bytes:
    return Random(seed).randbytes(size)


def digest(path: Path) -> str:
    """Of the file as `read` with a buffer of its own delivers it."""
    found = hashlib.blake2b()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 18):
            found.update(piece)
    return found.hexdigest()


def walk(root: Path, without: str) -> dict[str, bytes | None]:
    """Path to content of everything below *root* but the folder *without*; None for folders."""
    found: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders[:] = [name for name in folders if name != os.fsencode(without)]
        for name in folders:
            found[_below(root, folder, name)] = None
        for name in files:
            found[_below(root, folder, name)] = Path(os.fsdecode(folder), os.fsdecode(name)).read_bytes()
    return found


def _below(root: Path, folder: bytes, name: bytes) -> str:
    return os.path.relpath(os.fsdecode(os.path.join(folder, name)), root)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does and tells nobody."""
    import time

    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "it did not happen within 15 s"
        time.sleep(0.02)
