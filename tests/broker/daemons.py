"""The smallest FUSE daemon that a broker can lend a device to, in a thread: some folders, one file, statfs."""

import contextlib
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Iterator

from broker.client import BrokerSession

BUFFER_BYTES = 2 << 20  # the kernel wants room for its largest request
# Python asks for attributes of a file it opens without letting other threads run, so the kernel has to know them.
_LONG_S = 3600
CONTENT = b"served by the smallest daemon\n"
_FOLDERS = {1: {b"file": 2, b"dir": 3}, 3: {b"with space": 4}, 4: {}}
_FORGET, _BATCH_FORGET, _INTERRUPT = 2, 42, 36
_LOOKUP, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE, _FLUSH = 1, 3, 14, 15, 17, 18, 25
_OPENDIR, _READDIR, _RELEASEDIR, _READDIRPLUS = 27, 28, 29, 44


class SmallDaemon:
    """Attaches to the broker at *socket*. It answers nothing before `serve`, as a stopped process would not."""

    def __init__(self, socket: str, token: str) -> None:
        self._session = BrokerSession(socket, token, blocking=False, deadline_s=5)
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def ready(self) -> None:
        """Claim to serve."""
        self._session.ready()

    def serve(self) -> None:
        self._thread.start()
        self.ready()

    def close(self) -> None:
        os.write(self._stop_writer, b"x")
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop_reader)
        os.close(self._stop_writer)
        self._session.close()

    def _run(self) -> None:
        device = self._session.fuse_fd
        while True:
            readable, _, _ = select.select([device, self._stop_reader], [], [])
            if self._stop_reader in readable:
                return
            try:
                request = os.read(device, BUFFER_BYTES)
            except BlockingIOError:
                continue  # taken back by the kernel, or by another daemon
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                return  # the mount has ended
            self._answer(device, request)

    def _answer(self, device: int, request: bytes) -> None:
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return
        code, body = _reply(opcode, node, request[40:])
        with contextlib.suppress(FileNotFoundError):  # the caller was interrupted
            os.write(device, struct.pack("<IiQ", 16 + len(body), -code, unique) + body)


@contextlib.contextmanager
def small_daemon(socket: str, token: str) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(socket, token)
    try:
        daemon.serve()
        yield daemon
    finally:
        daemon.close()


def _reply(opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
    if opcode == _LOOKUP:
        child = _FOLDERS.get(node, {}).get(body.rstrip(b"\0"))
        return (
            (errno.ENOENT, b"")
            if child is None
            else (0, struct.pack("<QQQQII", child, 0, _LONG_S, _LONG_S, 0, 0) + _attr(child))
        )
    if opcode == _GETATTR:
        return 0, struct.pack("<QII", _LONG_S, 0, 0) + _attr(node)
    if opcode in (_OPEN, _OPENDIR):
        return 0, struct.pack("<QII", node, 0, 0)
    if opcode == _READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return 0, CONTENT[offset : offset + size]
    if opcode == _STATFS:
        return 0, struct.pack("<QQQQQIIII6I", 1000, 100, 50, 20, 5, 4096, 255, 4096, 0, *[0] * 6)
    if opcode in (_READDIR, _READDIRPLUS, _RELEASE, _RELEASEDIR, _FLUSH):
        return 0, b""
    return errno.ENOSYS, b""


def _attr(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o555 if node in _FOLDERS else stat.S_IFREG | 0o444
    size = 0 if node in _FOLDERS else len(CONTENT)
    return struct.pack("<6Q3I7I", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
