"""Answers requests on the spot where everything they need is at hand, without a turn of the event loop.

The shim asks here first. What is left (None) goes to pyfuse3, whose handlers may wait; it goes there too where this
raised an unexpected error, so a mistake here costs speed only.
"""

import errno
import os
import sqlite3
import struct
from collections.abc import Callable

from datamodel.errors import HeadraceError, NotFound
from fusemount import packed
from fusemount.filesystem import FileSystem
from obs import logs
from obs.metrics import FUSE_REQUESTS

log = logs.get("fusemount")

Answer = bytes | bytearray | memoryview | int | None
"""A reply's bytes, an errno, or None: not answered here."""

_LOOKUP, _GETATTR, _OPEN, _READ, _OPENDIR, _READDIRPLUS = 1, 3, 14, 15, 27, 44
_READ_IN = struct.Struct("<2QI")


class Inline:
    """`Inline(...).answer` is what the shim calls. Runs between two steps of the event loop, never beside one."""

    def __init__(self, filesystem: FileSystem, *, no_open: bool) -> None:
        self._filesystem, self._no_open = filesystem, no_open
        self._handlers: dict[int, Callable[[int, bytes], Answer]] = {
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _OPEN: self._open,
            _READ: self._read,
            _OPENDIR: self._opendir,
            _READDIRPLUS: self._readdirplus,
        }
        self._counted = {code: FUSE_REQUESTS.labels(act.__name__[1:]) for code, act in self._handlers.items()}

    def answer(self, opcode: int, node: int, body: bytes) -> Answer:
        """The reply to a request of the FUSE protocol, whose *body* is what follows the header."""
        handler = self._handlers.get(opcode)
        if handler is None:
            return None
        try:
            found = handler(node, body)
        except (HeadraceError, OSError, sqlite3.Error):
            return None  # the handler that may wait will meet it again, and say so
        if found is not None:
            self._counted[opcode].inc()
        return found

    def _lookup(self, node: int, body: bytes) -> Answer:
        try:
            return self._filesystem.entry_now(node, body[:-1])
        except NotFound:
            return packed.absent(self._filesystem.absent_ttl_s)

    def _getattr(self, node: int, body: bytes) -> Answer:
        found = self._filesystem.attributes_now(node)
        return None if found is None else packed.attributes(found)

    def _open(self, node: int, body: bytes) -> Answer:
        if self._no_open:
            return errno.ENOSYS  # said once: the kernel asks no more
        if struct.unpack_from("<I", body)[0] & os.O_ACCMODE != os.O_RDONLY:
            return errno.EROFS
        found = self._filesystem.open_now(node)
        return None if found is None else packed.opened(node, *found)

    def _read(self, node: int, body: bytes) -> Answer:
        handle, offset, size = _READ_IN.unpack_from(body)
        return self._filesystem.read_now(handle, offset, size)

    def _opendir(self, node: int, body: bytes) -> Answer:
        return packed.opened(node, self._filesystem.open_folder(node), 0)

    def _readdirplus(self, node: int, body: bytes) -> Answer:
        _, after, size = _READ_IN.unpack_from(body)
        return self._filesystem.page_now(node, after, size)
