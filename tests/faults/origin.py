"""A web server for tests whose every response can be made wrong: honest unless its *plan* names a fault.

It speaks HTTP/1.1 with kept connections, ranges, ETags and conditions, and shows one flat folder as an HTML index. What
a `Fault` asks for happens to that one response; the next request asks the plan again.
"""

import email.utils
import html
import http.server
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast
from urllib.parse import quote, unquote

_PIECE = 1 << 18
_WAIT_S = 20
_MODIFIED = email.utils.formatdate(1_700_000_000, usegmt=True)


class Content(Protocol):
    """Bytes of a file, made or held."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """*length* bytes from *offset*, which both lie inside."""


@dataclass(frozen=True)
class Held:
    """A file that is in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


@dataclass(frozen=True)
class Patterned:
    """A file of any *size* that takes no room: each 4 KiB page repeats its own number."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset >> 12, (offset + length - 1) >> 12
        pages = b"".join(page.to_bytes(8, "little") * 512 for page in range(first, last + 1))
        return pages[offset - (first << 12) :][:length]


@dataclass(frozen=True)
class Asked:
    """One request. *offset* and *length* are those of the bytes it asks for; 0 for HEAD and the index."""

    method: str
    name: str
    """Of the file; "" for the index."""
    offset: int = 0
    length: int = 0


@dataclass(frozen=True)
class Fault:
    """What is wrong with one response; the fields combine."""

    status: int = 0
    """Answer with this status and no content, if it is not 0."""
    retry_after_s: int | None = None
    cut_after: int | None = None
    """Send so many bytes of the body and close, although the header promised all."""
    stall_after: int | None = None
    """Send so many bytes of the body, and the rest only when `release` was called."""
    extra_length: int = 0
    """Added to the true Content-Length."""
    ignores_range: bool = False
    """Answer 200 with the whole file."""
    ignores_conditions: bool = False
    refuses: bool = False
    """Close the connection without a word."""


HONEST = Fault()
Plan = Callable[[Asked], Fault | None]


@dataclass
class _File:
    content: Content
    etag: str
    versions: int = 1


@dataclass
class FaultyOrigin:
    """A context manager; `url` ends with a slash. Files and `plan` may be changed while it runs. Thread-safe."""

    plan: Plan = lambda asked: None
    asked: list[Asked] = field(default_factory=list)
    _files: dict[str, _File] = field(default_factory=dict)
    _released: threading.Event = field(default_factory=threading.Event)
    _stalling: threading.Condition = field(default_factory=threading.Condition)
    _stalled: int = 0

    def put(self, name: str, content: Content | bytes) -> None:
        """Make or replace a file; a replaced one has another ETag."""
        held = Held(content) if isinstance(content, bytes) else content
        versions = self._files[name].versions + 1 if name in self._files else 1
        self._files[name] = _File(held, f'"{name.encode().hex()[:16]}-{versions}"', versions)

    def remove(self, name: str) -> None:
        del self._files[name]

    def counts(self) -> Counter[str]:
        """Requests so far, by method and name: `GET big`."""
        return Counter(f"{asked.method} {asked.name}" for asked in list(self.asked))

    def release(self) -> None:
        """End every stall; from now on there are none."""
        self._released.set()

    def until_stalled(self, count: int = 1) -> None:
        """Wait for so many responses that stall, over all the time."""
        with self._stalling:
            assert self._stalling.wait_for(lambda: self._stalled >= count, _WAIT_S), "no response stalled"

    def _stall(self) -> None:
        with self._stalling:
            self._stalled += 1
            self._stalling.notify_all()
        self._released.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> "FaultyOrigin":
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    def start(self, port: int = 0) -> None:
        """Listen; on the *port* of before, if the same clients are to find it again."""
        self._released.clear()
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> int:
        """End every connection and refuse new ones; returns the port."""
        self._released.set()
        self._server.shutdown()
        self._server.end_connections()
        self._server.server_close()
        self._thread.join()
        return self._server.server_port


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self._connections.discard(cast(socket.socket, request))
        super().shutdown_request(request)

    def end_connections(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its client was first

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is what many tests are about."""


def _handler_of(origin: FaultyOrigin) -> type[http.server.BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"origin": origin})


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin: FaultyOrigin

    def log_message(self, format: str, *args: object) -> None:
        """Requests are kept in `asked`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        name = unquote(self.path.partition("?")[0].lstrip("/"), errors="surrogateescape")
        file = self.origin._files.get(name)
        span = self._range(file) if file is not None else None
        asked = Asked(self.command, name)
        if file is not None and self.command == "GET":
            asked = replace(asked, offset=span[0] if span else 0, length=span[1] if span else file.content.size)
        self.origin.asked.append(asked)
        fault = self.origin.plan(asked) or HONEST
        if fault.refuses:
            self.close_connection = True
        elif fault.status:
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            self._send(fault.status, Held(b""), 0, 0, headers, fault)
        elif not name:
            page = Held(self._index())
            self._send(200, page, 0, page.size, {"Content-Type": "text/html"}, fault)
        elif file is None:
            self._send(404, Held(b""), 0, 0, {}, fault)
        else:
            self._send_file(file, span, fault)

    def _send_file(self, file: _File, span: tuple[int, int] | None, fault: Fault) -> None:
        headers = {"ETag": file.etag, "Last-Modified": _MODIFIED}
        if not fault.ignores_range:
            headers["Accept-Ranges"] = "bytes"
        condition = self.headers.get("If-Match")
        if condition not in (None, file.etag) and not fault.ignores_conditions:
            self._send(412, Held(b""), 0, 0, {}, fault)
        elif span is None or fault.ignores_range:
            self._send(200, file.content, 0, file.content.size, headers, fault)
        elif not span[1]:
            self._send(416, Held(b""), 0, 0, {"Content-Range": f"bytes */{file.content.size}"}, fault)
        else:
            headers["Content-Range"] = f"bytes {span[0]}-{span[0] + span[1] - 1}/{file.content.size}"
            self._send(206, file.content, *span, headers, fault)

    def _range(self, file: _File) -> tuple[int, int] | None:
        """Offset and length asked for; the length is 0 behind the end; None where there is no range."""
        text = self.headers.get("Range", "").removeprefix("bytes=")
        if not text:
            return None
        first, _, last = text.partition("-")
        start = min(int(first), file.content.size)
        return start, min(int(last) + 1 if last else file.content.size, file.content.size) - start

    def _index(self) -> bytes:
        links = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a>\n' for name in sorted(self.origin._files))
        return f"<html><title>Index of /</title><pre>\n{links}</pre></html>\n".encode()

    def _send(
        self, status: int, content: Content, offset: int, length: int, headers: dict[str, str], fault: Fault
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length + fault.extra_length))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = length if fault.cut_after is None else min(length, fault.cut_after)
        first = end if fault.stall_after is None else min(end, fault.stall_after)
        self._send_bytes(content, offset, first)
        if fault.stall_after is not None:
            self.origin._stall()
            self._send_bytes(content, offset + first, end - first)
        if end < length or fault.extra_length:
            self.close_connection = True

    def _send_bytes(self, content: Content, offset: int, length: int) -> None:
        for start in range(offset, offset + length, _PIECE):
            self.wfile.write(content.read(start, min(_PIECE, offset + length - start)))


def sometimes(fault: Fault, every: int, *, method: str = "GET", name: str | None = None) -> Plan:
    """A plan that makes every *every*-th matching request fail by *fault*, the first one included."""
    lock, seen = threading.Lock(), [0]

    def plan(asked: Asked) -> Fault | None:
        if asked.method != method or not asked.name or name not in (None, asked.name):
            return None
        with lock:
            seen[0] += 1
            return fault if seen[0] % every == 1 % every else None

    return plan
