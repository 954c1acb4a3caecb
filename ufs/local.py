"""A folder, or a single file, of this machine: a mounted volume, a host path, a test fixture.

Symbolic links show as links as long as they lead to somewhere inside the source, whether anything is there or not; an
absolute one is rewritten to lead there from wherever the source is shown. Others are not listed and not found, and
neither are devices, sockets and pipes.
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
from ufs.links import Links

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO)
_REFUSED = (errno.EACCES, errno.EPERM)


class LocalFileSystem(UnderFileSystem):
    """`UnderFileSystem` over a path of this machine; see `ufs.base` for the contract."""

    def __init__(self, path: str) -> None:
        """*path* is absolute; it need not exist yet."""
        if not path.startswith("/") or "\0" in path:
            raise UserError(f"source url: local path {path!r} must be absolute; write local:///PATH")
        self._path = path.rstrip("/") or "/"
        self._links = Links()

    def __repr__(self) -> str:
        return f"LocalFileSystem({self._path!r})"

    def stat(self, path: str) -> Stat:
        root, inside = self._locate(path)
        if path == "":
            return DIRECTORY
        with _open(root, inside, os.O_PATH | os.O_NOFOLLOW) as fd:
            found = os.fstat(fd)
            if not modes.S_ISLNK(found.st_mode):
                return _stat_of(found, _show(root, inside))
            target = self._links.shown(root, inside, os.readlink("", dir_fd=fd))
            size = len(os.fsencode(target))
            return Stat(is_dir=False, size=size, mtime_ns=found.st_mtime_ns, version="", link_target=target)

    def list(self, path: str) -> Iterator[Entry]:
        root, inside = self._locate(path)
        if inside != path:
            name = self._path.rpartition("/")[2]
            return iter((_file_entry(name, self.stat(name)),))
        return self._scan(root, inside)

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
        with _open(root, inside, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW) as fd:
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

    def _scan(self, root: str, path: str) -> Iterator[Entry]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        with _open(root, path, flags) as fd, _translated(_show(root, path)), os.scandir(fd) as rows:
            for row in rows:
                entry = self._entry_of(root, path, fd, row)
                if entry is not None:
                    yield entry

    def _entry_of(self, root: str, folder: str, fd: int, row: os.DirEntry[str]) -> Entry | None:
        try:
            found = row.stat(follow_symlinks=False)
            if modes.S_ISLNK(found.st_mode):
                target = self._links.shown(root, _below(folder, row.name), os.readlink(row.name, dir_fd=fd))
                size = len(os.fsencode(target))
                return Entry(row.name, is_dir=False, size=size, mtime_ns=found.st_mtime_ns, link_target=target)
        except (OSError, NotFound):
            return None  # gone meanwhile, or a link that leads out: for readers it is not there
        if modes.S_ISDIR(found.st_mode):
            return Entry(row.name, is_dir=True, size=0, mtime_ns=found.st_mtime_ns)
        if not modes.S_ISREG(found.st_mode):
            return None
        return _file_entry(row.name, _stat_of(found, row.name))


def _stat_of(found: os.stat_result, where: str) -> Stat:
    if modes.S_ISDIR(found.st_mode):
        return Stat(is_dir=True, size=0, mtime_ns=found.st_mtime_ns, version="")
    if not modes.S_ISREG(found.st_mode):
        raise NotFound(f"{where}: neither a file nor a directory")
    is_executable = bool(found.st_mode & 0o111)
    return Stat(False, found.st_size, found.st_mtime_ns, _version(found), is_executable=is_executable)


def _file_entry(name: str, found: Stat) -> Entry:
    return Entry(name, is_dir=False, size=found.size, mtime_ns=found.mtime_ns, is_executable=found.is_executable)


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


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


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
