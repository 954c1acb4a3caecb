"""How pyfuse3 gets its connection: from the broker, with a synthetic INIT, or by mounting itself as any FUSE program.

With the broker, the kernel's INIT was answered long ago. libfuse insists on one, so it finds one in a socket pair;
when it has taken that, the kernel's device replaces the socket under the same descriptor number.
"""

import os
import socket
import struct

import pyfuse3

from broker.client import BrokerSession
from datamodel.errors import Unavailable
from fusemount.adapter import Adapter

_INIT_OPCODE, _HEADER_BYTES = 26, 40
_MINOR, _MAX_READAHEAD = 39, 16 << 20
# ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES, DO_READDIRPLUS, PARALLEL_DIROPS, MAX_PAGES: as broker/connection.py asks
_FLAGS = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 13 | 1 << 18 | 1 << 22


class Handover:
    """Serve the connection of *session*; `begin` once, then `pyfuse3.main`. Pass `take_over` to the adapter."""

    def __init__(self, session: BrokerSession) -> None:
        self._session = session
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._fd = theirs.detach()
        body = struct.pack("<IIIII11I", 7, _MINOR, _MAX_READAHEAD, _FLAGS, 0, *[0] * 11)
        header = struct.pack("<IIQQIIIHH", _HEADER_BYTES + len(body), _INIT_OPCODE, 2, 0, 0, 0, 0, 0, 0)
        ours.send(header + body)
        self._ours = ours  # kept open: a closed pair would make libfuse see the end before it took the INIT

    def begin(self, adapter: Adapter) -> None:
        pyfuse3.init(adapter, f"/dev/fd/{self._fd}", {"fsname=headrace"})

    def take_over(self) -> None:
        """Called when libfuse has taken its INIT: from here on it talks to the kernel.

        Its INIT reply goes to the kernel as well, which refuses it with ENOENT; libfuse ignores that.
        """
        os.dup2(self._session.fuse_fd, self._fd)
        self._session.ready()


def begin_plain(adapter: Adapter, mountpoint: str, *, allow_other: bool) -> None:
    """Mount on *mountpoint* ourselves (root, or fusermount3): one process, no broker, nothing survives its end.

    Raises:
        Unavailable: the mount was refused; libfuse has printed why.
    """
    options = set(pyfuse3.default_options) | {"fsname=headrace", "subtype=headrace", "ro", "default_permissions"}
    if allow_other:
        options.add("allow_other")
    try:
        pyfuse3.init(adapter, mountpoint, options)
    except RuntimeError as error:
        cure = "this user must be able to open /dev/fuse and run fusermount3; --allow-other needs /etc/fuse.conf"
        raise Unavailable(f"{mountpoint}: the mount was refused; {cure}") from error
