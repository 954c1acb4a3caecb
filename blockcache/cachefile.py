"""What a file in the cache can do, whichever way it is kept: as one whole piece, or sparse with a map of its blocks.

Also what both have in common: how versions become digests, and how a path is opened that somebody else may have spoilt.
"""

import contextlib
import errno
import hashlib
import os
import stat
import time
from abc import ABC, abstractmethod
from pathlib import Path

from datamodel.errors import Corrupt
from obs import logs
from obs.metrics import CORRUPT_BLOCKS

log = logs.get("blockcache")

_NOT_OURS = (errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENOTDIR)
_ASIDE = "aside"
_OWN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_ATTEMPTS = 3


class CacheFile(ABC):
    """One version of one dataset file in the cache. `read` and `write` may run in several threads at once.

    Blocks count from 0 and are *block_bytes* long, but for the last. A block is stored by who holds its lock, which
    the kernel frees when the holder dies; data is written before it is called present.
    """

    def __init__(self, stem: str, size: int, block_bytes: int) -> None:
        self._stem = stem
        self.size, self.block_bytes = size, block_bytes
        self.blocks = -(-size // block_bytes)
        self.tier = 0
        """Index of the tier that it is in."""
        self.read_flags = os.RWF_NOWAIT
        """For `read_now`: 0 on a medium where reading never waits, which has no use for the flag and refuses it."""
        self.is_oversize = False
        """Larger than what a tier grants one file: its blocks may go while it is open, see `shrink`."""

    @property
    def name(self) -> str:
        """For messages."""
        return os.path.basename(self._stem)

    @property
    def stem(self) -> Path:
        """Path of the complete data file, whether it is complete or not."""
        return Path(self._stem)

    def length(self, block: int) -> int:
        """Bytes of *block*: the last one may be short."""
        return min(self.block_bytes, self.size - block * self.block_bytes)

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Every block is there, as far as this process has seen; see `try_complete`."""

    @property
    @abstractmethod
    def fd(self) -> int:
        """The data file; valid as long as this object, also after eviction. -1 where nothing is stored yet."""

    @property
    @abstractmethod
    def is_evicted(self) -> bool:
        """The files are unlinked: what is here can be read, but nothing stored here will be found again."""

    @abstractmethod
    def has(self, block: int) -> bool:
        """Whether *block* is present."""

    @abstractmethod
    def cached_bytes(self) -> int:
        """Sum of the present blocks' lengths."""

    @abstractmethod
    def read_now(self, offset: int, size: int, into: memoryview | None = None) -> memoryview | None:
        """As `read`, but only if that needs neither verifying nor waiting for the medium; else None.

        The bytes stand at the start of *into*, if that is given and long enough.
        """

    @abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Bytes that are in present blocks; blocks of unknown origin are verified when first met.

        Raises:
            Corrupt: a block does not match its checksum; it is marked absent, so the next read fetches it.
            BlockGone: a block was given up meanwhile; the next read fetches it.
        """

    @abstractmethod
    def write(self, block: int, data: memoryview) -> None:
        """Store *block*.

        Raises:
            OSError: the medium is full or broken; the block stays absent.
        """

    @abstractmethod
    def try_lock(self, block: int) -> bool:
        """Whether this process may fetch *block* now; False while another process does."""

    @abstractmethod
    def unlock(self, block: int) -> None:
        """Let others fetch *block*."""

    @abstractmethod
    def try_complete(self) -> bool:
        """True if every block is there and the file has its final name, whoever gave it that."""

    @abstractmethod
    def is_sound(self) -> bool:
        """Whether a complete file may be handed to the kernel: every block trusted, or verified now."""

    def shrink(self, count: int) -> int:
        """Give up present blocks until *count* bytes are free again; returns how many are."""
        return 0


class BlockGone(Corrupt):
    """A block was given up by another reader's need for room between looking and reading; nothing is wrong."""


def digest(text: str) -> bytes:
    """Eight bytes that stand for *text*, a version above all."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()


def open_own(path: str, flags: int) -> int:
    """Open a regular file of ours. What stands in its place is moved aside: a folder, a link, a stranger's file.

    Raises:
        OSError: nothing can be opened or made there, or the odd thing cannot be moved.
    """
    for _ in range(_ATTEMPTS):
        try:
            fd = os.open(path, flags | _OWN, 0o600)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            set_aside(path, str(error))
            continue
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        set_aside(path, "not a regular file")
    raise FileNotFoundError(errno.ENOENT, "odd things keep coming in its place", path)


def create_own(path: str, flags: int) -> int:
    """As `open_own`, making the file, and the folder that it is in, if they are missing."""
    try:
        return open_own(path, flags | os.O_CREAT)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return open_own(path, flags | os.O_CREAT)


def unlink_own(path: str) -> None:
    """Unlink *path* if it is there; a folder in its place is moved aside."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError as error:
        set_aside(path, str(error))


def count_corrupt(stem: str, problem: str) -> Corrupt:
    """Log and count that something of a cache file is wrong; the error to raise."""
    CORRUPT_BLOCKS.inc()
    log.error("cache.corrupt", path=stem, problem=problem)
    return Corrupt(f"cache file {os.path.basename(stem)}: {problem}")


def set_aside(odd: str, problem: str) -> None:
    """Into a folder beside those of the blocks, for somebody to look at: it is not ours to delete."""
    path = Path(odd)
    aside = path.parents[1].with_name(_ASIDE)
    aside.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside / f"{path.name}-{time.time_ns()}")
    log.error("cache.set_aside", path=odd, aside=str(aside), problem=problem)
