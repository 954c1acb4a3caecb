"""How one web server shows its directories, found out at the first listing: index pages, WebDAV, or a bucket.

Every directory is first asked for its index page. Only where that is missing, or leaves sizes open that would cost a
request per file, one PROPFIND shows whether the server knows WebDAV. A page that is the listing of a bucket makes the
source a bucket: directories are then prefixes of keys, asked for page by page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlencode, urlsplit

from datamodel.errors import HeadraceError, NotFound, UserError
from ufs import http_version
from ufs.base import Entry
from ufs.http_client import HttpClient, check_status
from ufs.http_errors import show_url, status_error
from ufs.http_index import parse_index
from ufs.http_names import is_name
from ufs.http_xml import PROPFIND, is_bucket_listing, parse_bucket_page, parse_multistatus

INDEX_LIMIT_BYTES = 256 << 20
_ACCEPT = "application/json, text/html;q=0.9, */*;q=0.1"
_PROPFIND_HEADERS = {"Depth": "1", "Content-Type": "application/xml"}
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_ERROR_PAGE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class _Page:
    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_xml(self) -> bool:
        return "xml" in self.headers.get("Content-Type", "").lower()


class Listing:
    """Lists the directories of one source by their addresses. Thread-safe; what it finds out, it finds out again
    where two threads are first at once.
    """

    def __init__(self, client: HttpClient, query: str) -> None:
        """*query* is what the source's address ends with: `?…` or ""."""
        self._client, self._query = client, query
        self._knows_webdav: bool | None = None
        self._bucket_url: str | None = None
        self._has_looked_for_bucket = False

    def entries(self, url: str) -> list[Entry]:
        """The entries of the directory at *url*, which ends with a slash and has no query."""
        if self._bucket_url is not None:
            return self._list_prefix(self._bucket_url, url)
        if self._knows_webdav and (members := self._ask_webdav(url)) is not None:
            return members
        page = self._get(url + self._query)
        try:
            entries = self._read_index(page)
        except HeadraceError:
            others = self._list_otherwise(url, page)
            if others is None:
                raise
            return others
        if self._bucket_url is not None:
            return self._list_prefix(self._bucket_url, url)
        if self._knows_webdav is None and any(entry.size is None for entry in entries):
            return self._ask_webdav(url) or entries
        return entries

    def is_directory(self, url: str, headers: Mapping[str, str]) -> bool:
        """Whether *url*, which the source answered with status 404 and *headers*, is a directory all the same.

        In a bucket no directory exists, only keys below it.
        """
        if self._bucket_url is None and not self._has_looked_for_bucket and "x-amz-request-id" in headers:
            self._has_looked_for_bucket = True
            self._bucket_url = self._find_bucket(url)
        if self._bucket_url is None:
            return False
        prefix = _prefix_of(self._bucket_url, url)
        return bool(parse_bucket_page(self._get_keys(self._bucket_url, prefix, {"max-keys": "1"})).entries)

    # ---- index pages -----------------------------------------------------------------------------------------------

    def _get(self, url: str) -> _Page:
        with self._client.exchange("GET", url, {"Accept": _ACCEPT}) as reply:
            if reply.status in _BUSY:
                check_status(reply)
            is_page = reply.status < 300
            if is_page:
                http_version.check_encoding(show_url(reply.url), "", reply.headers)
            body = reply.read_all(INDEX_LIMIT_BYTES) if is_page else reply.read_start(_ERROR_PAGE_BYTES)
            return _Page(reply.url, reply.status, reply.headers, body)

    def _read_index(self, page: _Page) -> list[Entry]:
        if page.status >= 300:
            raise status_error(page.status, page.url, page.headers)
        if page.is_xml and is_bucket_listing(page.body):
            self._bucket_url = page.url.partition("?")[0]
            return []
        try:
            return parse_index(page.body, page.headers.get("Content-Type", ""), page.url)
        except UserError as error:
            raise UserError(f"{show_url(page.url)}: {error}") from error

    def _list_otherwise(self, url: str, page: _Page) -> list[Entry] | None:
        """The entries by another way than an index page; None where there is none."""
        if page.is_xml and b"<Error" in page.body and (bucket_url := self._find_bucket(url)) is not None:
            self._bucket_url = bucket_url
            return self._list_prefix(bucket_url, url)
        return self._ask_webdav(url) if self._knows_webdav is not False else None

    # ---- WebDAV ----------------------------------------------------------------------------------------------------

    def _ask_webdav(self, url: str) -> list[Entry] | None:
        """The members of the collection at *url*; None if the server does not answer as WebDAV does."""
        with self._client.exchange("PROPFIND", url + self._query, _PROPFIND_HEADERS, PROPFIND) as reply:
            if self._knows_webdav and reply.status in (404, *_BUSY):
                check_status(reply)
            if reply.status != 207:
                if reply.status not in (404, *_BUSY):  # these say nothing of what the server knows
                    self._knows_webdav = self._knows_webdav or False
                return None
            body = reply.read_all(INDEX_LIMIT_BYTES)
        self._knows_webdav = True
        members = parse_multistatus(body, reply.url)
        if members is None:
            raise NotFound(f"{show_url(url)}: is no directory")
        return members

    # ---- buckets ---------------------------------------------------------------------------------------------------

    def _find_bucket(self, url: str) -> str | None:
        """The address of the bucket that *url* lies in: its server's root, or the first part of its path."""
        parts = urlsplit(url)
        server = f"{parts.scheme}://{parts.netloc}/"
        first = parts.path.strip("/").partition("/")[0]
        for candidate in (f"{server}{first}/", server):
            page = self._get(_with_query(candidate + self._query, {"max-keys": "1"}))
            if page.status == 200 and is_bucket_listing(page.body):
                return candidate
        return None

    def _list_prefix(self, bucket_url: str, url: str) -> list[Entry]:
        prefix = _prefix_of(bucket_url, url)
        found: dict[str, Entry] = {}
        more: Mapping[str, str] | None = {}
        is_empty = True
        while more is not None:
            page = parse_bucket_page(self._get_keys(bucket_url, prefix, more))
            is_empty = is_empty and not page.entries
            for key in page.entries:
                name = key.name[len(prefix) :].removesuffix("/")
                known = found.get(name)
                # A key that ends with a slash stands for the directory itself; a directory hides a file of its name.
                if is_name(name) and (known is None or key.is_dir) and (key.is_dir or not key.name.endswith("/")):
                    found[name] = Entry(name=name, is_dir=key.is_dir, size=key.size, mtime_ns=key.mtime_ns)
            if page.next_query is not None and page.next_query == more:
                raise UserError(f"{show_url(bucket_url)}: the listing of {prefix!r} comes back to the same page")
            more = page.next_query
        if is_empty and prefix:
            raise NotFound(f"{show_url(url)}: the bucket has no key below it")
        return list(found.values())

    def _get_keys(self, bucket_url: str, prefix: str, more: Mapping[str, str]) -> bytes:
        asked = {"list-type": "2", "delimiter": "/", "encoding-type": "url", "prefix": prefix, **more}
        page = self._get(_with_query(bucket_url + self._query, asked))
        if page.status >= 300:
            raise status_error(page.status, page.url, page.headers)
        return page.body


def _prefix_of(bucket_url: str, url: str) -> str:
    """What the keys below the directory at *url* begin with: "" or with a slash at its end."""
    path = unquote(urlsplit(url).path, "utf-8", "surrogateescape")
    base = unquote(urlsplit(bucket_url).path, "utf-8", "surrogateescape")
    prefix = path.removeprefix(base)
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _with_query(url: str, asked: Mapping[str, str]) -> str:
    query = urlencode(
        {name: value.encode("utf-8", "surrogateescape") for name, value in asked.items()}, quote_via=quote
    )
    return f"{url}{'&' if '?' in url else '?'}{query}"
