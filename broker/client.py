"""The two clients of the broker: `BrokerControl` for who mounts and binds, `BrokerSession` for a daemon that serves."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from broker import wire
from broker.wire import VolumeStatistics
from datamodel.errors import Corrupt, DeadlineExceeded, Unavailable
from datamodel.names import DAEMON_UID, RuntimeKey

__all__ = ["BrokerControl", "BrokerSession", "MountedRuntime", "VolumeStatistics"]

_MARGIN_S = 2.0


@dataclass(frozen=True, slots=True)
class MountedRuntime:
    """One runtime the broker keeps. *binds* are the targets that show it now."""

    key: RuntimeKey
    served: bool
    daemons: int
    binds: tuple[str, ...]


class BrokerControl:
    """Blocking and thread-safe: each call has a connection of its own, so a long wait holds up nobody.

    Every method raises Unavailable when the broker is away, and DeadlineExceeded when it does not answer in
    *deadline_s* seconds (plus a margin for calls that wait on the broker's side).
    """

    def __init__(self, control_socket: str) -> None:
        self._path = control_socket

    def mount(self, key: RuntimeKey, token: str, *, daemon_uid: int = DAEMON_UID, deadline_s: float) -> None:
        """Keep a FUSE mount and a socket for *key* alive; done already is fine.

        Raises:
            PermissionRefused: it is mounted with another token and in use.
        """
        self._call(wire.Mount(str(key), token, daemon_uid), deadline_s)

    def wait_served(self, key: RuntimeKey, deadline_s: float) -> None:
        """Return as soon as a daemon serves *key*.

        Raises:
            NotFound: it was never mounted.
        """
        self._call(wire.WaitServed(str(key), deadline_s), deadline_s + _MARGIN_S)

    def bind(
        self,
        key: RuntimeKey,
        target: str,
        *,
        sub_path: str = "",
        read_only: bool,
        no_exec: bool = False,
        deadline_s: float,
    ) -> None:
        """Show *sub_path* of *key* at *target*; done already is fine. Errors: see broker.binds.bind."""
        self._call(wire.Bind(str(key), target, sub_path, read_only, deadline_s, no_exec), deadline_s + _MARGIN_S)

    def unbind(self, target: str, deadline_s: float) -> None:
        """Take every mount off *target* and remove the empty folder; absent is fine."""
        self._call(wire.Unbind(target), deadline_s)

    def unmount(self, key: RuntimeKey, deadline_s: float) -> None:
        """End the mount of *key* and remove its folders and cache; absent is fine.

        Raises:
            Conflict: a target still shows it.
        """
        self._call(wire.Unmount(str(key)), deadline_s)

    def runtimes(self, deadline_s: float) -> list[MountedRuntime]:
        reply = self._call(wire.Runtimes(), deadline_s)
        if not isinstance(reply, wire.RuntimeList):
            raise Corrupt(f"broker: unexpected reply {type(reply).__name__}")
        return [MountedRuntime(RuntimeKey.parse(r.key), r.served, r.daemons, r.binds) for r in reply.runtimes]

    def statistics(self, key: RuntimeKey, deadline_s: float) -> VolumeStatistics:
        """statfs of the mount, never later than *deadline_s*; `abnormal` when it is dead, stuck or not served."""
        reply = self._call(wire.Statistics(str(key), deadline_s), deadline_s + _MARGIN_S)
        if not isinstance(reply, VolumeStatistics):
            raise Corrupt(f"broker: unexpected reply {type(reply).__name__}")
        return reply

    def _call(self, request: wire.Request, deadline_s: float) -> wire.Reply:
        with _connected(self._path, deadline_s) as peer:
            wire.send(peer, request)
            return wire.receive_reply(peer)[0]


class BrokerSession:
    """A daemon's connection: it lives as long as the process, and its end tells the broker that the daemon is gone.

    Thread-safe: one request at a time. *attached* says what is true of the connection behind `fuse_fd`.

    Raises:
        PermissionRefused: wrong token or wrong user.
    """

    def __init__(self, path: str, token: str, *, blocking: bool, deadline_s: float) -> None:
        self._lock = threading.Lock()
        self._peer = _connect(path, deadline_s)
        try:
            reply, fds = self._ask(wire.Attach(token, blocking), ())
            if not isinstance(reply, wire.Attached) or len(fds) != 1:
                raise Corrupt(f"broker: unexpected reply {type(reply).__name__} to attach")
        except BaseException:
            self._peer.close()
            raise
        self.fuse_fd, self.attached = fds[0], reply

    def fileno(self) -> int:
        """Of the connection: readable between calls means that the broker ended it."""
        return self._peer.fileno()

    def settle(self, *, no_open: bool) -> bool:
        """Whether the kernel opens this mount's files without a message: as *no_open* says, or as was said before."""
        if self.attached.no_open is not None:
            return self.attached.no_open
        reply = self._call(wire.Settle(no_open))
        if not isinstance(reply, wire.Settled):
            raise Corrupt(f"broker: unexpected reply {type(reply).__name__} to settle")
        return reply.no_open

    def ready(self) -> None:
        """Tell that we serve now."""
        self._call(wire.Ready())

    def open_backing(self, node: int, file_fd: int) -> int:
        """Passthrough id of *node*, reading from the file behind *file_fd*.

        Raises:
            Unavailable: the kernel refused, e.g. a cache on a file system that cannot be stacked upon.
        """
        reply = self._call(wire.OpenBacking(node), (file_fd,))
        if not isinstance(reply, wire.Backing):
            raise Corrupt(f"broker: unexpected reply {type(reply).__name__} to open_backing")
        return reply.id

    def close_backing(self, node: int) -> None:
        self._call(wire.CloseBacking(node))

    def close(self) -> None:
        self._peer.close()
        os.close(self.fuse_fd)

    def _call(self, request: wire.Request, fds: tuple[int, ...] = ()) -> wire.Reply:
        return self._ask(request, fds)[0]

    def _ask(self, request: wire.Request, fds: tuple[int, ...]) -> tuple[wire.Reply, list[int]]:
        with self._lock:
            try:
                wire.send(self._peer, request, fds)
                return wire.receive_reply(self._peer)
            except TimeoutError as error:
                # The reply may still come, and must not be taken for that to the next request.
                self._peer.shutdown(socket.SHUT_RDWR)
                raise DeadlineExceeded("the mount broker does not answer") from error
            except OSError as error:
                raise Unavailable(f"the mount broker is away: {error}") from error


def _connect(path: str, deadline_s: float) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.settimeout(deadline_s)
    try:
        with wire.short_path(path) as short:
            peer.connect(short)
    except OSError as error:
        peer.close()
        raise Unavailable(f"no mount broker on {path}: {error}") from error
    return peer


@contextlib.contextmanager
def _connected(path: str, deadline_s: float) -> Iterator[socket.socket]:
    with _connect(path, deadline_s) as peer:
        try:
            yield peer
        except TimeoutError as error:
            raise DeadlineExceeded(f"the mount broker did not answer within {deadline_s:g} s") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Unavailable(f"the mount broker went away: {error}") from error
