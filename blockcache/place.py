"""One tier on its medium: the folders of its cache files, the count of its bytes, and how it keeps small files."""

import ctypes
import os
import time
from pathlib import Path
from typing import TypeVar

from blockcache.cachefile import CacheFile
from blockcache.catalog import Node
from blockcache.flightlocks import FlightLocks
from blockcache.session import Session
from blockcache.sparsefile import SparseFile
from blockcache.usage import Usage
from blockcache.wholefile import WholeFile, is_whole, takes_whole_files
from datamodel.client import Tier

FOLDERS = 256
OVERSIZE_SHARE = 0.5
"""The part of a tier's quota that one file gets which does not fit below the tier's low watermark. With less than that
the tier would be emptied for a file that it cannot hold anyway; the rest is left to all others."""

_MARGIN_BYTES, _MARGIN_SHARE = 32 << 20, 1 / 16
"""Room on the medium that blocks leave to the catalog and to others: so many bytes, or so much of a smaller medium."""
_ASK_PERIOD_S = 0.05

_MEMORY_KINDS = (0x01021994, 0x858458F6)  # tmpfs, ramfs: f_type of statfs(2)
_STATFS_BYTES = 256  # more than struct statfs has on any machine
File = TypeVar("File", bound=CacheFile)


class Place:
    """The tier *index*. *initial* is how many bytes are in it, where nobody has counted them yet.

    Raises:
        OSError: its folder cannot be made or written.
        Conflict: too many processes share it.
    """

    def __init__(
        self, index: int, tier: Tier, block_bytes: int, session: Session, locks: FlightLocks, initial: int
    ) -> None:
        self.index, self.tier = index, tier
        self._block_bytes, self._session, self._locks = block_bytes, session, locks
        self.blocks = os.path.join(tier.path, "blocks")
        os.makedirs(self.blocks, mode=0o700, exist_ok=True)
        self.usage = Usage(Path(tier.path, "usage"), initial)
        self._takes_whole = takes_whole_files(self.blocks)
        self._read_flags = 0 if _is_memory(self.blocks) else os.RWF_NOWAIT
        self._limit = self._since_asked = 0
        self._asked = float("-inf")

    @property
    def limit_bytes(self) -> int:
        """The quota, or what the medium has room for, if that is less. Watermarks are fractions of it.

        The medium is asked again after a moment, and before much of its margin may have been used.
        """
        if time.monotonic() - self._asked >= _ASK_PERIOD_S or self._since_asked >= _MARGIN_BYTES // 8:
            self._limit, self._asked, self._since_asked = self._ask_medium(), time.monotonic(), 0
        return self._limit

    def _ask_medium(self) -> int:
        try:
            status = os.statvfs(self.blocks)
        except OSError:
            return self.tier.quota_bytes  # what is stored next will say what is wrong
        margin = min(_MARGIN_BYTES, int(status.f_blocks * status.f_frsize * _MARGIN_SHARE))
        room = self.usage.used + status.f_bavail * status.f_frsize - margin
        return max(0, min(self.tier.quota_bytes, room))

    @property
    def is_pressed(self) -> bool:
        """Above its high watermark."""
        return self.usage.used > self.limit_bytes * self.tier.high

    @property
    def excess_bytes(self) -> int:
        """What has to go to come down to the low watermark."""
        return max(0, self.usage.used - int(self.limit_bytes * self.tier.low))

    @property
    def share_bytes(self) -> int:
        """What one file may hold that is larger than all files together should be."""
        return int(self.limit_bytes * OVERSIZE_SHARE)

    def is_oversize(self, size: int) -> bool:
        """Whether a file of *size* bytes has to be content with `share_bytes` here.

        A matter of the quota, not of what the medium has room for now: all processes have to answer alike.
        """
        return size > self.tier.quota_bytes * self.tier.low

    def fits(self, size: int) -> bool:
        """Whether *size* more bytes leave it below its high watermark."""
        return self.usage.used + size <= self.limit_bytes * self.tier.high

    def reserve(self, count: int) -> bool:
        """See `Usage.reserve`."""
        self._since_asked += count
        return self.usage.reserve(count, self.limit_bytes)

    def stem(self, id: int) -> str:
        return f"{self.blocks}/{id % FOLDERS:02x}/{id}"

    def keeps_whole(self, size: int) -> bool:
        """Whether a file of *size* bytes is kept in one piece here."""
        return self._takes_whole and size <= self._block_bytes

    def open(self, node: Node) -> CacheFile:
        """The cache file of *node* here; a sparse one is made if it is missing.

        Raises:
            OSError: the medium refuses.
        """
        size = node.size or 0
        if self.keeps_whole(size):
            file = self.new(node)
            file.look()
            return file
        session, run = self._session.digest, self._session.run
        sparse = SparseFile(self.stem(node.id), size, node.version, self._block_bytes, session, run)
        sparse.is_oversize = self.is_oversize(size)
        return self._mark(sparse)

    def new(self, node: Node) -> WholeFile:
        """A file to be stored in one piece, whether there is one already or not."""
        size, session = node.size or 0, self._session.digest
        return self._mark(WholeFile(self.stem(node.id), size, node.version, self._block_bytes, session, self._locks))

    def _mark(self, file: File) -> File:
        file.tier, file.read_flags = self.index, self._read_flags
        return file

    def may_hold(self, node: Node) -> bool:
        """Whether something of a file of many blocks is here."""
        return os.path.exists(f"{self.stem(node.id)}.map")

    def has_complete(self, id: int) -> bool:
        """Whether the whole file is here, whichever way it is kept."""
        stem = self.stem(id)
        return is_whole(stem) or (os.path.exists(stem) and os.path.exists(f"{stem}.map"))


def _is_memory(folder: str) -> bool:
    """Whether *folder* is in memory, so that reading from it does not wait for a device."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), found):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
    return ctypes.c_long.from_buffer(found).value in _MEMORY_KINDS
