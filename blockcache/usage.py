"""How many bytes a tier holds, counted by all processes that share it, so that its quota is kept by all together.

One page of memory, mapped from the file `usage` of the tier: magic 8 bytes, bytes in use i64, number of evictions i64,
whether they were ever compared with the medium i64, then a slot i64 per process: those of its bytes that the catalog
does not know yet. Room is reserved before it is written to. A process holds its slot by a lock that the kernel frees
when it dies; what stands in the slot of a dead one may be on the medium or not, so it keeps counting until the keeper
has looked (`sweep`) and counts again.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blockcache.flightlocks import lock_range
from datamodel.errors import Conflict

_MAGIC = b"HRUSE\x00\x00\x03"
_PAGE = 4096
_USED, _EVICTIONS, _COMPARED, _FIRST_SLOT, _SLOT_BYTES = 8, 16, 24, 32, 8
_SLOTS = (_PAGE - _FIRST_SLOT) // _SLOT_BYTES
_WORD = struct.Struct("q")
_CHUNK_BYTES, _CHUNK_PART = 1 << 20, 256


class Usage:
    """The count of one tier. Thread-safe.

    *initial* is the number of bytes to start from where nobody has counted yet.

    Raises:
        OSError: the file cannot be made.
        Conflict: more processes use the cache than there are slots.
    """

    def __init__(self, path: Path, initial: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mutex = threading.Lock()
        self._slot = self._spare = 0
        try:
            with self._locked():
                self._map = self._mapped(initial)
            self._slot = self._take_slot()
        except BaseException:
            os.close(self._fd)
            raise

    def _mapped(self, initial: int) -> mmap.mmap:
        is_known = os.pread(self._fd, len(_MAGIC), 0) == _MAGIC and os.fstat(self._fd).st_size == _PAGE
        if not is_known:
            os.pwrite(self._fd, bytes(_PAGE), 0)
            os.ftruncate(self._fd, _PAGE)
        page = mmap.mmap(self._fd, _PAGE)
        if not is_known:
            _WORD.pack_into(page, _USED, initial)
            page[: len(_MAGIC)] = _MAGIC
        return page

    def _take_slot(self) -> int:
        offsets = range(_FIRST_SLOT, _FIRST_SLOT + _SLOTS * _SLOT_BYTES, _SLOT_BYTES)
        free = (at for at in offsets if lock_range(self._fd, fcntl.F_WRLCK, at, _SLOT_BYTES))
        # An empty one at best: what a dead process left in its own has to be counted until somebody looks.
        for at in free:
            if not self._word(at):
                return at
            lock_range(self._fd, fcntl.F_UNLCK, at, _SLOT_BYTES)
        raise Conflict(f"the cache is in use by {_SLOTS} processes already; no more can share it")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:  # the file's lock does not tell our own threads apart
            lock_range(self._fd, fcntl.F_WRLCK, 0, _FIRST_SLOT, wait=True)
            try:
                yield
            finally:
                lock_range(self._fd, fcntl.F_UNLCK, 0, _FIRST_SLOT)

    @property
    def used(self) -> int:
        """Bytes stored or about to be."""
        return max(0, self._word(_USED))

    def reserve(self, count: int, limit: int) -> bool:
        """Set *count* bytes aside if no more than *limit* are in use then; write them and `settle`, or `release`.

        What is little is taken out of a chunk that was set aside before, for a lock costs as much as a small file.
        """
        with self._mutex:
            if count <= self._spare:
                self._spare -= count
                return True
        chunk = min(_CHUNK_BYTES, limit // _CHUNK_PART)
        with self._locked():
            used = self._word(_USED)
            missing = count - self._spare
            taken = missing if missing > chunk or used + missing + chunk > limit else missing + chunk
            if used + taken > limit:
                return False
            self._add(_USED, taken)
            self._add(self._slot, taken)
            self._spare += taken - count
            return True

    def release(self, count: int) -> None:
        """*count* bytes that were reserved here were not written."""
        with self._mutex:
            self._spare += count
        self.settle(0)

    def settle(self, count: int) -> None:
        """The catalog knows of *count* more bytes that were reserved here. What is spare is given back."""
        with self._locked():
            self._add(_USED, -self._spare)
            self._add(self._slot, -self._spare - count)
            self._spare = 0

    def free(self, count: int) -> None:
        """*count* bytes that were stored are gone."""
        with self._locked():
            self._add(_USED, -count)
            self._add(_EVICTIONS, 1)

    @property
    def evictions(self) -> int:
        """A number that changes when something goes."""
        return self._word(_EVICTIONS)

    @property
    def is_compared(self) -> bool:
        """Whether somebody has looked at the medium since this count was begun; see `note_compared`."""
        return self._word(_COMPARED) != 0

    def note_compared(self) -> None:
        with self._locked():
            _WORD.pack_into(self._map, _COMPARED, 1)

    def leftovers(self) -> dict[int, int]:
        """Bytes by slot that no row counts because their process died; of no meaning but for `begin_recount`."""
        return {at: self._word(at) for at in self._dead_slots()}

    def begin_recount(self, swept: dict[int, int]) -> Callable[[int], None]:
        """Note what is counted now; *swept* are leftovers that rows count by now, or that are not there.

        Call the result with what the rows sum up to later, if nothing was evicted in between: the count is put right
        then. What was settled meanwhile leaves it too high until the next time, never too low.
        """
        with self._locked():
            slots = range(_FIRST_SLOT, _FIRST_SLOT + _SLOTS * _SLOT_BYTES, _SLOT_BYTES)
            expected = self._word(_USED) - sum(self._word(at) for at in slots if at not in swept)

        def finish(known: int) -> None:
            with self._locked():
                self._add(_USED, known - expected)
                for at, count in swept.items():
                    self._add(at, -count)

        return finish

    def _dead_slots(self) -> list[int]:
        """Those that hold something and belong to nobody."""
        dead = []
        # Through another descriptor, so that our own lock is in the way too.
        with Path(f"/proc/self/fd/{self._fd}").open("r+b", buffering=0) as other:
            for at in range(_FIRST_SLOT, _FIRST_SLOT + _SLOTS * _SLOT_BYTES, _SLOT_BYTES):
                if self._word(at) and lock_range(other.fileno(), fcntl.F_WRLCK, at, _SLOT_BYTES):
                    dead.append(at)
        return dead

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def _word(self, at: int) -> int:
        return int(_WORD.unpack_from(self._map, at)[0])

    def _add(self, at: int, count: int) -> None:
        _WORD.pack_into(self._map, at, self._word(at) + count)
