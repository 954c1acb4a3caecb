"""Values of the catalog: its rows, what a source says of a name, and how the two are compared. No database here.

Structs, since a directory may have a million of them: they are made six times as fast as frozen dataclasses.
"""

from dataclasses import dataclass
from enum import Enum

import msgspec
from msgspec.structs import replace

ROOT_ID = 1


class Node(msgspec.Struct, frozen=True, gc=False):
    """One row. *size* in bytes, None while unknown; *version* is empty until pinned.

    An odd *incarnation* means that the kernel reads the file by passthrough, an even one that the daemon serves it.
    A symbolic link has its target's text in *link_target*, whose length in bytes is its size, and no version.
    """

    id: int
    parent: int
    name: str
    is_dir: bool
    size: int | None
    mtime_ns: int | None
    """Of a directory whose source does not tell: when its names last changed, as far as anybody here noticed."""
    version: str
    incarnation: int
    listed_at: float | None
    """Directories: when their listing was taken, in seconds of the catalog's clock (`Catalog.clock`)."""
    link_target: str | None = None
    is_executable: bool = False
    folders: int = 0
    """Listed directories: how many of their children are directories."""
    is_vouched: bool = False
    """Whether the listing tells enough of this file to show a change of its content."""
    checked_at: float | None = None
    """When the source was asked for this name alone, in seconds of the catalog's clock."""


class Listed(msgspec.Struct, frozen=True, gc=False):
    """What a source says of one name."""

    name: str
    is_dir: bool
    size: int | None
    mtime_ns: int | None
    version: str = ""
    link_target: str | None = None
    is_executable: bool = False

    @property
    def is_telling(self) -> bool:
        """Whether another content under the same name would read differently."""
        return bool(self.version) or self.mtime_ns is not None


@dataclass(frozen=True, slots=True)
class Use:
    """What happened to a cached file: when it was used (Unix seconds), and what *tier* holds of it by now.

    *cached_bytes* is None where that did not change; the tier is then of no interest.
    """

    id: int
    cached_bytes: int | None
    used_at: float
    tier: int = 0


class Verdict(Enum):
    """What becomes of a known row when the source is heard."""

    SAME = 0
    SILENT = 1
    """Learned something that no reader sees, such as the version of what is shown already."""
    SHOWN = 2
    """The same content with other attributes."""
    OTHER = 3
    """Other content: it gets a row of its own."""


def compare(known: Node, entry: Listed, *, is_listing: bool) -> tuple[Verdict, Node]:
    """What *entry*, from a listing or from a question for this one name, makes of *known*."""
    if _is_other(known, entry):
        return Verdict.OTHER, known
    if _adds_nothing(known, entry, is_listing=is_listing):
        return Verdict.SAME, known
    merged = _merged(known, entry, is_listing=is_listing)
    if merged == known:
        return Verdict.SAME, known
    is_shown = (merged.size, merged.mtime_ns, merged.is_executable) != (known.size, known.mtime_ns, known.is_executable)
    return Verdict.SHOWN if is_shown else Verdict.SILENT, merged


def _adds_nothing(known: Node, entry: Listed, *, is_listing: bool) -> bool:
    """The usual case, decided fast; False proves nothing."""
    if entry.is_dir:
        return entry.mtime_ns in (None, known.mtime_ns)
    return (
        entry.size == known.size
        and entry.mtime_ns == known.mtime_ns
        and entry.is_executable == known.is_executable
        and entry.version in ("", known.version)
        and (not is_listing or entry.is_telling == known.is_vouched)
    )


def _merged(known: Node, entry: Listed, *, is_listing: bool) -> Node:
    """*known* with what *entry* adds. Nothing is forgotten, and what a pinned row says stays."""
    size, mtime_ns, version = known.size, known.mtime_ns, known.version
    if entry.is_dir or not version or mtime_ns is None:
        mtime_ns = mtime_ns if entry.mtime_ns is None else entry.mtime_ns
    is_file = not entry.is_dir and entry.link_target is None
    if is_file and not version and entry.size is not None:
        size, version = entry.size, entry.version
    is_vouched = entry.is_telling if is_listing and not entry.is_dir else known.is_vouched
    is_executable = entry.is_executable and not entry.is_dir
    return replace(
        known, size=size, mtime_ns=mtime_ns, version=version, is_executable=is_executable, is_vouched=is_vouched
    )


def _is_other(known: Node, entry: Listed) -> bool:
    """Whether *entry* is other content: another kind, target, size or version. Unknown values prove nothing."""
    if known.is_dir != entry.is_dir or known.link_target != entry.link_target:
        return True
    if entry.is_dir:
        return False
    if known.version and entry.version:
        return known.version != entry.version
    sizes_differ = known.size is not None and entry.size is not None and known.size != entry.size
    return sizes_differ or bool(
        known.version and entry.mtime_ns and known.mtime_ns and entry.mtime_ns != known.mtime_ns
    )
