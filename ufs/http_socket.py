"""Connections to one web server: opened, kept for the next request, closed. Raises `OSError` and `UserError` alone.

A plain connection is a blocking socket with the kernel's own time-outs, so one system call fills a whole buffer; TLS
needs Python's.
"""

import select
import socket
import ssl
import struct
import threading
import time
import weakref
from dataclasses import dataclass

from datamodel.errors import UserError
from ufs.http_proxy import Origin, Proxy, proxy_for
from ufs.options import CONNECT_TIMEOUT_S, READ_TIMEOUT_S

POOL_SIZE = 32
"""Connections to one host; a thread that finds all in use waits as long as for a stalled server."""
HEAD_LIMIT_BYTES = 64 << 10

_IDLE_LIMIT_S = 30.0  # servers and address translators forget idle connections, some after a minute, without a word
_PIECE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Time-outs of one source. A stall is noticed after once to twice the read time-out."""

    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S


class Connection:
    """A byte stream with a small buffer for heads and lines; bodies go past it. Not thread-safe."""

    __slots__ = ("_buffer", "_end", "_flags", "_idle_since", "_poll", "_socket", "_start", "_view", "is_reused")

    def __init__(self, connected: socket.socket, read_timeout_s: float) -> None:
        self._socket = connected
        self._buffer = bytearray(HEAD_LIMIT_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._flags = 0
        self._idle_since = 0.0
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self.is_reused = False
        """It has served a request before, so the server may have closed it since."""
        if isinstance(connected, ssl.SSLSocket):
            connected.settimeout(read_timeout_s)
        else:
            _set_kernel_timeouts(connected, read_timeout_s)
            self._flags = socket.MSG_WAITALL

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        """All up to *mark*, which is read too and not returned; b"" when the stream ends before anything came.

        Raises:
            ConnectionError: the stream ends, or *mark* does not come within `HEAD_LIMIT_BYTES`.
        """
        looked = self._start
        while (found := self._buffer.find(mark, looked, self._end)) < 0:
            looked = max(self._start, self._end - len(mark) + 1)
            if self._end == HEAD_LIMIT_BYTES:
                looked -= self._start
                self._compact()
            count = self._socket.recv_into(self._view[self._end : self._end + _PIECE_BYTES])
            if count == 0:
                if self._start == self._end:
                    return b""
                raise ConnectionError(f"the response broke off in its {self._end - self._start}th byte")
            self._end += count
        data = bytes(self._buffer[self._start : found])
        self._start = found + len(mark)
        return data

    def _compact(self) -> None:
        if self._start == 0:
            raise ConnectionError(f"the response has a head or a line of more than {HEAD_LIMIT_BYTES} bytes")
        rest = bytes(self._buffer[self._start : self._end])  # copy: source and target overlap
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def read_into(self, into: memoryview) -> int:
        """Fill *into*; less only where the stream ends."""
        filled = min(len(into), self._end - self._start)
        if filled:
            into[:filled] = self._view[self._start : self._start + filled]
            self._start += filled
        while filled < len(into) and (count := self._socket.recv_into(into[filled:], 0, self._flags)):
            filled += count
        return filled

    def rest(self) -> None:
        """Note that a response is over and the next request may take a while."""
        self.is_reused = True
        self._idle_since = time.monotonic()

    def is_usable(self) -> bool:
        """Whether a request may be sent: the server has not closed it, nor sent what nobody asked for."""
        is_silent = self._start == self._end and not self._poll.poll(0)
        self._start = self._end = 0
        return is_silent and time.monotonic() - self._idle_since < _IDLE_LIMIT_S

    def close(self) -> None:
        self._socket.close()


class Connector:
    """Opens connections as one source wants them: time-outs, certificates, the environment's proxies."""

    def __init__(self, limits: Limits, ca_file: str | None) -> None:
        self.limits, self._ca_file = limits, ca_file
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()

    def open(self, origin: Origin, proxy: Proxy | None) -> Connection:
        host, port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
        connected = socket.create_connection((host, port), timeout=self.limits.connect_timeout_s)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if origin.scheme == "https":
                if proxy is not None:
                    _open_tunnel(connected, origin, proxy)
                connected = self._context().wrap_socket(connected, server_hostname=origin.host)
            return Connection(connected, self.limits.read_timeout_s)
        except BaseException:
            connected.close()
            raise

    def _context(self) -> ssl.SSLContext:
        with self._tls_lock:  # made at the first use: reading the system's certificates takes 20 ms
            if self._tls is None:
                try:
                    self._tls = ssl.create_default_context(cafile=self._ca_file)
                except ssl.SSLError as error:
                    raise UserError(f"option 'ca-file': {self._ca_file!r} holds no certificates in PEM form") from error
            return self._tls


class Pool:
    """The connections to one origin. Thread-safe."""

    def __init__(self, origin: Origin, connector: Connector) -> None:
        self.proxy = proxy_for(origin)
        self._origin, self._connector = origin, connector
        self._slots = threading.BoundedSemaphore(POOL_SIZE)
        self._idle: list[Connection] = []
        self._is_closed = False
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def take(self, *, fresh: bool = False) -> Connection:
        """A connection for one request, to hand back by `give` or `drop`; a new one if *fresh* or none is idle.

        Raises:
            TimeoutError: all were in use for the time of a stalled response.
        """
        if not self._slots.acquire(timeout=self._connector.limits.read_timeout_s):
            raise TimeoutError(f"all {POOL_SIZE} connections to {self._origin.host} are in use")
        try:
            while not fresh and self._idle:
                try:
                    connection = self._idle.pop()  # the one used last is the likeliest to be alive
                except IndexError:
                    break  # another thread was faster
                if connection.is_usable():
                    return connection
                connection.close()
            return self._connector.open(self._origin, self.proxy)
        except BaseException:
            self._slots.release()
            raise

    def give(self, connection: Connection) -> None:
        """Keep *connection*, whose response was read to its end."""
        connection.rest()
        self._idle.append(connection)
        self._slots.release()
        if self._is_closed:
            _close_all(self._idle)

    def drop(self, connection: Connection) -> None:
        """Close *connection*: nobody knows what it would deliver next."""
        connection.close()
        self._slots.release()

    def close(self) -> None:
        """Close what is idle now; what is in use follows when it is handed back."""
        self._is_closed = True
        _close_all(self._idle)


def _close_all(connections: list[Connection]) -> None:
    while connections:
        try:
            connections.pop().close()
        except IndexError:
            return  # another thread was faster


def _set_kernel_timeouts(connected: socket.socket, read_timeout_s: float) -> None:
    connected.settimeout(None)
    seconds = int(read_timeout_s)
    value = struct.pack("ll", seconds, max(1, int((read_timeout_s - seconds) * 1e6)))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _open_tunnel(connected: socket.socket, origin: Origin, proxy: Proxy) -> None:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    connected.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows belongs to TLS
        byte = connected.recv(1)
        if not byte or len(head) > HEAD_LIMIT_BYTES:
            raise ConnectionError(f"the proxy {proxy.host}:{proxy.port} ended the connection")
        head += byte
    status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
    if status == [b"407"]:
        raise UserError(f"the proxy {proxy.host}:{proxy.port} refuses our credentials; check HTTPS_PROXY")
    if status != [b"200"]:
        raise ConnectionError(f"the proxy {proxy.host}:{proxy.port} opens no way to {host}:{origin.port}")
