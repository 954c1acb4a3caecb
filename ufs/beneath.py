"""Open paths below a folder so that no symbolic link, however it changes meanwhile, leads out of it."""

import ctypes
import errno
import os

_SYS_OPENAT2 = 437  # one number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(root: str, path: str, flags: int) -> int:
    """A descriptor of *path* below *root* (`""` is *root* itself); links are followed while they stay inside.

    With O_NOFOLLOW in *flags* the last part is not followed: with O_PATH the descriptor is the link's own then.

    Raises:
        OSError: as open(2); EXDEV where a link leads out of *root*.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return _openat2(root_fd, path or ".", flags, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        # The kernel refuses every absolute link. One that points back inside is resolved here, and the result must
        # hold no link on the way, so a link that changes in between makes the open fail and never escape.
        if flags & os.O_NOFOLLOW:
            folder, _, name = path.rpartition("/")
            resolved = os.path.join(_resolve_inside(root, folder), name)
        else:
            resolved = _resolve_inside(root, path)
        return _openat2(root_fd, resolved, flags, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    finally:
        os.close(root_fd)


def _resolve_inside(root: str, path: str) -> str:
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, path))
    if real != real_root and not real.startswith(real_root.rstrip("/") + "/"):
        raise OSError(errno.EXDEV, "leads out of the source")
    return os.path.relpath(real, real_root)


def _openat2(folder_fd: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    while True:
        fd = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(folder_fd),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        # EAGAIN: a rename elsewhere raced with a ".." in a link; asking again is what openat2(2) recommends.
        if code not in (errno.EINTR, errno.EAGAIN):
            raise OSError(code, os.strerror(code))
