"""A folder, or a single file, of this machine: a mounted volume, a host path, a test fixture.

Symbolic links show as what they point at, as long as that is inside the source; others are not listed and not found.
So are devices, sockets and pipes, and links to a folder that contains them, which would make the tree endless.
"""

import errno
import os
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager

from datamodel.errors import (
    HeadraceError,
    NotFound,
    PermissionRefused,
    Precondition,
    Unavailable,
    UserError,
    VersionChanged,
)
from ufs.base import DIRECTORY, Entry, Stat, UnderFileSystem, check_path
from ufs.beneath import open_beneath

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO)
_REFUSED = (errno.EACCES, errno.EPERM)


class LocalFileSystem(UnderFileSystem):
    """`UnderFileSystem` over a path of this machine; see `ufs.base` for the contract."""

    def __init__(self, path: str) -> None:
        """*path* is absolute; it need not exist yet."""
        if not path.startswith("/") or "\0" in path:
            raise UserError(f"source url: local path {path!r} must be absolute; write local:///PATH")
        self._path = path.rstrip("/") or "/"

    def __repr__(self) -> str:
        return f"LocalFileSystem({self._path!r})"

    def stat(self, path: str) -> Stat:
        root, inside = self._locate(path)
        with _open(root, inside, os.O_PATH) as fd:
            return DIRECTORY if path == "" else _stat_of(os.fstat(fd), _show(root, inside))

    def list(self, path: str) -> Iterator[Entry]:
        root, inside = self._locate(path)
        if inside != path:
            name = self._path.rpartition("/")[2]
            return iter((_file_entry(name, self.stat(name)),))
        return _scan(root, inside)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        with self._open_file(path) as (fd, where):
            _check_version(fd, where, version)
            filled = _fill(fd, offset, into)
            _check_version(fd, where, version)
            return filled

    def read_whole(self, path: str, limit: int) -> tuple[Stat, bytearray]:
        with self._open_file(path) as (fd, where):
            stat = _stat_of(os.fstat(fd), where)
            if stat.is_dir:
                raise NotFound(f"{where}: is a directory")
            if stat.size > limit:
                raise Precondition(f"{where}: has {stat.size} bytes, more than {limit}")
            content = bytearray(stat.size)
            _fill(fd, 0, memoryview(content))
            _check_version(fd, where, stat.version)
            return stat, content

    def close(self) -> None:
        """Nothing stays open between calls."""

    @contextmanager
    def _open_file(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor to read *path* by, and its name for messages."""
        root, inside = self._locate(path)
        if not path:
            raise NotFound(f"{self._path}: the root of a source is no file")
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        with _open(root, inside, os.O_RDONLY | os.O_NONBLOCK) as fd:
            yield fd, _show(root, inside)

    def _locate(self, path: str) -> tuple[str, str]:
        """The folder that must not be left and the path in it, which is another than *path* for the root of a file."""
        check_path(path)
        with _translated(self._path):
            is_dir = modes.S_ISDIR(os.stat(self._path).st_mode)
        if is_dir:
            return self._path, path
        name = self._path.rpartition("/")[2]
        if path not in ("", name):
            raise NotFound(f"{self._path}: {path!r}: the source is the single file {name!r}")
        folder, _, inside = os.path.realpath(self._path).rpartition("/")
        return folder or "/", inside


def _scan(root: str, path: str) -> Iterator[Entry]:
    with _open(root, path, os.O_RDONLY | os.O_DIRECTORY) as fd, _translated(_show(root, path)), os.scandir(fd) as rows:
        for row in rows:
            entry = _entry_of(root, path, row)
            if entry is not None:
                yield entry


def _entry_of(root: str, folder: str, row: os.DirEntry[str]) -> Entry | None:
    try:
        found = _follow(root, folder, row.name) if row.is_symlink() else row.stat(follow_symlinks=False)
    except (OSError, NotFound, PermissionRefused):
        return None  # gone meanwhile, or a link that shows nothing: for readers it is not there
    if modes.S_ISDIR(found.st_mode):
        return Entry(name=row.name, is_dir=True, size=0, mtime_ns=None)
    if not modes.S_ISREG(found.st_mode):
        return None
    return Entry(name=row.name, is_dir=False, size=found.st_size, mtime_ns=found.st_mtime_ns)


def _follow(root: str, folder: str, name: str) -> os.stat_result:
    with _open(root, f"{folder}/{name}" if folder else name, os.O_PATH) as fd:
        found = os.fstat(fd)
    if modes.S_ISDIR(found.st_mode) and _is_above(root, folder, found):
        raise NotFound(f"{_show(root, folder)}/{name}: the link points at a folder that contains it")
    return found


def _is_above(root: str, folder: str, found: os.stat_result) -> bool:
    parts = folder.split("/") if folder else []
    for depth in range(len(parts) + 1):
        with _open(root, "/".join(parts[:depth]), os.O_PATH) as fd:
            if os.path.samestat(os.fstat(fd), found):
                return True
    return False


def _stat_of(found: os.stat_result, where: str) -> Stat:
    if modes.S_ISDIR(found.st_mode):
        return DIRECTORY
    if not modes.S_ISREG(found.st_mode):
        raise NotFound(f"{where}: neither a file nor a directory")
    return Stat(is_dir=False, size=found.st_size, mtime_ns=found.st_mtime_ns, version=_version(found))


def _file_entry(name: str, found: Stat) -> Entry:
    return Entry(name=name, is_dir=False, size=found.size, mtime_ns=found.mtime_ns)


def _version(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_size}-{found.st_ino}"


def _fill(fd: int, offset: int, into: memoryview) -> int:
    filled = 0
    while filled < len(into) and (count := os.preadv(fd, [into[filled:]], offset + filled)):
        filled += count
    return filled


def _check_version(fd: int, where: str, version: str) -> None:
    found = os.fstat(fd)
    if not modes.S_ISREG(found.st_mode):
        raise NotFound(f"{where}: no file")
    if _version(found) != version:
        raise VersionChanged(f"{where}: pinned {version!r}, the source has {_version(found)!r}")


def _show(root: str, path: str) -> str:
    return f"{root}/{path}" if path else root


@contextmanager
def _open(root: str, path: str, flags: int) -> Iterator[int]:
    with _translated(_show(root, path)):
        fd = open_beneath(root, path, flags)
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _error_of(where, error) from error


def _error_of(where: str, error: OSError) -> HeadraceError:
    if error.errno in _MISSING:
        return NotFound(f"{where}: {error.strerror}")
    if error.errno in _REFUSED:
        return PermissionRefused(f"{where}: {error.strerror}; the process runs as uid {os.geteuid()}")
    if error.errno == errno.ENOSYS:
        return UserError(f"{where}: local sources need Linux 5.6 or later (openat2)")
    return Unavailable(f"{where}: {error.strerror}")
