"""The long tail of sources, through the file systems of fsspec: FTP, SFTP, HDFS, SMB, Hugging Face, GitHub.

Hardly any of them is safe to share between threads or can read on condition of a version. So each call has an instance
to itself, of a small pool, and every read is followed by a question whether the pinned version is still there: nothing
can have changed in between. A version is the best that the backend tells: a hash, else the time of the last change
with the size, else the size alone. Backends raise what they like; what comes out of here is of `datamodel.errors`, and
quotes no text of theirs, which may hold an address with a token in it.
"""

import contextlib
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from datamodel.errors import Corrupt, HeadraceError, NotFound, PermissionRefused, Unavailable, UserError, VersionChanged
from ufs.base import DIRECTORY, Entry, Sink, Stat, UnderFileSystem, check_path
from ufs.http_version import size_of

INSTANCE_LIMIT = 8
"""Connections to one source; a thread that finds all in use waits for one."""

_T = TypeVar("_T")
_HASHES = ("ETag", "etag", "checksum", "sha256", "xet_hash", "blob_id", "sha")
_TIMES = ("mtime", "modified", "last_modified", "LastModified", "modificationTime", "modify")
_FTP_TIME = re.compile(r"([0-9]{14})(?:\.[0-9]+)?")
_PIECE_BYTES = 1 << 20

Backend = Any  # fsspec has no types; what is used of it is `info`, `ls` and `open`


@dataclass(frozen=True, slots=True)
class _Root:
    path: str
    """Of the directory, without a slash at its end."""
    only: str | None
    """Name of the one file shown, when the source is a file."""


class _Lost(Unavailable):
    """The connection had ended, perhaps long ago."""


class LongTailFileSystem(UnderFileSystem):
    """`UnderFileSystem` over instances that *connect* makes; see `ufs.base` for the contract."""

    def __init__(self, connect: Callable[[], Backend], root: str, address: str, *, has_ranges: bool = True) -> None:
        """*root* is a path as the backend wants it; *address* stands before paths in messages and holds no secret."""
        self._connect = connect
        self._root_path = root.rstrip("/") or "/"
        self._address = address.rstrip("/")
        self._has_ranges = has_ranges
        self._idle: queue.LifoQueue[Backend | None] = queue.LifoQueue()
        for _ in range(INSTANCE_LIMIT):
            self._idle.put(None)
        self._root: _Root | None = None
        self._root_lock = threading.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"LongTailFileSystem({self._address!r})"

    def stat(self, path: str) -> Stat:
        check_path(path)
        root = self._find_root()
        if not path:
            self._info(self._root_path, "")
            return DIRECTORY
        return self._stat_of(path, self._info(self._place(root, path), path))

    def list(self, path: str) -> Iterator[Entry]:
        check_path(path)
        root = self._find_root()
        if root.only is not None:
            if path:
                raise NotFound(f"{self._show(path)}: the source is a single file")
            found = self.stat(root.only)
            return iter((Entry(root.only, is_dir=False, size=found.size, mtime_ns=found.mtime_ns or None),))
        place = self._place(root, path)
        try:
            rows = self._call(path, lambda backend: backend.ls(place, detail=True))
        except Unavailable:
            self._check_directory(path, place)  # of a file, some backends say that something went wrong
            raise
        if len(rows) <= 1:
            self._check_directory(path, place)  # and others list that file
        return self._entries(root, path, rows)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        place, size = self._pinned(path, version)
        wanted = into[: max(0, size - offset)]
        received = self._call(path, lambda backend: _read(backend, place, offset, wanted)) if wanted else 0
        self._check_version(path, place, version)
        if received < len(wanted):
            raise Corrupt(f"{self._show(path)}: {len(wanted)} bytes promised at {offset}, {received} came")
        return received

    def read_from_start(self, path: str, version: str, sink: Sink) -> None:
        # Whole, for nothing may be handed out before the version was checked, and there is no asking twice.
        _, size = self._pinned(path, version)
        content = memoryview(bytearray(size))
        self.read_range(path, version, 0, content)
        for offset in range(0, size, _PIECE_BYTES):
            if not sink(offset, content[offset : offset + _PIECE_BYTES]):
                return

    def close(self) -> None:
        self._is_closed = True
        while True:
            try:
                _end(self._idle.get_nowait())
            except queue.Empty:
                break
        for _ in range(INSTANCE_LIMIT):
            self._idle.put(None)  # calls that still come fail one by one, not for ever

    # ---- paths -----------------------------------------------------------------------------------------------------

    def _find_root(self) -> _Root:
        if self._root is None:
            with self._root_lock:
                if self._root is None:
                    self._root = self._ask_root()
        return self._root

    def _ask_root(self) -> _Root:
        if _kind(self._info(self._root_path, "")) == "directory":
            return _Root(self._root_path, None)
        folder, _, name = self._root_path.rpartition("/")
        return _Root(folder or "/", name)

    def _place(self, root: _Root, path: str) -> str:
        if root.only is not None and path != root.only:
            raise NotFound(f"{self._show(path)}: the source is the single file {root.only!r}")
        return f"{root.path.rstrip('/')}/{path}" if path else root.path

    def _pinned(self, path: str, version: str) -> tuple[str, int]:
        if not check_path(path):
            raise NotFound(f"{self._address}: the root of a source is no file")
        size = size_of(version)
        if size is None:
            raise VersionChanged(f"{self._show(path)}: {version!r} is no version of such a source")
        return self._place(self._find_root(), path), size

    def _show(self, path: str) -> str:
        return f"{self._address}/{path}"

    # ---- questions -------------------------------------------------------------------------------------------------

    def _info(self, place: str, path: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._call(path, lambda backend: backend.info(place))
        return found

    def _check_directory(self, path: str, place: str) -> None:
        if _kind(self._info(place, path)) != "directory":
            raise NotFound(f"{self._show(path)}: no directory")

    def _check_version(self, path: str, place: str, version: str) -> None:
        found = self._stat_of(path, self._info(place, path))
        if found.is_dir:
            raise NotFound(f"{self._show(path)}: is a directory")
        if found.version != version:
            raise VersionChanged(f"{self._show(path)}: pinned {version!r}, the source has {found.version!r}")

    def _stat_of(self, path: str, info: Mapping[str, Any]) -> Stat:
        kind = _kind(info)
        if kind == "directory":
            return DIRECTORY
        if kind != "file" or info.get("size") is None:
            raise NotFound(f"{self._show(path)}: neither a directory nor a file with a size")
        size, mtime_ns = int(info["size"]), _mtime_ns(info)
        return Stat(False, size, mtime_ns, _version(info, size, mtime_ns), has_ranges=self._has_ranges)

    def _entries(self, root: _Root, path: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
        seen: set[str] = set()
        for row in rows:
            name = str(row["name"]).rstrip("/").rpartition("/")[2]
            if name in ("", ".", "..") or name in seen:
                continue
            seen.add(name)
            kind = _kind(row)
            if kind == "directory":
                yield Entry(name, is_dir=True, size=0, mtime_ns=None)
            elif kind == "file" and row.get("size") is not None:
                yield Entry(name, is_dir=False, size=int(row["size"]), mtime_ns=_mtime_ns(row) or None)
            elif kind == "link":
                yield from self._linked(root, f"{path}/{name}" if path else name, name)

    def _linked(self, root: _Root, path: str, name: str) -> Iterator[Entry]:
        """A link to a file shows as that; one to a directory does not show, for it may lead round in circles."""
        try:
            found = self._stat_of(path, self._info(self._place(root, path), path))
        except (NotFound, PermissionRefused):
            return
        if not found.is_dir:
            yield Entry(name, is_dir=False, size=found.size, mtime_ns=found.mtime_ns or None)

    def _call(self, path: str, ask: Callable[[Backend], _T]) -> _T:
        """The answer of an instance that nobody else uses meanwhile."""
        backend = self._idle.get()
        try:
            try:
                if backend is not None:
                    return self._ask(backend, path, ask)
            except _Lost:
                _end(backend)  # servers end idle connections at any time; that costs one more try, not an error
                backend = None
            with _translated(self._show(path)):
                backend = self._connect()
            return self._ask(backend, path, ask)
        except NotFound:
            raise
        except HeadraceError:
            _end(backend)  # nobody knows what state it is in
            backend = None
            raise
        finally:
            if self._is_closed:
                _end(backend)
                backend = None
            self._idle.put(backend)

    def _ask(self, backend: Backend, path: str, ask: Callable[[Backend], _T]) -> _T:
        with _translated(self._show(path)):
            backend.invalidate_cache()
            return ask(backend)


def _read(backend: Backend, place: str, offset: int, into: memoryview) -> int:
    if hasattr(backend, "read_into"):
        return int(backend.read_into(place, offset, into))
    with backend.open(place, "rb", cache_type="none") as stream:
        if hasattr(stream, "readv"):  # SFTP: many requests under way at once
            pieces = stream.readv([(offset, len(into))])
        else:
            stream.seek(offset)
            pieces = iter(lambda: stream.read(len(into)), b"")
        filled = 0
        for piece in pieces:
            step = min(len(piece), len(into) - filled)
            into[filled : filled + step] = piece[:step]  # copy: backends bring bytes of their own
            filled += step
            if filled == len(into) or not step:
                break
        return filled


def _kind(info: Mapping[str, Any]) -> str:
    return str(info.get("type", ""))


def _version(info: Mapping[str, Any], size: int, mtime_ns: int) -> str:
    for name in _HASHES:
        if info.get(name):
            return f"{name}:{info[name]};size:{size}"
    return f"modified:{mtime_ns};size:{size}" if mtime_ns else f"none:;size:{size}"


def _mtime_ns(info: Mapping[str, Any]) -> int:
    """The time of the last change, in whichever of the forms that backends use; 0 where it is not told."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000) * 10**6
        if isinstance(value, (int, float)):
            return int(value) * 10**6 if name == "modificationTime" else int(value) * 10**9
        if isinstance(value, str) and (found := _FTP_TIME.fullmatch(value)):
            return int(datetime.strptime(found[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()) * 10**9
    return 0


def _end(backend: Backend | None) -> None:
    """Close the connection of an instance, which each kind keeps elsewhere; what fails then was lost already."""
    for name in ("ftp", "client", "session"):
        close = getattr(getattr(backend, name, None), "close", None)
        if close is not None:
            with contextlib.suppress(OSError, EOFError):
                close()


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:  # backends raise classes of dozens of packages, few of them OSError
        raise _error_of(where, error) from None  # their text may quote a token


def _error_of(where: str, error: Exception) -> HeadraceError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return NotFound(f"{where}: the source has no such path")
    if isinstance(error, ImportError):
        return UserError(f"{where}: a package is missing: {error.name or type(error).__name__}")
    if "BadHostKeyException" in kinds or ("SSHException" in kinds and "known_hosts" in str(error)):
        return UserError(f"{where}: the key of this host is not known; put it into option 'known-hosts-file'")
    if isinstance(error, PermissionError) or kinds & {"AuthenticationException", "GatedRepoError"}:
        return PermissionRefused(f"{where}: the source refuses access; check user, password, key and token")
    if kinds & {"RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError"}:
        return NotFound(f"{where}: the source has no such path")
    if "error_perm" in kinds:  # FTP: its text begins with the code
        if str(error)[:3] in ("530", "532", "331", "332"):
            return PermissionRefused(f"{where}: the source refuses the login; check user and password")
        return NotFound(f"{where}: the source refuses the path (status {str(error)[:3]})")
    is_lost = isinstance(error, (EOFError, ConnectionError)) or "SSHException" in kinds
    lost = _Lost if is_lost or "Socket is closed" in str(error) else Unavailable
    return lost(f"{where}: the exchange with the source failed: {type(error).__name__}")
