"""Web servers for tests, on loopback and free ports: nginx, Python's, and one that follows a script."""

import contextlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

_NGINX = """
daemon off; worker_processes 1; pid {run}/pid; error_log stderr crit; {user}
events {{ worker_connections 256; }}
http {{
    access_log off; keepalive_requests 100000; types {{ }} default_type application/octet-stream;
    client_body_temp_path {run}; proxy_temp_path {run}; fastcgi_temp_path {run}; uwsgi_temp_path {run};
    scgi_temp_path {run};
    server {{ listen {address}; root {root}; {options} }}
}}
"""


@contextmanager
def nginx(root: Path, run: Path, options: str) -> Iterator[str]:
    """Serve *root* until the end of the block; yields the address with a slash at its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The socket listens before nginx runs, so the first request just waits: there is nothing to poll for.
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        user = "user root;" if os.geteuid() == 0 else ""
        listener.setblocking(False)  # nginx takes an inherited socket as it is
        config = run / "nginx.conf"
        config.write_text(_NGINX.format(run=run, root=root, address=address, options=options, user=user))
        process = subprocess.Popen(
            ["nginx", "-e", "stderr", "-p", str(run), "-c", str(config)],
            env={**os.environ, "NGINX": f"{listener.fileno()};", "PATH": f"{os.environ['PATH']}:/usr/sbin"},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
        )
        try:
            yield f"http://{address}/"
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    # nginx notes a signal that comes while it starts, and then sleeps until the next one.
    while process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line."""


@contextmanager
def python_server(root: Path, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve *root* by `http.server`, which knows no ranges."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(root))) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""


@dataclass(frozen=True)
class Answer:
    """Raw bytes to send, and what to do then."""

    raw: bytes
    then: str = "keep"
    """`keep` the connection, `close` it, or `stall`: send nothing more until the client gives up."""


def answer(
    status: int,
    body: bytes = b"",
    *,
    then: str = "keep",
    head: bool = False,
    headers: Mapping[str, str] | None = None,
    **more: str,
) -> Answer:
    """A well-formed response; underscores in header names stand for hyphens. *head*: leave the body out."""
    lines = {name.replace("_", "-"): value for name, value in {**(headers or {}), **more}.items()}
    lines = {"Content-Length": str(len(body)), **lines}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return Answer(f"HTTP/1.1 {status} Scripted\r\n{text}\r\n".encode("latin-1") + (b"" if head else body), then)


class ScriptedServer:
    """Answers each request with what *script* returns for it, byte for byte; keeps what was asked in *requests*."""

    def __init__(self, script: Callable[[Request], Answer]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._connections: list[socket.socket] = []
        self.requests: list[Request] = []
        self.connection_count = 0
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> "ScriptedServer":
        return self

    def __exit__(self, *details: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was first
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down
            self.connection_count += 1
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while (request := _read_request(stream)) is not None:
                    self.requests.append(request)
                    reply = self._script(request)
                    connection.sendall(reply.raw)
                    if reply.then == "stall":
                        stream.read()
                    if reply.then != "keep":
                        return
            except ConnectionError:
                return  # the client gave up, which some scripts are about


def _read_request(stream: IO[bytes]) -> Request | None:
    first = stream.readline().decode("latin-1").split()
    if not first:
        return None
    headers = {}
    while (line := stream.readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    stream.read(int(headers.get("content-length", 0)))
    return Request(first[0], first[1], headers)
