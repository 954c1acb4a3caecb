"""A bucket of objects, or what lies below a prefix of its keys, shown as a directory tree.

A key's `/` parts directories; a directory is there as long as a key lies below it, or a key of its own name with a `/`
at its end (what consoles make for an empty folder). Where one name is both an object and a directory, the directory
shows. Keys that no path can name are hidden, with one warning: with an empty part (`a//b`), with `.` or `..` as a part,
with a name longer than 255 bytes or a NUL. The source's URL may also name a single object.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from datamodel.errors import NotFound, PermissionRefused
from obs import logs
from ufs.base import DIRECTORY, Entry, Stat, UnderFileSystem, check_path

NAME_LIMIT_BYTES = 255

log = logs.get("ufs")


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a listing: an object, or, with a `/` at its end, all keys that start so."""

    name: str
    """The whole key."""
    size: int = 0
    mtime_ns: int = 0


class Bucket(Protocol):
    """A service's objects by their keys; any text without surrogates may be asked for. Errors as in `ufs.base`."""

    def show(self, key: str) -> str:
        """*key* with the bucket in front, for messages."""

    def stat(self, key: str) -> Stat:
        """What the object *key* is now."""

    def read(self, key: str, version: str, offset: int, into: memoryview) -> int:
        """As `UnderFileSystem.read_range`."""

    def read_whole(self, key: str, limit: int) -> tuple[Stat, bytearray]:
        """As `UnderFileSystem.read_whole`."""

    def list(self, prefix: str) -> Iterator[Key]:
        """Keys that start with *prefix*, those with a further `/` cut off behind it, each once, in order of bytes."""

    def has_any(self, prefix: str) -> bool:
        """Whether a key starts with *prefix*."""

    def close(self) -> None:
        """As `UnderFileSystem.close`."""


@dataclass(frozen=True, slots=True)
class _Root:
    prefix: str
    """What every key starts with: "" or with a slash at its end."""
    only: str | None = None
    """Name of the one object shown, when the source is one."""


class ObjectFileSystem(UnderFileSystem):
    """`UnderFileSystem` over a bucket; see `ufs.base` for the contract."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        """*prefix* is what the URL names behind the bucket; which of directory and object it is, gets asked later."""
        self._bucket = bucket
        self._prefix = prefix
        self._root: _Root | None = _Root("") if not prefix else None
        self._root_lock = threading.Lock()
        self._has_warned = False

    def __repr__(self) -> str:
        return f"ObjectFileSystem({self._bucket.show(self._prefix)!r})"

    def stat(self, path: str) -> Stat:
        if not check_path(path):
            return self._stat_root()
        key = self._key(path)
        try:
            found = self._bucket.stat(key)
        except NotFound as error:
            if self._bucket.has_any(key + "/"):
                return DIRECTORY
            raise NotFound(f"{self._bucket.show(key)}: no such object, and none below it") from error
        return DIRECTORY if self._is_hidden_by_directory(key) else found

    def list(self, path: str) -> Iterator[Entry]:
        check_path(path)
        root = self._find_root()
        if root.only is not None:
            if path:
                raise NotFound(f"{self._bucket.show(self._prefix)}: is a single object; there is no {path!r} in it")
            found = self._bucket.stat(self._prefix)
            return iter((Entry(name=root.only, is_dir=False, size=found.size, mtime_ns=found.mtime_ns or None),))
        return self._list(f"{self._key(path)}/" if path else root.prefix, may_be_empty=not path)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        return self._bucket.read(self._file_key(path), version, offset, into)

    def read_whole(self, path: str, limit: int) -> tuple[Stat, bytearray]:
        return self._bucket.read_whole(self._file_key(path), limit)

    def close(self) -> None:
        self._bucket.close()

    # ---- the root --------------------------------------------------------------------------------------------------

    def _stat_root(self) -> Stat:
        root = self._find_root()
        if root.only is not None:
            self._bucket.stat(self._prefix)
        else:
            self._bucket.has_any(root.prefix)  # an empty bucket is a directory, too; one that is missing raises
        return DIRECTORY

    def _find_root(self) -> _Root:
        if self._root is None:
            with self._root_lock:
                if self._root is None:
                    self._root = self._ask_root()
        return self._root

    def _ask_root(self) -> _Root:
        folder = self._prefix if self._prefix.endswith("/") else f"{self._prefix}/"
        if self._bucket.has_any(folder):
            return _Root(folder)
        if folder == self._prefix:
            raise NotFound(f"{self._bucket.show(folder)}: the bucket has no object below it")
        self._bucket.stat(self._prefix)
        parent, slash, name = self._prefix.rpartition("/")
        return _Root(parent + slash, name)

    # ---- paths and keys --------------------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        root = self._find_root()
        if root.only is not None and path != root.only:
            raise NotFound(f"{self._bucket.show(self._prefix)}: is a single object; there is no {path!r} beside it")
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise NotFound(f"{path!r}: no object has a key that is not UTF-8") from error
        return root.prefix + path

    def _file_key(self, path: str) -> str:
        if not check_path(path):
            raise NotFound(f"{self._bucket.show(self._prefix)}: the root of a source is no file")
        return self._key(path)

    def _is_hidden_by_directory(self, key: str) -> bool:
        try:
            return self._bucket.has_any(key + "/")
        except PermissionRefused:
            return False  # who may not list sees no directories

    def _list(self, prefix: str, *, may_be_empty: bool) -> Iterator[Entry]:
        held: list[Key] = []  # objects that a directory of the same name may still follow
        count = 0
        for key in self._bucket.list(prefix):
            count += 1
            yield from _released(held, key, prefix)
            name = key.name[len(prefix) :].removesuffix("/")
            if key.name == prefix:
                continue  # the directory's own key
            if not _is_showable(name):
                self._warn(key.name)
            elif key.name.endswith("/"):
                yield Entry(name=name, is_dir=True, size=0, mtime_ns=None)
            else:
                held.append(key)
        yield from (_entry(key, prefix) for key in held)
        if count == 0 and not may_be_empty:
            raise NotFound(f"{self._bucket.show(prefix)}: the bucket has no object below it")

    def _warn(self, key: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "objects.hidden",
                key=self._bucket.show(key),
                reason="no path can name this key; there may be more",
            )


def _released(held: list[Key], now: Key, prefix: str) -> list[Entry]:
    """Take out of *held* what no directory can follow any more, as keys come in order, and what *now* hides."""
    done = [key for key in held if f"{key.name}/" < now.name]
    if held:
        held[:] = [key for key in held if f"{key.name}/" > now.name]
    return [_entry(key, prefix) for key in done]


def _entry(key: Key, prefix: str) -> Entry:
    return Entry(name=key.name[len(prefix) :], is_dir=False, size=key.size, mtime_ns=key.mtime_ns or None)


def _is_showable(name: str) -> bool:
    return name not in ("", ".", "..") and "\0" not in name and len(name.encode()) <= NAME_LIMIT_BYTES
