"""What stands in for a cache file where no tier can hold one: a full, broken or read-only disk costs the cache only."""

import errno
import os

from blockcache.cachefile import CacheFile
from datamodel.errors import Corrupt


class UncachedFile(CacheFile):
    """Has no block and takes none, so every read is served from its flights.

    It calls itself evicted: with the next use the tiers are tried again.
    """

    @property
    def is_complete(self) -> bool:
        return False

    @property
    def fd(self) -> int:
        return -1

    @property
    def is_evicted(self) -> bool:
        return True

    def has(self, block: int) -> bool:
        return False

    def cached_bytes(self) -> int:
        return 0

    def read_now(self, offset: int, size: int, into: memoryview | None = None) -> memoryview | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        raise Corrupt(f"{self.name}: no tier holds it")

    def write(self, block: int, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def try_lock(self, block: int) -> bool:
        return True

    def unlock(self, block: int) -> None:
        """Nothing was locked: another process that has no tier either fetches for itself."""

    def try_complete(self) -> bool:
        return False

    def is_sound(self) -> bool:
        return False
