"""Replies of the FUSE protocol as the kernel takes them. Format: linux/fuse.h, little endian, 7.23 and later."""

import stat
import struct
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from blockcache.catalog import Name
from fusemount.nodes import INCARNATION_BITS, number, row_of

KEEP_CACHE, CACHE_DIR, NOFLUSH, PASSTHROUGH = 1 << 1, 1 << 3, 1 << 5, 1 << 7
"""Flags of an open reply (FOPEN_*)."""
BLOCK_BYTES = 4096

_NS = 1_000_000_000
_U64 = (1 << 64) - 1
_ATTR = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<4Q2I")
_ATTR_HEAD = struct.Struct("<Q2I")
_OPEN = struct.Struct("<Q2I")
_DIRENT = struct.Struct("<2Q2I")

ENTRY_BYTES = _ENTRY.size + _ATTR.size
"""Of the answer to LOOKUP."""


class Attributes(NamedTuple):
    """Of one inode. *mode* as in stat(2); *mtime_ns* since the epoch; *ttl_s* how long the kernel may keep them."""

    node_id: int
    mode: int
    links: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    ttl_s: float


def entry(found: Attributes) -> bytes:
    """struct fuse_entry_out: the answer to LOOKUP."""
    seconds, nanoseconds = _split(found.ttl_s)
    head = _ENTRY.pack(found.node_id, 0, seconds, seconds, nanoseconds, nanoseconds)
    return head + _attr(found)


def absent(ttl_s: float) -> bytes:
    """The answer to LOOKUP of a name that does not exist, which the kernel may believe for *ttl_s*."""
    seconds, nanoseconds = _split(ttl_s)
    return _ENTRY.pack(0, 0, seconds, 0, nanoseconds, 0) + bytes(_ATTR.size)


def attributes(found: Attributes) -> bytes:
    """struct fuse_attr_out: the answer to GETATTR."""
    return _ATTR_HEAD.pack(*_split(found.ttl_s), 0) + _attr(found)


def opened(handle: int, flags: int, backing_id: int) -> bytes:
    """struct fuse_open_out: the answer to OPEN and OPENDIR."""
    return _OPEN.pack(handle, flags, backing_id)


def folder_entry(found: Attributes, name: bytes, offset: int) -> bytes:
    """struct fuse_direntplus: one name of a READDIRPLUS answer; the listing goes on behind it from *offset*."""
    head = _DIRENT.pack(row_of(found.node_id), offset, len(name), found.mode >> 12)
    return entry(found) + head + name + bytes(-len(name) % 8)


class Look(NamedTuple):
    """What all inodes of a mount have in common: owner, permissions, and how long the kernel may keep what it is told.

    *settled_ttl_s* is for folders and what is read by passthrough, *incomplete_ttl_s* for files that may turn to it,
    *unlisted_ttl_s* for folders whose number of links is still to be counted.
    """

    uid: int
    gid: int
    file_mode: int
    folder_mode: int
    settled_ttl_s: float
    incomplete_ttl_s: float
    unlisted_ttl_s: float

    def attributes(self, name: Name) -> Attributes:
        """Of the inode that a lookup of *name* leads to."""
        row, _, is_dir, size, mtime_ns, incarnation, links, is_link, is_executable = name
        mode = stat.S_IFREG | self.file_mode
        ttl_s = self.settled_ttl_s if incarnation % 2 else self.incomplete_ttl_s
        if is_dir:
            incarnation, mode = 0, stat.S_IFDIR | self.folder_mode
            ttl_s = self.settled_ttl_s if links > 1 else self.unlisted_ttl_s
        elif is_link:
            mode = stat.S_IFLNK | 0o777
        elif is_executable:
            mode |= (self.file_mode & 0o444) >> 2
        return Attributes(number(row, incarnation), mode, links, size, mtime_ns, self.uid, self.gid, ttl_s)


PackNames = Callable[[list[Name], Look], tuple[bytes, Sequence[int]]]
"""Names of a folder as the kernel takes them in the answer to READDIRPLUS, and where each of them ends."""


def pack_names(names: list[Name], look: Look) -> tuple[bytes, Sequence[int]]:
    """See PackNames; the one that works everywhere."""
    pieces = [folder_entry(look.attributes(name), name[1], name[0]) for name in names]
    return b"".join(pieces), list(accumulate(map(len, pieces)))


def fastest_pack_names() -> PackNames:
    """The one in C where it was built."""
    try:
        from fusemount import _pack
    except ImportError:
        return pack_names
    return lambda names, look: _pack.pack_names(names, INCARNATION_BITS, *look)


def _attr(found: Attributes) -> bytes:
    seconds, nanoseconds = divmod(found.mtime_ns, _NS)
    seconds &= _U64  # before 1970
    return _ATTR.pack(
        row_of(found.node_id), found.size, -(-found.size // 512), seconds, seconds, seconds,
        nanoseconds, nanoseconds, nanoseconds, found.mode, found.links, found.uid, found.gid, 0, BLOCK_BYTES, 0,
    )  # fmt: skip


def _split(ttl_s: float) -> tuple[int, int]:
    seconds = int(ttl_s)
    return seconds, int((ttl_s - seconds) * _NS)
