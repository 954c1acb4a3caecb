"""The block server of a worker: the cached dataset over HTTP/1.1, so that curl can read it too.

    GET  /files/PATH     bytes, with Range and If-Match: "<version>"; the body leaves by sendfile where it is cached
    HEAD /files/PATH     size, version and mtime of a file, or what a symbolic link names; Content-Type
                         application/json for a directory
    GET  /files/PATH/    a directory's entries as JSON

Every request carries the runtime's token: `Authorization: Bearer …`. Errors are one line of text: 401 wrong token, 404
no such path, 412 another version, 416 range outside the file, 503 the source is away.
"""

import errno
import hmac
import os
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

import h11
import msgspec
import trio

from blockcache.cachefile import CacheFile
from blockcache.catalog import Node
from blockcache.dataset import Buffer, CachedDataset
from blockcache.peer import EXECUTABLE_HEADER, LINK_HEADER, MTIME_HEADER, VERSION_HEADER, ListedEntry
from datamodel.errors import (
    Corrupt,
    HeadraceError,
    NotFound,
    PermissionRefused,
    Precondition,
    UserError,
    VersionChanged,
)
from obs import logs

log = logs.get("worker")

_RECEIVE_BYTES = 16384
_IDLE_S, _SEND_S = 75.0, 60.0
_PIECE_BYTES = 8 << 20
_STATUS: tuple[tuple[type[HeadraceError], int], ...] = (
    (NotFound, 404),
    (PermissionRefused, 401),
    (VersionChanged, 412),
    (Precondition, 416),
    (UserError, 400),
)
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
Headers = list[tuple[str, str]]


class BlockServer:
    """Serves *dataset* to holders of *token* (empty: to everybody, for tests on loopback)."""

    def __init__(self, dataset: CachedDataset, token: str) -> None:
        self._dataset, self._authorization = dataset, f"Bearer {token}".encode() if token else b""

    async def serve(self, port: int, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections on *port* of all addresses until cancelled; reports the port it got."""
        listeners = await trio.open_tcp_listeners(port, host=None)
        task_status.started(int(listeners[0].socket.getsockname()[1]))
        await trio.serve_listeners(self._converse, listeners)

    async def _converse(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            async with stream:
                while True:
                    with trio.move_on_after(_IDLE_S) as idle:
                        request = await self._receive(connection, stream)
                    if idle.cancelled_caught or request is None:
                        return
                    await self._respond(connection, stream, request)
                    if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                        return
                    connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError) as error:
            log.debug("peer.gone", error=str(error))
        except Exception:  # a task's top: one bad connection must not end the worker
            log.exception("connection.failed")

    async def _receive(self, connection: h11.Connection, stream: trio.SocketStream) -> h11.Request | None:
        """The next request with its (ignored) body read; None at the end of the connection."""
        request: h11.Request | None = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(_RECEIVE_BYTES))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None

    async def _respond(self, connection: h11.Connection, stream: trio.SocketStream, request: h11.Request) -> None:
        try:
            self._check(request)
            path = unquote(request.target.decode("ascii").partition("?")[0], "utf-8", "surrogateescape")
            if not path.startswith("/files/"):
                raise NotFound("no such page; files are below /files/")
            node = await self._dataset.tree.resolve(path.removeprefix("/files/"))
            # A client that wants bytes must not take a listing for them, nor the other way round.
            if node.is_dir != path.endswith("/") and request.method == b"GET":
                raise NotFound(f"{path!r}: a {'folder; end it' if node.is_dir else 'file; do not end it'} with a slash")
            if node.is_dir and b"range" in dict(request.headers):
                raise NotFound(f"{path!r}: a folder has no bytes")
            if node.is_dir:
                await self._send_listing(connection, stream, request, node)
            elif node.link_target is not None:
                await _send_link(connection, stream, request, node)
            else:
                await self._send_file(connection, stream, request, node)
        except HeadraceError as error:
            if connection.our_state is not h11.SEND_RESPONSE:
                raise trio.BrokenResourceError from error  # headers are out: only closing tells the peer
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
            await _send_all(
                connection, stream, request, status, [("Content-Type", "text/plain")], f"{error}\n".encode()
            )

    def _check(self, request: h11.Request) -> None:
        given = dict(request.headers).get(b"authorization", b"")
        if self._authorization and not hmac.compare_digest(given, self._authorization):
            raise PermissionRefused("wrong or missing token")
        if request.method not in (b"GET", b"HEAD"):
            raise UserError(f"method {request.method.decode()!r}: only GET and HEAD")

    async def _send_listing(
        self, connection: h11.Connection, stream: trio.SocketStream, request: h11.Request, node: Node
    ) -> None:
        body = b""
        if request.method == b"GET":
            await self._dataset.tree.ensure_listed(node.id)
            children = self._dataset.catalog.children(node.id, limit=-1)
            body = msgspec.json.encode([_listed(child) for child in children])
        await _send_all(connection, stream, request, 200, [("Content-Type", "application/json")], body)

    async def _send_file(
        self, connection: h11.Connection, stream: trio.SocketStream, request: h11.Request, node: Node
    ) -> None:
        node = await self._dataset.open(node.id)
        headers = dict(request.headers)
        if headers.get(b"if-match", _quoted(node)) != _quoted(node):
            await self._dataset.tree.renew(node)
            raise VersionChanged(f"{node.name!r}: this worker sees another version")
        assert node.size is not None
        start, end = _range_of(headers.get(b"range", b"").decode("latin-1"), node.size)
        described: Headers = [
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(end - start)),
            (VERSION_HEADER, _token(node.version)),
            (MTIME_HEADER, str(node.mtime_ns or 0)),
            ("Accept-Ranges", "bytes"),
        ]
        if node.is_executable:
            described.append((EXECUTABLE_HEADER, "1"))
        status = 200
        if b"range" in headers:
            status = 206
            described.append(("Content-Range", f"bytes {start}-{end - 1}/{node.size}"))
        if request.method == b"HEAD":
            await _send_all(connection, stream, request, status, described, b"")
            return
        # The first piece is fetched before the headers go, so that a source that is away can still be a 503.
        file, data = await self._ready(node, start, end)
        await _send_head(connection, stream, status, described)
        while start < end:
            stop = min(end, start + _PIECE_BYTES)
            await _send_body(connection, stream, file.fd, start, stop, data)
            start = stop
            file, data = await self._ready(node, start, end)
        with trio.fail_after(_SEND_S):
            await stream.send_all(connection.send(h11.EndOfMessage()) or b"")

    async def _ready(self, node: Node, start: int, end: int) -> tuple[CacheFile, Buffer]:
        """Have the next piece in the cache. Bytes are given only where they could not be stored in the file.

        The file goes along, since after an eviction there is a new one under the same id, with holes.
        """
        stop = min(end, start + _PIECE_BYTES)
        file = self._dataset.target(node.id).file
        data = await self._dataset.read(node.id, start, stop - start)
        blocks = range(start // file.block_bytes, (stop - 1) // file.block_bytes + 1) if stop > start else range(0)
        # A file that may lose blocks is never sent by the kernel, which would send the holes.
        is_sendable = not file.is_oversize and all(file.has(block) for block in blocks)
        return file, b"" if is_sendable else data


async def _send_link(connection: h11.Connection, stream: trio.SocketStream, request: h11.Request, node: Node) -> None:
    if request.method != b"HEAD":
        raise NotFound(f"{node.name!r}: a symbolic link to {node.link_target!r}; ask for that")
    described = [
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", str(node.size)),
        (LINK_HEADER, _token(node.link_target or "")),
        (MTIME_HEADER, str(node.mtime_ns or 0)),
    ]
    await _send_all(connection, stream, request, 200, described, b"")


def _listed(node: Node) -> ListedEntry:
    # When a directory changed is each worker's own guess, where the source does not say.
    mtime_ns = None if node.is_dir else node.mtime_ns
    link = None if node.link_target is None else _token(node.link_target)
    return ListedEntry(_token(node.name), node.is_dir, node.size, mtime_ns, link, node.is_executable)


class _Body:
    """Stands for *count* bytes in h11's accounting; sendfile moves the real ones."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


async def _send_body(
    connection: h11.Connection, stream: trio.SocketStream, fd: int, start: int, stop: int, data: Buffer
) -> None:
    pieces: Iterable[object] = connection.send_with_data_passthrough(h11.Data(data=_Body(stop - start))) or ()  # type: ignore[arg-type]  # h11's documented way for sendfile
    for piece in pieces:
        with trio.fail_after(_SEND_S):
            if not isinstance(piece, _Body):
                assert isinstance(piece, bytes)
                await stream.send_all(piece)
            elif data:
                await stream.send_all(data)
            else:
                await _send_file_range(stream, fd, start, stop)


async def _send_file_range(stream: trio.SocketStream, fd: int, start: int, stop: int) -> None:
    while start < stop:
        try:
            sent = os.sendfile(stream.socket.fileno(), fd, start, stop - start)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(stream.socket)
            continue
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                raise trio.BrokenResourceError from error
            raise Corrupt(f"cache file: {error.strerror}") from error
        if not sent:
            raise Corrupt("cache file: shorter than its map says")
        start += sent
        await trio.lowlevel.checkpoint()


async def _send_head(connection: h11.Connection, stream: trio.SocketStream, status: int, headers: Headers) -> None:
    with trio.fail_after(_SEND_S):
        await stream.send_all(connection.send(h11.Response(status_code=status, headers=headers)) or b"")


async def _send_all(
    connection: h11.Connection,
    stream: trio.SocketStream,
    request: h11.Request,
    status: int,
    headers: Headers,
    body: bytes,
) -> None:
    if not any(name == "Content-Length" for name, _ in headers):
        headers = [*headers, ("Content-Length", str(len(body)))]
    await _send_head(connection, stream, status, headers)
    with trio.fail_after(_SEND_S):
        if body and request.method != b"HEAD":
            await stream.send_all(connection.send(h11.Data(data=body)) or b"")
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")


def _range_of(header: str, size: int) -> tuple[int, int]:
    """(start, end) of one byte range (RFC 9110 section 14.1.2); the whole file without one.

    Raises:
        Precondition: outside the file, or a form that is not served.
    """
    if not header:
        return 0, size
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        raise Precondition(f"Range: {header!r} is not one range bytes=FIRST-LAST")
    if match[1]:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= end:
        raise Precondition(f"Range: {header!r} is outside the file of {size} bytes")
    return start, end


def _quoted(node: Node) -> bytes:
    return f'"{_token(node.version)}"'.encode()


def _token(text: str) -> str:
    return quote(text.encode(errors="surrogateescape"), safe="")
