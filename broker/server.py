"""The broker's sockets: one for control clients, and one per runtime for its daemons; a thread per connection."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from broker import wire
from broker.broker import Broker
from broker.runtime import ServedRuntime
from datamodel.errors import Corrupt, HeadraceError, PermissionRefused, Unavailable
from datamodel.names import RuntimeKey
from obs import logs

log = logs.get("broker")


class BrokerServer:
    """Serves *broker* on *control_socket* (root and our own user only) from construction to `close()`.

    Raises:
        Unavailable: another broker answers on the socket.
    """

    def __init__(self, broker: Broker, control_socket: str) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._listeners: dict[RuntimeKey, _Listener] = {}
        if _is_answered(control_socket):
            raise Unavailable(f"control socket: another broker answers on {control_socket}")
        Path(control_socket).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._control = _Listener(control_socket, os.geteuid(), self._serve_control)

    def problem(self) -> str:
        """For a liveness probe: what keeps the broker from mounting, or an empty string."""
        return "" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse cannot be opened"

    def close(self) -> None:
        """Stop listening and detach every mount."""
        self._control.close()
        with self._lock:
            for listener in self._listeners.values():
                listener.close()
            self._listeners.clear()
        self._broker.close()

    def mount(self, key: RuntimeKey, token: str, daemon_uid: int) -> None:
        """Mount *key* and listen for its daemons; done already is fine."""
        runtime, _ = self._broker.mount(key, token, daemon_uid)
        with self._lock:
            if key not in self._listeners:
                self._listeners[key] = _Listener(
                    str(runtime.paths.socket), daemon_uid, lambda peer: self._serve_daemon(runtime, peer)
                )

    def unmount(self, key: RuntimeKey) -> None:
        """End the mount of *key* and its socket."""
        self._broker.unmount(key)
        with self._lock:
            listener = self._listeners.pop(key, None)
        if listener is not None:
            listener.close()

    # ---- control clients ----------------------------------------------------------------------------------------

    def _serve_control(self, peer: socket.socket) -> None:
        if wire.peer_uid(peer) not in (0, os.geteuid()):
            wire.send(peer, wire.failure(PermissionRefused("control socket: root only")))
            return
        while (packet := wire.receive_request(peer)) is not None:
            request, fds = packet
            for fd in fds:
                os.close(fd)
            wire.send(peer, _answer(lambda request=request: self._control_reply(request)))  # type: ignore[misc]  # mypy cannot type the default

    def _control_reply(self, request: wire.Request) -> wire.Reply:
        match request:
            case wire.Mount(key, token, daemon_uid):
                self.mount(RuntimeKey.parse(key), token, daemon_uid)
            case wire.WaitServed(key, deadline_s):
                self._broker.runtime(RuntimeKey.parse(key)).wait_served(deadline_s)
            case wire.Bind(key, target, sub_path, read_only, deadline_s, no_exec):
                self._broker.bind(
                    RuntimeKey.parse(key),
                    target,
                    sub_path,
                    read_only=read_only,
                    no_exec=no_exec,
                    deadline_s=deadline_s,
                )
            case wire.Unbind(target):
                self._broker.unbind(target)
            case wire.Unmount(key):
                self.unmount(RuntimeKey.parse(key))
            case wire.Runtimes():
                return wire.RuntimeList(self._broker.runtimes())
            case wire.Statistics(key, deadline_s):
                return self._broker.statistics(RuntimeKey.parse(key), deadline_s)
            case _:
                raise Corrupt(f"{type(request).__name__} belongs on a runtime's socket, not on the control socket")
        return wire.Done()

    # ---- daemons ------------------------------------------------------------------------------------------------

    def _serve_daemon(self, runtime: ServedRuntime, peer: socket.socket) -> None:
        device = None
        try:
            while (packet := wire.receive_request(peer)) is not None:
                request, fds = packet
                try:
                    if isinstance(request, wire.Attach) and device is None:
                        device = self._attach(runtime, peer, request)
                    elif device is None:
                        raise PermissionRefused("attach first")
                    else:
                        reply = _answer(
                            lambda device=device, request=request, fds=fds: _daemon_reply(runtime, device, request, fds)  # type: ignore[misc]  # mypy cannot type the defaults
                        )
                        wire.send(peer, reply)
                except HeadraceError as error:
                    log.warning("daemon.refused", runtime=str(runtime.key), error=str(error))
                    wire.send(peer, wire.failure(error))
                    return
                finally:
                    for fd in fds:
                        os.close(fd)
        finally:
            if device is not None:
                runtime.take_back(device)
                log.info("daemon.gone", runtime=str(runtime.key), daemons=runtime.daemons)

    def _attach(self, runtime: ServedRuntime, peer: socket.socket, request: wire.Attach) -> int:
        if (uid := wire.peer_uid(peer)) not in (0, runtime.daemon_uid):
            raise PermissionRefused(f"runtime {runtime.key}: user {uid} is not the daemons' user {runtime.daemon_uid}")
        runtime.check_token(request.token)
        device = runtime.lend(blocking=request.blocking)
        connection = runtime.connection
        attached = wire.Attached(
            passthrough=connection.has_passthrough,
            no_open=runtime.no_open,
            resend=connection.has_resend,
            read_ahead_kib=runtime.read_ahead_kib,
            read_ahead_problem=runtime.read_ahead_problem,
        )
        try:
            wire.send(peer, attached, (device,))
        except OSError:
            runtime.take_back(device)
            raise
        log.info("daemon.attached", runtime=str(runtime.key))
        return device


def _daemon_reply(runtime: ServedRuntime, device: int, request: wire.Request, fds: list[int]) -> wire.Reply:
    match request:
        case wire.Ready():
            runtime.mark_ready(device)
        case wire.Settle(no_open):
            return wire.Settled(runtime.settle(no_open=no_open))
        case wire.OpenBacking(node) if len(fds) == 1:
            try:
                return wire.Backing(runtime.open_backing(node, fds[0]))
            except OSError as error:
                raise Unavailable(f"passthrough of node {node}: {error.strerror}") from error
        case wire.CloseBacking(node):
            runtime.close_backing(node)
        case _:
            raise Corrupt(f"{type(request).__name__} is not for a runtime's socket, or its file is missing")
    return wire.Done()


def _answer(act: Callable[[], wire.Reply]) -> wire.Reply:
    try:
        return act()
    except HeadraceError as error:
        return wire.failure(error)
    except OSError as error:
        log.error("request.failed", error=str(error))
        return wire.Failed("Unavailable", f"the kernel refused: {error}")


class _Listener:
    """A SOCK_SEQPACKET listener whose socket file belongs to *uid*; runs *serve* in a thread per connection."""

    def __init__(self, path: str, uid: int, serve: Callable[[socket.socket], None]) -> None:
        self._path, self._serve = path, serve
        self._peers: set[socket.socket] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        Path(path).unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            with wire.short_path(path) as short:
                self._socket.bind(short)
        finally:
            os.umask(mask)
        if uid != os.geteuid():
            os.chown(path, uid, -1)
        self._inode = Path(path).stat().st_ino
        self._socket.listen(64)
        threading.Thread(target=self._accept, name=f"listen {path}", daemon=True).start()

    def close(self) -> None:
        """Stop accepting, cut the open connections, remove the socket file unless a successor owns it by now."""
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept(); closing alone would not
        self._socket.close()
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(FileNotFoundError):
            if Path(self._path).stat().st_ino == self._inode:
                Path(self._path).unlink()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._run, args=(peer,), daemon=True).start()

    def _converse(self, peer: socket.socket) -> None:
        try:
            self._serve(peer)
        except Corrupt as error:
            log.warning("packet.refused", socket=self._path, error=str(error))
            wire.send(peer, wire.failure(error))

    def _run(self, peer: socket.socket) -> None:
        self._peers.add(peer)
        try:
            with peer:
                self._converse(peer)
        except (BrokenPipeError, ConnectionResetError):
            log.debug("peer.gone", socket=self._path)
        except Exception:  # a task's top: one bad connection must not end the broker
            log.exception("connection.failed", socket=self._path)
        finally:
            self._peers.discard(peer)


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            with wire.short_path(path) as short:
                probe.connect(short)
        except OSError:
            return False
        return True
