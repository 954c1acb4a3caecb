"""The cache folders of `headrace mount`: each is one mount's at a time, and holds one dataset.

`headrace-mount.json` in every cache folder says whose it is. The process that holds its lock may use the folder; the
file stays when the mount ends, as the sign that the folder is ours to write to and to empty.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from broker import kernel
from datamodel.client import ClientConfig, Tier
from datamodel.errors import Conflict, Unavailable, UserError
from ufs.registry import show_source_url

OWNER_NAME = "headrace-mount.json"
_MEMORY_OVERHEAD = 1.05
"""Room beside the quota of a memory tier for block maps and folders."""


class CacheOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Content of OWNER_NAME. *sources* maps paths in the dataset to URLs."""

    mountpoint: str
    sources: dict[str, str]


@contextlib.contextmanager
def claimed(config: ClientConfig, mountpoint: Path, uid: int) -> Iterator[None]:
    """Make the tiers' folders, hand them to user *uid*, and keep other mounts out of them.

    Raises:
        Conflict: another mount uses one. UserError: one cannot be used as a cache, or holds another dataset's.
    """
    owner = CacheOwner(
        mountpoint=str(mountpoint), sources={source.path: show_source_url(source.url) for source in config.sources}
    )
    with contextlib.ExitStack() as closing:
        for tier in config.tiers:
            closing.callback(os.close, _claim(Path(tier.path), owner, uid))
        yield


def _claim(folder: Path, owner: CacheOwner, uid: int) -> int:
    field = f"cache folder {str(folder)!r}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A disk of its own comes with lost+found.
        if not (folder / OWNER_NAME).exists() and any(entry.name != "lost+found" for entry in folder.iterdir()):
            raise UserError(f"{field}: is not empty, and no cache of headrace; give a new or an empty folder")
        lock = os.open(folder / OWNER_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"{field}: {error.strerror}; give a folder that you may write to") from error
    try:
        _take(lock, field, owner)
        _hand_over(folder, uid)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _hand_over(folder: Path, uid: int) -> None:
    """Earlier daemons may have been another user's; with many files this takes a moment, and happens once."""
    if os.geteuid() or folder.stat().st_uid == uid:
        return
    for _, folders, files, fd in os.fwalk(folder):
        for name in (*folders, *files):
            os.chown(name, uid, uid, dir_fd=fd, follow_symlinks=False)
    os.chown(folder, uid, uid)


def _take(lock: int, field: str, owner: CacheOwner) -> None:
    earlier = _read(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        whose = f"the mount at {earlier.mountpoint!r}" if earlier else "another mount"
        raise Conflict(f"{field}: in use by {whose}; a cache serves one mount: give another --cache-dir") from error
    for path, url in (earlier.sources if earlier else {}).items():
        if owner.sources.get(path, url) != url:
            raise UserError(
                f"{field}: holds what {url} had at {path!r}, not {owner.sources[path]}; "
                "give another --cache-dir, or delete that folder"
            )
    content = msgspec.json.encode(owner)
    os.pwrite(lock, content, 0)
    os.ftruncate(lock, len(content))


def _read(lock: int) -> CacheOwner | None:
    try:
        return msgspec.json.decode(os.pread(lock, 1 << 20, 0), type=CacheOwner)
    except msgspec.DecodeError:
        return None  # new, or being written


def make_memory_tier(folder: Path, quota_bytes: int, uid: int) -> Tier:
    """A tier of *quota_bytes* of memory at *folder*, for user *uid*; `localstate.clean_up` takes it away.

    Root gets a file system of that size; others a folder of `/dev/shm`, where only the quota holds.

    Raises:
        UserError: the machine has less memory. Unavailable: the kernel refused.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if quota_bytes > total:
        raise UserError(f"--memory-size: {quota_bytes} bytes are more than this machine has ({total} bytes)")
    try:
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            size = int(quota_bytes * _MEMORY_OVERHEAD) + (1 << 20)
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
            kernel.mount("headrace-memory", str(folder), "tmpfs", flags, f"size={size},mode=700,uid={uid},gid={uid}")
    except OSError as error:
        raise Unavailable(f"--memory-size: {folder}: {error.strerror}") from error
    return Tier(path=str(folder), quota_bytes=quota_bytes)
