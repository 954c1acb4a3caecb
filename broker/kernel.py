"""The system calls that Python's os module lacks, as thin functions that raise OSError.

Numbers and layouts: Linux UAPI headers (`asm-generic/unistd.h`, `linux/mount.h`, `linux/openat2.h`, `linux/fuse.h`);
the numbers used here are the same on every architecture.
"""

import ctypes
import fcntl
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 428, 429, 437, 442
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

_FUSE_DEV_IOC_CLONE = 0x8004E500
_FUSE_DEV_IOC_BACKING_OPEN = 0x4010E501
_FUSE_DEV_IOC_BACKING_CLOSE = 0x4004E502


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    _check(_libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode()), f"mount {target}")


def remount_writable(target: str) -> None:
    """Make the file system at *target* writable, superblock and all, where it is mounted read-only."""
    flags = MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC
    _check(_libc.mount(None, os.fsencode(target), None, flags, None), f"remount {target}")


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW), f"umount {target}")


def open_beneath(root_fd: int, path: str, flags: int) -> int:
    """Open *path* relative to *root_fd*, refusing `..` out of it and every symbolic link on the way.

    Raises:
        OSError: EXDEV where the path leaves the root, ELOOP where it meets a link.
    """
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    fd = _libc.syscall(_SYS_OPENAT2, root_fd, os.fsencode(path or "."), how, len(how))
    return _check(fd, f"open {path!r}")


def clone_tree(fd: int) -> int:
    """A detached copy of the mount that the O_PATH *fd* stands on, rooted at *fd*."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    return _check(_libc.syscall(_SYS_OPEN_TREE, fd, b"", flags), "open_tree")


def set_mount_attributes(tree_fd: int, attributes: int) -> None:
    """Set MOUNT_ATTR_* on a detached mount, before anybody can see it."""
    what = struct.pack("<QQQQ", attributes, 0, 0, 0)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, tree_fd, b"", _AT_EMPTY_PATH, what, len(what)), "mount_setattr")


def attach_tree(tree_fd: int, target_fd: int) -> None:
    """Mount the detached *tree_fd* on the folder *target_fd*; on top of what is mounted there already."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _check(_libc.syscall(_SYS_MOVE_MOUNT, tree_fd, b"", target_fd, b"", flags), "move_mount")


def clone_fuse_device(fuse_fd: int) -> int:
    """One more device of the same FUSE connection."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _FUSE_DEV_IOC_CLONE, struct.pack("<I", fuse_fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def open_backing(fuse_fd: int, file_fd: int) -> int:
    """Register *file_fd* for passthrough; returns the backing id (> 0). Needs CAP_SYS_ADMIN."""
    # Only a mutable buffer makes fcntl.ioctl return the call's result, which is the id.
    return int(fcntl.ioctl(fuse_fd, _FUSE_DEV_IOC_BACKING_OPEN, bytearray(struct.pack("=iIQ", file_fd, 0, 0))))


def close_backing(fuse_fd: int, backing_id: int) -> None:
    fcntl.ioctl(fuse_fd, _FUSE_DEV_IOC_BACKING_CLOSE, bytearray(struct.pack("<I", backing_id)))
