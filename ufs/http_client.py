"""One source's requests: credentials, redirects, a connection for each, and one more try where a kept one had ended.

Nothing else is retried here: a failed exchange is an error of `datamodel.errors`, and messages show addresses without
credentials and queries. Thread-safe.
"""

import string
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

from datamodel.errors import UserError
from ufs.http_errors import show_url, status_error, translated
from ufs.http_exchange import Reply
from ufs.http_proxy import Origin, origin_of
from ufs.http_socket import Connector, Limits, Pool

REDIRECT_LIMIT = 5

_POOLS_LIMIT = 8  # of hosts that a source redirects to
_REDIRECTS = (301, 302, 303, 307, 308)
_FIXED_LINES = "Accept-Encoding: identity\r\nUser-Agent: headrace\r\n"

Signer = Callable[[str, str], Mapping[str, str]]
"""Method and address to the headers that authorise this one request."""


class HttpClient:
    """Requests to the host of one source. *authorization* goes to no other origin.

    With *sign* every request is signed by itself, and no redirect is followed: a signature holds for one address.
    """

    def __init__(
        self,
        origin: str,
        authorization: str | None,
        limits: Limits,
        ca_file: str | None = None,
        sign: Signer | None = None,
    ) -> None:
        self._origin = origin_of(urlsplit(origin))
        self._authorization = authorization
        self._sign = sign
        self._connector = Connector(limits, ca_file)
        self._pools: dict[Origin, Pool] = {}
        self._pools_lock = threading.Lock()

    @contextmanager
    def exchange(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Iterator[Reply]:
        """Send one request, follow redirects, and yield the final response of any status but 3xx.

        Only for methods that change nothing: a request may be sent twice.
        One redirect is not followed but reported: to the same path with a slash at its end.
        """
        reply = self._follow(method, url, headers or {}, body)
        try:
            yield reply
        except BaseException:
            reply.abandon()
            raise
        reply.finish()

    def close(self) -> None:
        with self._pools_lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _follow(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        current = url
        for _ in range(REDIRECT_LIMIT + 1):
            with translated(current):
                reply = self._send(method, current, headers, body)
            if reply.status not in _REDIRECTS or self._sign is not None:
                return reply
            location = reply.headers.get("Location")
            if not location:
                return reply
            reply.finish()
            target = _redirect_target(current, location)
            if _path_of(target) == _path_of(current) + b"/":
                reply.url, reply.is_directory_redirect = target, True
                return reply
            current = target
        raise UserError(f"{show_url(url)}: more than {REDIRECT_LIMIT} redirects; check the server's redirect rules")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        parts = urlsplit(url)
        origin = origin_of(parts)
        pool = self._pool(origin)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}\r\n")
        if self._authorization and origin == self._origin:
            lines.append(f"Authorization: {self._authorization}\r\n")
        if self._sign is not None:
            lines += [f"{name}: {value}\r\n" for name, value in self._sign(method, url).items()]
        if pool.proxy is not None and origin.scheme == "http":
            target = f"http://{origin.netloc()}{target}"
            if pool.proxy.authorization:
                lines.append(f"Proxy-Authorization: {pool.proxy.authorization}\r\n")
        head = f"{method} {target} HTTP/1.1\r\nHost: {origin.netloc()}\r\n{_FIXED_LINES}{''.join(lines)}\r\n"
        return _ask(pool, head.encode("latin-1") + body, method, url)

    def _pool(self, origin: Origin) -> Pool:
        pool = self._pools.get(origin)
        if pool is None:
            with self._pools_lock:
                pool = self._pools.get(origin)
                if pool is None:
                    if len(self._pools) == _POOLS_LIMIT:
                        self._pools.pop(next(iter(self._pools))).close()
                    pool = self._pools[origin] = Pool(origin, self._connector)
        return pool


def _ask(pool: Pool, request: bytes, method: str, url: str) -> Reply:
    connection = pool.take()
    while True:
        try:
            connection.send(request)
            return Reply(connection, pool, method, url)
        except ConnectionError:
            # The server may end a kept connection at any time; all our requests may be sent twice.
            pool.drop(connection)
            if not connection.is_reused:
                raise
            connection = pool.take(fresh=True)
        except BaseException:
            pool.drop(connection)
            raise


def _path_of(url: str) -> bytes:
    return unquote_to_bytes(urlsplit(url).path)


def _redirect_target(url: str, location: str) -> str:
    # Headers are decoded as Latin-1; the bytes themselves belong into the next request.
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
    if reply.status < 300 or reply.is_directory_redirect:
        return
    if reply.status == 412:
        reply.abandon()  # nginx announces keep-alive with a 412 and closes all the same
    else:
        reply.finish()  # missing files are asked for often, and each must not cost a connection
    raise status_error(reply.status, reply.url, reply.headers)
