"""Commands of a user without any privilege, wherever the interpreter and the checkout lie.

For tests that run as root in a mount namespace of their own: what nobody could reach, below /root perhaps, is shown
again where everybody can; and /dev/fuse is open to all, as distributions have it.
"""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker import kernel

UID = GID = 65534
_MS_BIND = 1 << 12
_FUSE_DEVICE = os.makedev(10, 229)
_RUN_S = 40


@dataclass(frozen=True)
class Ordinary:
    """Runs `headrace` as user nobody, whose home is *home*."""

    home: Path
    interpreter: Path
    environment: dict[str, str]

    def headrace(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run(str(self.interpreter), "-m", "headrace.main", *words)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_RUN_S, check=False, cwd="/",
            env=self.environment, user=UID, group=GID, extra_groups=[],
        )  # fmt: skip


@contextlib.contextmanager
def ordinary_user() -> Iterator[Ordinary]:
    """The calling process is root, and its mounts are private."""
    with contextlib.ExitStack() as closing:
        root = Path(tempfile.mkdtemp(prefix="headrace-ordinary-"))
        closing.callback(shutil.rmtree, root)
        root.chmod(0o755)
        (root / "home").mkdir()
        os.chown(root / "home", UID, GID)
        _open_fuse(root, closing)
        base = _shown(Path(sys.base_prefix), root / "python", closing)
        packages = _shown(Path(sysconfig.get_path("platlib")), root / "packages", closing)
        checkout = _shown(Path(__file__).resolve().parents[2], root / "checkout", closing)
        executable = Path(os.path.realpath(sys.executable))
        environment = {
            "HOME": str(root / "home"),
            "XDG_RUNTIME_DIR": str(root / "home" / "run"),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{checkout}:{packages}",
            "LD_LIBRARY_PATH": str(base / "lib"),
        }
        (root / "home" / "run").mkdir(mode=0o700)
        os.chown(root / "home" / "run", UID, GID)
        interpreter = base / executable.relative_to(sys.base_prefix)
        yield Ordinary(root / "home", interpreter, environment)


def _shown(path: Path, place: Path, closing: contextlib.ExitStack) -> Path:
    """*path*, or *place* where it is shown, if others may not enter a folder on the way to it."""
    real = path.resolve()
    if all(folder.stat().st_mode & stat.S_IXOTH for folder in (real, *real.parents)):
        return real
    place.mkdir()
    kernel.mount(str(real), str(place), "", _MS_BIND, "")
    closing.callback(kernel.umount, str(place), kernel.MNT_DETACH)
    return place


def _open_fuse(root: Path, closing: contextlib.ExitStack) -> None:
    if Path("/dev/fuse").stat().st_mode & stat.S_IWOTH:
        return
    device = root / "fuse"
    os.mknod(device, stat.S_IFCHR | 0o600, _FUSE_DEVICE)
    device.chmod(0o666)
    kernel.mount(str(device), "/dev/fuse", "", _MS_BIND, "")
    closing.callback(kernel.umount, "/dev/fuse", kernel.MNT_DETACH)
