"""One runtime that the broker keeps: its connection, who serves it, and which files the kernel reads by passthrough."""

import hashlib
import hmac
import os
import threading
import time

from broker import kernel
from broker.connection import Connection
from datamodel.errors import Conflict, DeadlineExceeded, PermissionRefused, Unavailable
from datamodel.names import RuntimeKey, RuntimePaths
from obs import logs
from obs.metrics import BROKER_RESENDS

log = logs.get("broker")

_PREDECESSOR_GRACE_S = 0.5


class ServedRuntime:
    """State shared by the sessions of one runtime's daemons; every method is thread-safe.

    Invariant: a device is either in `_free` or lent to exactly one session. `_backing` maps a FUSE node id to its
    passthrough id; the connection owns the ids, so they outlive the daemon that asked for them.
    """

    def __init__(
        self, key: RuntimeKey, paths: RuntimePaths, connection: Connection, token: str, daemon_uid: int
    ) -> None:
        self.key, self.paths, self.connection, self.daemon_uid = key, paths, connection, daemon_uid
        self._token_digest = _digest(token)
        self._changed = threading.Condition()
        self._free = [connection.fuse_fd]
        self._serving: set[int] = set()
        self._lent: set[int] = set()
        self._backing: dict[int, int] = {}
        self._owes_resend = False
        self._closed = False
        self.no_open: bool | None = None
        """Whether the kernel opens files without a message; None until a daemon has settled it."""
        self.read_ahead_kib, self.read_ahead_problem = 0, ""

    def check_token(self, token: str) -> None:
        """Raises PermissionRefused when *token* is not this runtime's."""
        if not self.is_token(token):
            raise PermissionRefused(f"runtime {self.key}: wrong token")

    def is_token(self, token: str) -> bool:
        return hmac.compare_digest(_digest(token), self._token_digest)

    def replace_token(self, token: str) -> None:
        """A runtime deleted and made again under the same name has a new token."""
        self._token_digest = _digest(token)

    def settle(self, *, no_open: bool) -> bool:
        """What holds for this mount: *no_open*, unless a daemon has settled something else before."""
        with self._changed:
            if self.no_open is None:
                self.no_open = no_open
            return self.no_open

    def lend(self, *, blocking: bool) -> int:
        """A device for one daemon process. A predecessor that is just ending gets a moment to give its device back.

        Raises:
            Conflict: a blocking device was asked for while another process has one, or where the kernel opens files
                without a message, which only a daemon with the shim can serve.
        """
        with self._changed:
            if blocking and self.no_open:
                raise Conflict(f"runtime {self.key}: files are opened without a message; that takes the FUSE shim")
            self._changed.wait_for(lambda: self._free or not self._lent, _PREDECESSOR_GRACE_S)
            self._check_open()
            if blocking and self._lent:
                raise Conflict(f"runtime {self.key}: a daemon without the FUSE shim must be the only one")
            device = self._free.pop() if self._free else self.connection.new_device()
            os.set_blocking(device, blocking)
            self._lent.add(device)
            return device

    def mark_ready(self, device: int) -> None:
        """The daemon with *device* serves: wake who waits, and have a dead predecessor's requests sent again."""
        with self._changed:
            self._check_open()
            self._serving.add(device)
            if self._owes_resend:
                self._resend()
            self._changed.notify_all()

    def take_back(self, device: int) -> None:
        """The session with *device* is over, whatever the reason."""
        with self._changed:
            self._lent.discard(device)
            self._serving.discard(device)
            if self._closed:
                return
            self._free.append(device)
            self._owes_resend = True
            if self._serving:
                self._resend()
            self._changed.notify_all()

    def wait_served(self, deadline_s: float) -> None:
        """Block until a daemon serves.

        Raises:
            DeadlineExceeded: none does after *deadline_s* seconds.
        """
        end = time.monotonic() + deadline_s
        with self._changed:
            while not self._serving:
                self._check_open()
                if not self._changed.wait(max(0.0, end - time.monotonic())) and time.monotonic() >= end:
                    raise DeadlineExceeded(f"runtime {self.key}: no daemon serves the mount after {deadline_s:.0f} s")

    def open_backing(self, node: int, file_fd: int) -> int:
        """Passthrough id of *node*; the same one however often it is asked, as the kernel demands of an open inode."""
        with self._changed:
            self._check_open()
            if node not in self._backing:
                self._backing[node] = kernel.open_backing(self.connection.fuse_fd, file_fd)
            return self._backing[node]

    def close_backing(self, node: int) -> None:
        with self._changed:
            backing_id = self._backing.pop(node, 0)
            if backing_id and not self._closed:
                kernel.close_backing(self.connection.fuse_fd, backing_id)

    def close(self) -> None:
        """End the connection; its daemons see ENODEV and exit."""
        with self._changed:
            self._closed = True
            self._serving.clear()
            self.connection.close()
            self._changed.notify_all()

    @property
    def is_served(self) -> bool:
        return bool(self._serving)

    @property
    def daemons(self) -> int:
        return len(self._serving)

    def _resend(self) -> None:
        self._owes_resend = False
        self.connection.resend()
        BROKER_RESENDS.inc()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"runtime {self.key}: the mount has ended")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
