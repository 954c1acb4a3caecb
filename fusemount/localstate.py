"""What describes one mount of `headrace mount`, in a folder that its mount point alone leads to.

`<state>/<digest>/` holds `mount.json` (what and where), `client.json`, the token, option files, the sockets,
`status.json`, a memory tier, and a lock that the mount's process holds for as long as it runs: it is free exactly when
that process is gone, however it went. Nothing here touches the mount itself, which may be dead or stuck.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from broker import kernel, mountinfo
from broker.broker import Broker
from broker.mountinfo import Mount
from datamodel.errors import Conflict, PermissionRefused, Unavailable
from datamodel.names import RuntimeKey

KIND = "fuse.headrace"
_PLAIN_SOURCE = "headrace"


class Described(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`mount.json`: what stays the same while a mount lives."""

    mountpoint: str
    cache_dir: str
    log_file: str = ""
    """Empty: the mount logs to the terminal it was started from."""
    memory_dir: str = ""
    """Folder of the memory tier, empty without one."""


def state_root() -> Path:
    """Where mounts of this user keep what describes them."""
    if os.geteuid() == 0:
        return Path("/run/headrace")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/headrace-{os.geteuid()}", "headrace")


def state_of(mountpoint: Path) -> Path:
    """The state folder of the mount at *mountpoint*, whether it exists or not."""
    return state_root() / hashlib.blake2b(os.fsencode(mountpoint), digest_size=8).hexdigest()


def states() -> list[Path]:
    """State folders of this user, also those that a killed process left behind."""
    root = state_root()
    return sorted(path.parent for path in root.glob("*/lock")) if root.is_dir() else []


def mountpoint_of(text: str) -> Path:
    """*text* as the mount table writes it. Its parents' links are resolved; it is not touched itself: it may hang."""
    path = Path(os.path.abspath(text))
    return Path(os.path.realpath(path.parent), path.name)


def key_of(state: Path) -> RuntimeKey:
    """What the broker of *state* calls its one mount."""
    return RuntimeKey("local", "mounts", state.name)


def described(state: Path) -> Described | None:
    """What the last mount of *state* wrote about itself, if it came that far."""
    try:
        return msgspec.json.decode((state / "mount.json").read_bytes(), type=Described)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def layers(state: Path, mountpoint: Path) -> list[Mount]:
    """Mounts on *mountpoint* that processes of *state* made. Another user's are not ours to judge."""
    sources = {f"headrace:{key_of(state)}"} if os.geteuid() == 0 else {_PLAIN_SOURCE}
    table = mountinfo.at(mountinfo.read(), str(mountpoint))
    return [layer for layer in table if layer.kind == KIND and layer.source in sources]


def holder(state: Path) -> int | None:
    """Process that holds the state's lock; None when nobody does.

    Raises:
        PermissionRefused: the lock belongs to somebody else.
    """
    try:
        lock = os.open(state / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise PermissionRefused(f"{state}: belongs to another user") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(lock, 32) or b"0") or None
    finally:
        os.close(lock)
    return None


@contextlib.contextmanager
def held(state: Path, mountpoint: Path) -> Iterator[None]:
    """Hold *state* for a mount at *mountpoint*, cleaned of what an earlier process left; removed at the end.

    Raises:
        Conflict: a living process holds it. PermissionRefused: somebody else made the folder first.
    """
    lock = _locked(state, mountpoint)
    try:
        clean_up(state, mountpoint)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        try:
            yield
        finally:
            clean_up(state, mountpoint)
            (state / "lock").unlink()
            with contextlib.suppress(FileNotFoundError):
                state.rmdir()
    finally:
        os.close(lock)


def _locked(state: Path, mountpoint: Path) -> int:
    while True:
        state.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_owner(state.parent.parent)
        _check_owner(state)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == (state / "lock").stat().st_ino:
                return lock
        except FileNotFoundError:
            pass  # its last holder removed the file between our two calls: make a new one
        except BlockingIOError as error:
            os.close(lock)
            raise Conflict(
                f"MOUNTPOINT: process {holder(state)} serves {str(mountpoint)!r} already; "
                f"see `headrace status {mountpoint}`, end it with `headrace umount {mountpoint}`"
            ) from error
        os.close(lock)


def _check_owner(folder: Path) -> None:
    """In a folder that everybody may write, like /tmp, somebody else may have made ours first."""
    if folder.lstat().st_uid != os.geteuid():
        raise PermissionRefused(f"{folder} belongs to another user; set XDG_RUNTIME_DIR to a folder of your own")


def clean_up(state: Path, mountpoint: Path) -> None:
    """Take away whatever a process left that is gone: its daemons, its mounts, its files. The cache stays.

    The caller knows that the lock is free, or holds it.

    Raises:
        Unavailable: the kernel refused to unmount.
    """
    for process in _orphans(state):
        process.send_signal(signal.SIGKILL)
    while layers(state, mountpoint):
        _take_off(mountpoint)
    if (state / "local").exists():
        Broker(str(state), ()).unmount(key_of(state))
    memory = str(state / "memory")
    while mountinfo.at(mountinfo.read(), memory):
        kernel.umount(memory, kernel.MNT_DETACH)
    if (about := described(state)) and about.memory_dir and about.memory_dir != memory:
        shutil.rmtree(about.memory_dir, ignore_errors=True)  # of one user, in /dev/shm: gone is what was asked for
    for path in list(state.iterdir()) if state.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def remove(state: Path, mountpoint: Path) -> None:
    """`clean_up`, and the state folder as well."""
    clean_up(state, mountpoint)
    (state / "lock").unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        state.rmdir()


def _take_off(mountpoint: Path) -> None:
    if os.geteuid() == 0:
        kernel.umount(str(mountpoint), kernel.MNT_DETACH)
        return
    command = ["fusermount3", "-u", "-z", str(mountpoint)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Unavailable(f"{mountpoint}: `{' '.join(command)}` failed: {result.stderr.strip()}")


def _orphans(state: Path) -> list[psutil.Process]:
    """Daemons of *state* whose parent is gone; a stopped one would hold the dead mount's requests for ever."""
    config = str(state / "client.json")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "fusemount.daemon" in words and config in words:
                found.append(process)
    return found


def write_private(path: Path, content: str | bytes, uid: int) -> None:
    """Replace *path* by a file with *content* that only *uid* (and root) may read."""
    new = path.with_name(f".{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if os.geteuid() == 0 and uid:
            os.fchown(file.fileno(), uid, uid)
    new.rename(path)
