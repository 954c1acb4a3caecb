"""One origin server: requests, redirects, credentials, and the translation of everything urllib3 raises.

A `Reply` hands its body out straight into the caller's buffer. Nothing here retries: a failed exchange is an error of
`datamodel.errors`, and messages show URLs without credentials and queries. Thread-safe.
"""

import socket
import ssl
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException, IncompleteRead
from typing import cast
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

import urllib3
from urllib3.response import HTTPResponse

from datamodel.errors import (
    Corrupt,
    HeadraceError,
    NotFound,
    PermissionRefused,
    Precondition,
    Unavailable,
    UserError,
    VersionChanged,
)
from ufs.http_version import retry_after_s

POOL_SIZE = 32
"""Connections to one host; a thread that finds all in use waits as long as for a stalled server."""
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
"""Between two pieces of a response, not for the whole of it."""
REDIRECT_LIMIT = 5

_DRAIN_LIMIT = 64 << 10  # a body up to here is read off to keep its connection; a longer one costs more than a new one
_PIECE = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts of one source."""

    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S


def show_url(url: str) -> str:
    """*url* as it may stand in messages: no credentials, no query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin_of(parts: SplitResult) -> tuple[str, str, int]:
    """What must be equal for credentials to be sent."""
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


class Reply:
    """A response whose body has not been read yet; made by `HttpClient.exchange`."""

    def __init__(self, response: HTTPResponse, url: str, *, is_directory_redirect: bool = False) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.is_directory_redirect = is_directory_redirect
        """The server points at the same path with a slash at its end; the redirect was not followed."""
        self._response = response

    def read_into(self, into: memoryview) -> int:
        """Fill *into* from the body; less only at its end."""
        # The file object below urllib3: its own readinto() makes a bytes object and copies it.
        body = self._response._fp
        filled = 0
        with _translated(self.url):
            while body is not None and filled < len(into) and not body.isclosed():
                count = body.readinto(into[filled:])
                if count == 0:
                    break
                filled += count
        return filled

    def read_exactly(self, count: int) -> bytearray:
        """The whole body, which is promised to have *count* bytes.

        Raises:
            Corrupt: it is shorter.
        """
        content = bytearray(count)
        received = self.read_into(memoryview(content))
        if received < count:
            raise Corrupt(f"{show_url(self.url)}: the source promised {count} bytes and sent {received}")
        return content

    def read_chunks(self, limit: int) -> bytearray:
        """The whole of a body without Content-Length, which must come in chunks: else nobody can tell where it ends.

        Raises:
            Precondition: it is longer than *limit*.
            UserError: it has no chunks.
            Corrupt: it breaks off.
        """
        where = show_url(self.url)
        if self.headers.get("Transfer-Encoding", "").strip().lower() != "chunked":
            raise UserError(f"{where}: the source does not tell the file's size; it must send Content-Length")
        content = bytearray(limit + 1)
        received = self.read_into(memoryview(content))
        if received > limit:
            raise Precondition(f"{where}: has more than {limit} bytes")
        del content[received:]
        return content

    def skip(self, count: int) -> int:
        """Read *count* bytes off the body and forget them; fewer only at its end."""
        scratch = memoryview(bytearray(min(count, _PIECE)))
        done = 0
        while done < count:
            step = self.read_into(scratch[: count - done])
            if step == 0:
                break
            done += step
        return done

    def read_all(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            UserError: it is longer than *limit*.
            Corrupt: it is shorter than its Content-Length.
        """
        pieces, left = [], limit
        body = self._response._fp
        with _translated(self.url):
            while body is not None and left >= 0 and (piece := body.read(min(left + 1, _PIECE))):
                pieces.append(piece)
                left -= len(piece)
        if left < 0:
            raise UserError(f"{show_url(self.url)}: longer than {limit} bytes, too long for an index page")
        if body is not None and body.length:
            raise Corrupt(f"{show_url(self.url)}: the source ended its response {body.length} bytes too early")
        return b"".join(pieces)

    def finish(self) -> None:
        """Give the connection back: usable if the rest of the body is short, else closed."""
        body = self._response._fp
        if body is None or body.isclosed():
            self._response.release_conn()
            return
        try:
            with _translated(self.url):
                if body.length is None:
                    self.skip(_DRAIN_LIMIT)
                elif body.length <= _DRAIN_LIMIT:
                    body.read()  # also ends an empty body, which is open until it is read
        except HeadraceError:  # what was wanted has arrived; only the connection is lost
            self.abandon()
            return
        if not body.isclosed():
            self._response.close()
        self._response.release_conn()

    def abandon(self) -> None:
        """Close the connection: after an error, nobody knows what it would deliver next."""
        self._response.close()
        self._response.release_conn()


class HttpClient:
    """Requests to the host of one source. *authorization* goes to no other origin."""

    def __init__(self, origin: str, authorization: str | None, limits: Limits, ca_file: str | None = None) -> None:
        self._origin = origin_of(urlsplit(origin))
        self._authorization = authorization
        self._pool_timeout_s = limits.read_timeout_s
        self._pools = urllib3.PoolManager(
            num_pools=8,
            maxsize=POOL_SIZE,
            block=True,
            timeout=urllib3.Timeout(connect=limits.connect_timeout_s, read=limits.read_timeout_s),
            ca_certs=ca_file,
        )

    @contextmanager
    def exchange(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Reply]:
        """Send one request, follow redirects, and yield the final response of any status but 3xx.

        One redirect is not followed but reported: to the same path with a slash at its end.
        """
        reply = self._follow(method, url, headers or {})
        try:
            yield reply
        except BaseException:
            reply.abandon()
            raise
        reply.finish()

    def close(self) -> None:
        self._pools.clear()

    def _follow(self, method: str, url: str, headers: Mapping[str, str]) -> Reply:
        current = url
        for _ in range(REDIRECT_LIMIT + 1):
            response = self._send(method, current, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return Reply(response, current)
            target = _redirect_target(current, location)
            if _path_of(target) == _path_of(current) + b"/":
                return Reply(response, target, is_directory_redirect=True)
            Reply(response, current).finish()
            current = target
        raise UserError(f"{show_url(url)}: more than {REDIRECT_LIMIT} redirects; check the server's redirect rules")

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        sent = {"Accept-Encoding": "identity", "User-Agent": "headrace", **headers}
        if self._authorization and origin_of(urlsplit(url)) == self._origin:
            sent["Authorization"] = self._authorization
        with _translated(url):
            response = self._pools.urlopen(
                method,
                url,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                headers=sent,
                pool_timeout=self._pool_timeout_s,
            )
        return cast(HTTPResponse, response)


def _path_of(url: str) -> bytes:
    return unquote_to_bytes(urlsplit(url).path)


def _redirect_target(url: str, location: str) -> str:
    # http.client decodes headers as Latin-1; the bytes themselves belong into the next request.
    escaped = quote(location.encode("latin-1"), safe=string.punctuation)
    try:
        parts = urlsplit(urljoin(url, escaped))
        port = parts.port  # the property checks it
    except ValueError as error:
        raise UserError(f"{show_url(url)}: redirects to an address that cannot be read") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{show_url(url)}: redirects to a {parts.scheme!r} address; only http and https are followed")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts._replace(netloc=host if port is None else f"{host}:{port}", fragment="").geturl()


def check_status(reply: Reply) -> None:
    """Raise the error that *reply*'s status stands for; return on 2xx and on a redirect to a directory."""
    status, where = reply.status, show_url(reply.url)
    if status < 300 or reply.is_directory_redirect:
        return
    if status == 412:
        reply.abandon()  # nginx announces keep-alive with a 412 and closes all the same
    else:
        reply.finish()  # missing files are asked for often, and each must not cost a connection
    raise _error_of(status, where, reply)


def _error_of(status: int, where: str, reply: Reply) -> HeadraceError:
    if status in (404, 410):
        return NotFound(f"{where}: the source has no such path (status {status})")
    if status in (401, 403, 407):
        return PermissionRefused(f"{where}: the source refuses access (status {status}); check the credentials")
    if status == 412:
        return VersionChanged(f"{where}: the source no longer has the pinned version (status 412)")
    if status in (408, 425, 429) or status >= 500:
        wait_s = retry_after_s(reply.headers, datetime.now(UTC))
        return Unavailable(f"{where}: the source answers with status {status}", wait_s)
    return UserError(f"{where}: the source refuses the request with status {status}; check the address")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Raise our errors in place of those of urllib3, http.client and the sockets."""
    try:
        yield
    except urllib3.exceptions.LocationValueError as error:
        raise UserError(f"{show_url(url)}: not a usable address") from error
    except (urllib3.exceptions.IncompleteRead, IncompleteRead) as error:
        raise Corrupt(f"{show_url(url)}: the source ended its response too early") from error
    except (urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
        raise _transport_error(url, error) from error


def _transport_error(url: str, error: Exception) -> HeadraceError:
    where = show_url(url)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UserError(f"{where}: its certificate is not trusted: {cause.verify_message}")
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return Corrupt(f"{where}: the source ended its response too early")
        if isinstance(cause, socket.gaierror):
            return Unavailable(f"{where}: the host name cannot be resolved: {cause.strerror}")
        if isinstance(cause, ConnectionRefusedError):
            return Unavailable(f"{where}: connection refused; is the source running?")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (TimeoutError, urllib3.exceptions.TimeoutError)):
        return Unavailable(f"{where}: the source does not answer in time")
    return Unavailable(f"{where}: the exchange with the source failed: {type(error).__name__}")
