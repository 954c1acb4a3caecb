"""How pyfuse3 gets its connection: from the broker, with a synthetic INIT, or by mounting itself as any FUSE program.

With the broker, the kernel's INIT was answered long ago. libfuse insists on one, so it finds one in a socket pair;
when it has taken that, the kernel's device replaces the socket under the same descriptor number.
"""

import os
import socket
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import pyfuse3

from broker.client import BrokerSession
from datamodel.errors import Unavailable
from fusemount.adapter import Adapter
from fusemount.filesystem import FileSystem
from fusemount.kernelcache import own_device

_INIT_OPCODE, _HEADER_BYTES = 26, 40
_MINOR, _MAX_READAHEAD = 39, 16 << 20
# ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES, DO_READDIRPLUS, PARALLEL_DIROPS, MAX_PAGES, CACHE_SYMLINKS: as
# broker/connection.py asks
_FLAGS = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 13 | 1 << 18 | 1 << 22 | 1 << 23


class Connection(Protocol):
    """`begin`, then `serve`, then `end`, once each."""

    def begin(self, filesystem: FileSystem, shim: ModuleType | None, on_ready: Callable[[int], None]) -> None:
        """Connect; *on_ready* is called with the kernel's device when the first request can be taken."""

    async def serve(self) -> None:
        """Answer requests until the mount ends."""

    def end(self) -> None:
        """Let go of the connection."""


class Brokered:
    """The connection that a broker keeps: it goes on without us."""

    def __init__(self, session: BrokerSession) -> None:
        self._session = session
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._device = theirs.detach()
        body = struct.pack("<IIIII11I", 7, _MINOR, _MAX_READAHEAD, _FLAGS, 0, *[0] * 11)
        header = struct.pack("<IIQQIIIHH", _HEADER_BYTES + len(body), _INIT_OPCODE, 2, 0, 0, 0, 0, 0, 0)
        ours.send(header + body)
        self._ours = ours  # kept open: a closed pair would make libfuse see the end before it took the INIT

    def begin(self, filesystem: FileSystem, shim: ModuleType | None, on_ready: Callable[[int], None]) -> None:
        def take_over() -> None:
            # libfuse has taken its INIT and talks to the kernel from here on. Its INIT reply goes there as well, which
            # refuses it with ENOENT; libfuse ignores that.
            os.dup2(self._session.fuse_fd, self._device)
            on_ready(self._device)

        pyfuse3.init(Adapter(filesystem, shim, take_over), f"/dev/fd/{self._device}", {"fsname=headrace"})

    async def serve(self) -> None:
        await pyfuse3.main()

    def end(self) -> None:
        """Nothing: closing would only make libfuse touch a mount that others serve."""


class Plain:
    """A mount of our own on *mountpoint* (root, or fusermount3): one process, no broker, nothing survives its end."""

    def __init__(self, mountpoint: str, *, allow_other: bool) -> None:
        self._mountpoint, self._allow_other = mountpoint, allow_other

    def begin(self, filesystem: FileSystem, shim: ModuleType | None, on_ready: Callable[[int], None]) -> None:
        """See Connection.

        Raises:
            Unavailable: the mount was refused; libfuse has printed why.
        """
        options = set(pyfuse3.default_options) | {"fsname=headrace", "subtype=headrace", "ro", "default_permissions"}
        if self._allow_other:
            options.add("allow_other")
        try:
            pyfuse3.init(Adapter(filesystem, shim, lambda: on_ready(own_device())), self._mountpoint, options)
        except RuntimeError as error:
            cure = "this user must be able to open /dev/fuse and run fusermount3; --allow-other needs /etc/fuse.conf"
            raise Unavailable(f"{self._mountpoint}: the mount was refused; {cure}") from error

    async def serve(self) -> None:
        await pyfuse3.main()

    def end(self) -> None:
        pyfuse3.close(unmount=True)
