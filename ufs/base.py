"""The port to any under file system: the place where a dataset's data really lives.

Every implementation inherits from `UnderFileSystem`, is blocking and safe to call from many threads at once, keeps no
cache and does not retry; the callers decide when to ask again. It raises only classes of `datamodel.errors`:

- `NotFound`: nothing is there, or what is there may not be shown (a device, a link that leaves the source);
- `PermissionRefused`: the source wants other credentials;
- `Unavailable`: it does not answer now, `retry_after_s` as it asked;
- `VersionChanged`, `Corrupt`: what it sends is not, or not all of, what was asked for;
- `UserError`: the source cannot be used as it is configured;
- `Precondition`: `read_whole` alone, for a file longer than its limit.

A *path* is relative to the root of the source: `""` is the root, parts are joined by `/`, none is `.` or `..`. Bytes
that are not UTF-8 are carried as surrogates (`surrogateescape`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from datamodel.errors import Corrupt, NotFound, Precondition, UserError

_PIECE_BYTES = 1 << 20

Sink = Callable[[int, memoryview], bool]
"""Takes the bytes at an offset of a file; the memory is the caller's only until it returns. False: send no more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory, as far as the listing alone tells."""

    name: str
    is_dir: bool
    size: int | None
    """Exact bytes; None where the listing rounds or is silent: ask `stat`. 0 for directories."""
    mtime_ns: int | None
    """Exactly what `stat` would say, else None."""
    link_target: str | None = None
    """What a symbolic link names, where the source shows links as such; else None."""
    is_executable: bool = False


@dataclass(frozen=True, slots=True)
class Stat:
    """What one path is now."""

    is_dir: bool
    size: int
    mtime_ns: int
    """0 where the source does not say."""
    version: str
    """Opaque; differs whenever the content may differ. Empty for directories."""
    is_executable: bool = False
    link_target: str | None = None
    """As in `Entry`."""
    has_ranges: bool = True
    """False: `read_range` at an offset costs reading all bytes before it; `read_from_start` reads the file once."""


DIRECTORY = Stat(is_dir=True, size=0, mtime_ns=0, version="")


class UnderFileSystem(Protocol):
    """One source of a dataset. See the module for paths, threads and errors."""

    def stat(self, path: str) -> Stat:
        """What *path* is now; asks the source every time."""

    def list(self, path: str) -> Iterator[Entry]:
        """The names in directory *path*, in no promised order, each once.

        Raises:
            NotFound: *path* is missing or a file. Errors come at the call or while iterating.
        """

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        """Fill *into* with the bytes at *offset* of *version*; less only where the file ends.

        On an error the content of *into* is undefined.

        Returns:
            Bytes written to *into*; 0 at or behind the end of the file.

        Raises:
            VersionChanged: the source has, or cannot prove that it does not have, another version.
            Corrupt: it sent fewer bytes than it promised.
        """

    def read_whole(self, path: str, limit: int) -> tuple[Stat, bytearray]:
        """All of a file that is not longer than *limit* bytes, as it is now, and the `Stat` of exactly these bytes.

        Where an implementation can, this is one exchange with the source in place of `stat` and `read_range`.

        Raises:
            Precondition: the file is longer; nothing of it was read.
            NotFound: also for a directory.
        """
        stat = self.stat(path)
        if stat.is_dir:
            raise NotFound(f"{path!r} is a directory")
        if stat.size > limit:
            raise Precondition(f"{path!r} has {stat.size} bytes, more than {limit}")
        content = bytearray(stat.size)
        count = self.read_range(path, stat.version, 0, memoryview(content)) if content else 0
        if count < stat.size:
            raise Corrupt(f"{path!r}: {stat.size} bytes promised, {count} came")
        return stat, content

    def read_from_start(self, path: str, version: str, sink: Sink) -> None:
        """Hand *sink* every byte of *version* in order, beginning with offset 0, until it returns False.

        Whatever *sink* got is of *version* and at its place, also when an error follows.

        Raises:
            VersionChanged, Corrupt: as `read_range`, before the file is complete.
        """
        piece, offset = memoryview(bytearray(_PIECE_BYTES)), 0
        while (count := self.read_range(path, version, offset, piece)) and sink(offset, piece[:count]):
            offset += count

    def close(self) -> None:
        """Release connections and descriptors; calls under way in other threads end as they may."""


def check_path(path: str) -> str:
    """Return *path* if it has the form this module promises.

    Raises:
        UserError: it could leave the root of a source.
    """
    if path and ("\0" in path or any(part in ("", ".", "..") for part in path.split("/"))):
        raise UserError(f"path {path!r}: must be relative, without empty parts, '.', '..' and NUL")
    return path
