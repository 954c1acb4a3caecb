"""A directory tree or a single file on a web server, read with HEAD and conditional range requests.

The source's URL names a directory (`…/data/`, or a path that the server redirects there) or one file, which then is
the only entry of the root. What it is gets asked at the first use, so a source that is down does not keep a mount from
starting. From a server that ignores Range, `read_range` reads from the start of the file up to the wanted offset:
correct, but slow. So whether it does is found out at the first `stat`, which says so.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from datamodel.errors import Corrupt, NotFound, Precondition, UserError, VersionChanged
from ufs import http_version
from ufs.base import DIRECTORY, Entry, Sink, Stat, UnderFileSystem, check_path
from ufs.http_address import HttpSettings, authorization_of, split_address
from ufs.http_client import HttpClient, check_status
from ufs.http_errors import show_url, status_error
from ufs.http_exchange import Reply
from ufs.http_listing import Listing
from ufs.http_loops import is_loop, is_too_deep

__all__ = ["HttpFileSystem", "HttpSettings"]

_NO_FILE = (404, 405)
_NO_HEAD = (403, 405, 501)  # 403: addresses signed for GET only
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Root:
    url: str
    """Of the directory, with a slash at its end."""
    only: str | None
    """Name of the one file shown, when the source is a file."""


class HttpFileSystem(UnderFileSystem):
    """`UnderFileSystem` over HTTP(S); see `ufs.base` for the contract."""

    def __init__(self, url: str, settings: HttpSettings) -> None:
        """*url* is http or https; credentials in it win over *settings*.

        Raises:
            UserError: the address or the credentials cannot be used.
        """
        self._url, self._query, credentials = split_address(url)
        authorization = authorization_of(credentials or (settings.username, settings.password), settings.bearer_token)
        self._client = HttpClient(self._url, authorization, settings.limits, settings.ca_file)
        self._listing = Listing(self._client, self._query)
        self._has_ranges: bool | None = None
        """What the last answer to a range showed; None before the first."""
        self._root: _Root | None = None
        self._root_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"HttpFileSystem({show_url(self._url)!r})"

    def stat(self, path: str) -> Stat:
        root = self._find_root()
        if not check_path(path):
            return DIRECTORY
        if root.only is not None and path != root.only:
            raise NotFound(f"{show_url(self._url)}: {path!r}: the source is the single file {root.only!r}")
        return self._stat_url(self._url_of(root, path))

    def list(self, path: str) -> Iterator[Entry]:
        root = self._find_root()
        check_path(path)
        if root.only is not None:
            return self._list_only(path, root.only)
        source = show_url(self._url)
        if is_too_deep(path, source):
            return iter(())
        entries = self._list_directory(root, path)
        if is_loop(path, entries, lambda other: self._list_directory(root, other), source):
            return iter(())
        return iter(entries)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        url = self._file_url(path)
        wanted = into[: max(0, self._pinned_size(path, version) - offset)]
        filled = 0
        while filled < len(wanted):  # more than one turn only with a server that sends less than the range
            filled += self._read_piece(url, version, offset + filled, wanted[filled:])
        return filled

    def read_whole(self, path: str, limit: int) -> tuple[Stat, bytearray]:
        with self._exchange("GET", self._file_url(path)) as reply:
            check_status(reply)
            if reply.is_directory:
                raise NotFound(f"{show_url(reply.url)}: {path!r} is a directory")
            size = http_version.content_length(reply.headers)
            if size is not None and size > limit:
                raise Precondition(f"{show_url(reply.url)}: has {size} bytes, more than {limit}")
            content = reply.read_exactly(size) if size is not None else reply.read_chunks(limit)
            return self._file_stat(reply, len(content)), content

    def read_from_start(self, path: str, version: str, sink: Sink) -> None:
        size = self._pinned_size(path, version)
        piece, offset = memoryview(bytearray(min(size, _PIECE_BYTES))), 0
        with self._exchange("GET", self._file_url(path), http_version.conditions(version)) as reply:
            where = _check_file(reply)
            http_version.check_version(where, version, reply.headers, http_version.content_length(reply.headers))
            while offset < size:
                count = reply.read_into(piece[: size - offset])
                if count == 0:
                    raise Corrupt(f"{where}: the source promised {size} bytes and sent {offset}")
                if not sink(offset, piece[:count]):
                    return
                offset += count

    def close(self) -> None:
        self._client.close()

    # ---- the root --------------------------------------------------------------------------------------------------

    def _find_root(self) -> _Root:
        if self._root is None:
            with self._root_lock:
                if self._root is None:
                    self._root = self._ask_root()
        return self._root

    def _ask_root(self) -> _Root:
        if self._url.endswith("/"):
            return _Root(self._url, None)
        stat = self._stat_url(self._url)
        if stat.is_dir:
            return _Root(self._url + "/", None)
        folder, _, name = self._url.rpartition("/")
        return _Root(folder + "/", unquote(name, "utf-8", "surrogateescape"))

    def _list_only(self, path: str, only: str) -> Iterator[Entry]:
        if path:
            raise NotFound(f"{show_url(self._url)}: {path!r} is no directory; the source is a single file")
        stat = self.stat(only)
        return iter((Entry(name=only, is_dir=False, size=stat.size, mtime_ns=stat.mtime_ns or None),))

    def _list_directory(self, root: _Root, path: str) -> Sequence[Entry]:
        url = self._url_of(root, path, is_dir=True)
        try:
            return self._listing.entries(url)
        except UserError as error:
            # A server may answer with the file itself to a path that goes on behind its name.
            if path and not self._stat_url(url.removesuffix("/")).is_dir:
                raise NotFound(f"{show_url(url)}: is no directory") from error
            raise

    def _file_url(self, path: str) -> str:
        root = self._find_root()
        if not check_path(path) or (root.only is not None and path != root.only):
            raise NotFound(f"{show_url(self._url)}: {path!r} is no file of this source")
        return self._url_of(root, path)

    def _pinned_size(self, path: str, version: str) -> int:
        size = http_version.size_of(version)
        if size is None:
            raise VersionChanged(f"{show_url(self._url)}: {path!r}: {version!r} is no version of an HTTP source")
        return size

    def _url_of(self, root: _Root, path: str, *, is_dir: bool = False) -> str:
        # "." and ".." never come here; everything but letters, digits and "_.-~" is escaped, so any byte survives.
        escaped = quote(path.encode("utf-8", "surrogateescape"), safe="/")
        return f"{root.url}{escaped}{'/' if is_dir and path else ''}"

    # ---- requests --------------------------------------------------------------------------------------------------

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Reply]:
        return self._client.exchange(method, url + self._query, headers)

    def _stat_url(self, url: str) -> Stat:
        with self._exchange("HEAD", url) as reply:
            status, headers = reply.status, reply.headers
            if status != 404 and status not in _NO_HEAD:
                check_status(reply)
                if reply.is_directory:
                    return DIRECTORY
                size = http_version.content_length(headers)
                if size == 0 or (size is not None and self._knows_ranges(headers)):
                    return self._file_stat(reply, size)
        if status == 404:
            if self._is_directory_by_slash(url, headers):
                return DIRECTORY
            raise status_error(status, url, headers)
        return self._stat_by_range(url)

    def _stat_by_range(self, url: str) -> Stat:
        with self._exchange("GET", url, {"Range": "bytes=0-0"}) as reply:
            if reply.status not in (416, *_NO_FILE):
                check_status(reply)
                if reply.is_directory:
                    return DIRECTORY
                self._has_ranges = _is_partial(reply)
            if reply.status not in _NO_FILE:
                return self._file_stat(reply, _total_size(reply))
        if self._is_directory_by_slash(url, reply.headers):
            return DIRECTORY
        raise status_error(reply.status, url, reply.headers)

    def _knows_ranges(self, headers: Mapping[str, str]) -> bool:
        """Whether a file with *headers* needs no range of its own to tell if ranges work."""
        if "Accept-Ranges" not in headers:
            return self._has_ranges is not None
        return _says_none(headers) or self._has_ranges is not False  # else it promises what it did not keep last time

    def _is_directory_by_slash(self, url: str, headers: Mapping[str, str]) -> bool:
        """Whether *url*, no file by *headers*, is a directory: some servers know one only by the slash at its end."""
        if self._listing.is_directory(f"{url}/", headers):
            return True
        with self._exchange("HEAD", f"{url}/") as reply:
            return reply.status < 300

    def _file_stat(self, reply: Reply, size: int) -> Stat:
        _check_encoding(reply)
        return Stat(
            is_dir=False,
            size=size,
            mtime_ns=http_version.modified_ns(reply.headers) or 0,
            version=http_version.version_of(reply.headers, size),
            has_ranges=self._has_ranges is not False and not _says_none(reply.headers),
        )

    def _read_piece(self, url: str, version: str, offset: int, into: memoryview) -> int:
        """Fill the start of *into* with one request; at least one byte."""
        headers = {"Range": f"bytes={offset}-{offset + len(into) - 1}", **http_version.conditions(version)}
        with self._exchange("GET", url, headers) as reply:
            if reply.status == 416:  # the pinned version has these bytes
                raise VersionChanged(f"{show_url(reply.url)}: the source has become shorter than {offset + 1} bytes")
            where = _check_file(reply)
            self._has_ranges = _is_partial(reply)
            if self._has_ranges:
                expected = _check_partial(where, version, reply.headers, offset, len(into))
            else:
                http_version.check_version(where, version, reply.headers, http_version.content_length(reply.headers))
                expected = len(into)
                reply.skip(offset)
            received = reply.read_into(into[:expected])
            if received < expected:
                raise Corrupt(f"{where}: the source promised {expected} bytes at {offset} and sent {received}")
            return received


def _check_file(reply: Reply) -> str:
    """Raise unless *reply* brings bytes of the file itself; returns the address to show in messages."""
    check_status(reply)
    where = show_url(reply.url)
    if reply.is_directory_redirect:
        raise VersionChanged(f"{where}: the file has become a directory")
    _check_encoding(reply)
    return where


def _check_encoding(reply: Reply) -> None:
    if "Content-Encoding" in reply.headers:
        http_version.check_encoding(show_url(reply.url), urlsplit(reply.url).path, reply.headers)


def _says_none(headers: Mapping[str, str]) -> bool:
    return headers.get("Accept-Ranges", "").strip().lower() == "none"


def _is_partial(reply: Reply) -> bool:
    """Whether this answer to a range is one; some servers forget to say 206."""
    return reply.status == 206 or (reply.status == 200 and http_version.content_range(reply.headers) is not None)


def _check_partial(where: str, version: str, headers: Mapping[str, str], offset: int, limit: int) -> int:
    """How many bytes a 206 holds for us, once it is known to be the right part of the right version."""
    part = http_version.content_range(headers)
    if part is None or part.first is None or part.last is None:
        raise Corrupt(f"{where}: a partial response without a usable Content-Range")
    http_version.check_version(where, version, headers, part.total)
    if part.first != offset or part.last < offset:
        raise Corrupt(f"{where}: asked for bytes from {offset}, the source sends {part.first}-{part.last}")
    return min(limit, part.last - offset + 1)


def _total_size(reply: Reply) -> int:
    part = http_version.content_range(reply.headers)
    size = part.total if part is not None else None
    if size is None and reply.status == 200:
        size = http_version.content_length(reply.headers)
    if size is None:
        raise UserError(
            f"{show_url(reply.url)}: the source does not tell the file's size; "
            "it must send Content-Length or support range requests"
        )
    return size
