"""Directories that come back to themselves, as a link on the server to a folder above makes them: where to stop.

Nothing in HTTP tells such a link from a folder, so a walk would never end. A directory whose own name stands on its
path twice already is compared with those two; it is the same one again if all three list the same. Where only folders
are listed, as in trees that are split by the digits of a hash, that takes more repetitions.
"""

from collections.abc import Callable, Iterator, Sequence

from obs import logs
from ufs.base import Entry

DEPTH_LIMIT = 100
PATH_LIMIT_BYTES = 4095
"""No program can open a longer path anyway (PATH_MAX)."""

_REPEATS, _REPEATS_OF_FOLDERS = 2, 7

log = logs.get("ufs")


def is_too_deep(path: str, source: str) -> bool:
    """Whether *path* lies deeper than any real tree; says so in the log."""
    size = len(path.encode("utf-8", "surrogateescape"))
    if path.count("/") < DEPTH_LIMIT and size <= PATH_LIMIT_BYTES:
        return False
    log.warning("listing.cut", source=source, path=path[:200], reason="deeper than any tree; a loop on the server?")
    return True


def is_loop(path: str, entries: Sequence[Entry], again: Callable[[str], Sequence[Entry]], source: str) -> bool:
    """Whether directory *path* with *entries* is one of those above it; *again* lists another one of the source."""
    earlier = list(_namesakes(path))
    needed = _REPEATS if any(not entry.is_dir for entry in entries) else _REPEATS_OF_FOLDERS
    if not entries or len(earlier) < needed:
        return False
    here = set(entries)
    if any(set(again(other)) != here for other in earlier[-needed:]):
        return False
    log.warning("listing.cut", source=source, path=path, same_as=earlier[0], reason="a link on the server to itself")
    return True


def _namesakes(path: str) -> Iterator[str]:
    """The directories above *path* that have its own last name, topmost first."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        if parts[depth - 1] == parts[-1]:
            yield "/".join(parts[:depth])
