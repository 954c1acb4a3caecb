"""The port to any under file system: the place where a dataset's data really lives.

Every implementation is blocking and safe to call from many threads at once, keeps no cache and does not retry; the
callers decide when to ask again. It raises only classes of `datamodel.errors`:

- `NotFound`: nothing is there, or what is there may not be shown (a device, a link that leaves the source);
- `PermissionRefused`: the source wants other credentials;
- `Unavailable`: it does not answer now, `retry_after_s` as it asked;
- `VersionChanged`, `Corrupt`: what it sends is not, or not all of, what was asked for;
- `UserError`: the source cannot be used as it is configured.

A *path* is relative to the root of the source: `""` is the root, parts are joined by `/`, none is `.` or `..`. Bytes
that are not UTF-8 are carried as surrogates (`surrogateescape`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from datamodel.errors import UserError


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


@dataclass(frozen=True, slots=True)
class Stat:
    """What one path is now."""

    is_dir: bool
    size: int
    mtime_ns: int
    """0 where the source does not say."""
    version: str
    """Opaque; differs whenever the content may differ. Empty for directories."""


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
