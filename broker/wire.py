"""Messages between the broker and its clients: one JSON document per SOCK_SEQPACKET packet, files by SCM_RIGHTS.

Every request gets exactly one reply; an error travels as the name of its class in datamodel.errors and its text.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import msgspec

from datamodel import errors
from datamodel.errors import Corrupt, HeadraceError, Unavailable

PACKET_BYTES = 65536
_SUN_PATH_BYTES = 108
_UCRED = struct.Struct("iII")


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Daemon: hand me a fuse device. *token* proves that I belong to the runtime.

    *blocking* asks for a device in blocking mode, for a daemon that cannot handle EAGAIN (it must be the only one).
    """

    token: str
    blocking: bool = False


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Daemon: whether the kernel should open files without a message.

    What the first one says holds for the mount, because the kernel never goes back.
    """

    no_open: bool


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Daemon: I serve now."""


class OpenBacking(msgspec.Struct, frozen=True, tag=True):
    """Daemon: register the file sent along as the passthrough file of *node*."""

    node: int


class CloseBacking(msgspec.Struct, frozen=True, tag=True):
    """Daemon: *node* will not be opened by passthrough any more."""

    node: int


class Mount(msgspec.Struct, frozen=True, tag=True):
    """Control: keep a FUSE mount for runtime *key* alive."""

    key: str
    token: str
    daemon_uid: int


class WaitServed(msgspec.Struct, frozen=True, tag=True):
    key: str
    deadline_s: float


class Bind(msgspec.Struct, frozen=True, tag=True):
    key: str
    target: str
    sub_path: str
    read_only: bool
    deadline_s: float
    no_exec: bool = False


class Unbind(msgspec.Struct, frozen=True, tag=True):
    target: str


class Unmount(msgspec.Struct, frozen=True, tag=True):
    """Control: end the mount of *key* and remove its folders, also the cache."""

    key: str


class Runtimes(msgspec.Struct, frozen=True, tag=True):
    pass


class Statistics(msgspec.Struct, frozen=True, tag=True):
    key: str
    deadline_s: float


Request = (
    Attach
    | Settle
    | Ready
    | OpenBacking
    | CloseBacking
    | Mount
    | WaitServed
    | Bind
    | Unbind
    | Unmount
    | Runtimes
    | Statistics
)


class Done(msgspec.Struct, frozen=True, tag=True):
    pass


class Failed(msgspec.Struct, frozen=True, tag=True):
    error: str
    message: str


class Attached(msgspec.Struct, frozen=True, tag=True):
    """The fuse device comes along, and what is true of its connection.

    *passthrough*: the kernel agreed to it in INIT. *no_open*: what was settled, None so far if nothing was. *resend*:
    what a dead daemon left unanswered is asked again. *read_ahead_kib*: in effect; 0 where it could not be set, for the
    reason beside it.
    """

    passthrough: bool
    no_open: bool | None = None
    resend: bool = False
    read_ahead_kib: int = 0
    read_ahead_problem: str = ""


class Settled(msgspec.Struct, frozen=True, tag=True):
    """*no_open*: what holds for the mount."""

    no_open: bool


class Backing(msgspec.Struct, frozen=True, tag=True):
    id: int


class MountedRuntime(msgspec.Struct, frozen=True, tag=True):
    """One runtime the broker keeps. *binds* are the targets that show it now."""

    key: str
    served: bool
    daemons: int
    binds: tuple[str, ...]


class RuntimeList(msgspec.Struct, frozen=True, tag=True):
    runtimes: tuple[MountedRuntime, ...]


class VolumeStatistics(msgspec.Struct, frozen=True, tag=True):
    """What statfs says; all zero and *abnormal* with a *message* where it could not be asked."""

    total_bytes: int = 0
    used_bytes: int = 0
    available_bytes: int = 0
    total_inodes: int = 0
    used_inodes: int = 0
    abnormal: bool = False
    message: str = ""


Reply = Done | Failed | Attached | Settled | Backing | RuntimeList | VolumeStatistics

_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)
_ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, HeadraceError)
}


def send(peer: socket.socket, message: Request | Reply, fds: tuple[int, ...] = ()) -> None:
    socket.send_fds(peer, [_encoder.encode(message)], list(fds))


def receive_request(peer: socket.socket) -> tuple[Request, list[int]] | None:
    """The next request and its files; None when the peer is gone.

    Raises:
        Corrupt: the packet is no request.
    """
    packet, fds = _receive(peer)
    if not packet:
        return None
    try:
        return _requests.decode(packet), fds
    except msgspec.MsgspecError as error:
        _close(fds)
        raise Corrupt(f"not a request of this broker: {error}") from error


def receive_reply(peer: socket.socket) -> tuple[Reply, list[int]]:
    """The reply and its files.

    Raises:
        Unavailable: the broker went away. Corrupt: this is no reply. Any HeadraceError that the broker answered.
    """
    packet, fds = _receive(peer)
    if not packet:
        raise Unavailable("the mount broker closed the connection")
    try:
        reply = _replies.decode(packet)
    except msgspec.MsgspecError as error:
        _close(fds)
        raise Corrupt(f"not a reply of a broker: {error}") from error
    if isinstance(reply, Failed):
        _close(fds)
        raise _ERRORS.get(reply.error, HeadraceError)(reply.message)
    return reply, fds


def failure(error: HeadraceError) -> Failed:
    return Failed(type(error).__name__, str(error))


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """Another way to write the socket's *path*, because the kernel takes 107 bytes and names may be long."""
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield path if len(os.fsencode(path)) < _SUN_PATH_BYTES else f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


def peer_uid(peer: socket.socket) -> int:
    """Numeric user of the process at the other end, as the kernel knows it."""
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def _receive(peer: socket.socket) -> tuple[bytes, list[int]]:
    try:
        packet, fds, flags, _ = socket.recv_fds(peer, PACKET_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", []
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(fds)
        raise Corrupt(f"packet larger than {PACKET_BYTES} bytes or with too many files")
    return packet, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
