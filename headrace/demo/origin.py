"""A small HTTP origin for the demo: an index, ranges, ETags, and a limit of speed, as a mirror far away would have."""

import html
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

_PIECE = 64 << 10


class Origin:
    """Serves *folder* on a free loopback port, at *bytes_per_s* in all, from construction to `close()`."""

    def __init__(self, folder: Path, bytes_per_s: int) -> None:
        self._budget = _Budget(bytes_per_s)
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                origin._answer(self, folder)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Silent: the demo prints a table of its own."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        """Stop answering; connections that are open are cut."""
        self._server.shutdown()
        self._server.server_close()
        self._budget.close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, folder: Path) -> None:
        path = folder / unquote(request.path).strip("/")
        if ".." in path.parts or not path.exists():
            request.send_error(404)
        elif path.is_dir() and not request.path.endswith("/"):
            request.send_response(301)
            request.send_header("Location", request.path + "/")
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif path.is_dir():
            self._index(request, path)
        else:
            self._file(request, path)

    def _index(self, request: BaseHTTPRequestHandler, path: Path) -> None:
        names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
        rows = "\n".join(f'<a href="{quote(name)}">{html.escape(name)}</a>' for name in names)
        body = f"<html><body><h1>Index</h1><pre>{rows}</pre></body></html>".encode()
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def _file(self, request: BaseHTTPRequestHandler, path: Path) -> None:
        status = path.stat()
        first, last = 0, status.st_size - 1
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes="):
            low, _, high = wanted[6:].partition("-")
            first, last = int(low), min(last, int(high) if high else last)
        request.send_response(206 if wanted else 200)
        request.send_header("Content-Length", str(last - first + 1))
        request.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')
        request.send_header("Accept-Ranges", "bytes")
        if wanted:
            request.send_header("Content-Range", f"bytes {first}-{last}/{status.st_size}")
        request.end_headers()
        if request.command == "GET":
            with path.open("rb") as file:
                self._send(request, file.fileno(), first, last + 1)

    def _send(self, request: BaseHTTPRequestHandler, fd: int, start: int, end: int) -> None:
        try:
            while start < end:
                count = min(_PIECE, end - start)
                self._budget.spend(count)
                request.wfile.write(os.pread(fd, count, start))
                start += count
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that was killed cuts its connections, which is part of the demo; anything else is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # the base class narrows too much


class _Budget:
    """A shared rate: `spend` waits until the bytes may go."""

    def __init__(self, bytes_per_s: int) -> None:
        self._rate, self._lock, self._next = bytes_per_s, threading.Lock(), time.monotonic()
        self._closed = threading.Event()

    def spend(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + count / self._rate
            pause_s = self._next - now
        if pause_s > 0 and self._closed.wait(pause_s):
            raise ConnectionResetError("the origin is closed")

    def close(self) -> None:
        self._closed.set()
