"""Read the XML by which servers show a directory: WebDAV's multistatus and the listing of a bucket. Pure functions.

Sources: RFC 4918 section 9.1 for PROPFIND; the `ListObjects` and `ListObjectsV2` pages of the S3 API reference. Both
give exact sizes and times. A document type is refused, so no entity can blow up. Any input gives values or `UserError`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes, urlsplit
from xml.parsers import expat

from datamodel.errors import UserError
from ufs.base import Entry
from ufs.http_names import child_of, is_name, segments_of
from ufs.http_version import parse_http_date_ns

PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:">'
    b"<prop><resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>"
)

_TEXT_LIMIT = 16 << 10  # of one element; keys have 1024 bytes at most, paths of servers a few thousand

Row = dict[str, str]
"""One record of a document: local names of its innermost elements to their text."""


@dataclass(frozen=True, slots=True)
class BucketPage:
    """One answer to a listing of a bucket. Entries are named by whole keys, directories with a slash at their end."""

    entries: list[Entry]
    next_query: dict[str, str] | None
    """What to add to the same query for the next page; None behind the last."""


class _Reader:
    """Collects the elements named in *rows* as records, and the text of those directly below the root."""

    def __init__(self, rows: tuple[str, ...]) -> None:
        self._rows = rows
        self.root = ""
        self.top: Row = {}
        self.found: list[tuple[str, Row]] = []
        self._path: list[str] = []
        self._row: Row | None = None
        self._text: list[str] = []
        self._room = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if not self._path:
            self.root = local
        elif local in self._rows and len(self._path) == 1:
            self._row = {}
            self.found.append((local, self._row))
        self._path.append(local)
        self._text, self._room = [], _TEXT_LIMIT

    def text(self, data: str) -> None:
        self._text.append(data[: self._room])
        self._room = max(0, self._room - len(data))

    def end(self, name: str) -> None:
        local = self._path.pop()
        target = self._row if self._row is not None else self.top if len(self._path) == 1 else None
        if target is not None and local not in target:
            target[local] = "".join(self._text)
        if local in self._rows and len(self._path) == 1:
            self._row = None
        self._text = []


def _read(body: bytes, rows: tuple[str, ...]) -> _Reader:
    reader = _Reader(rows)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise UserError(f"the source's listing is XML that cannot be read: {error}") from error
    return reader


def _refuse_doctype(*details: object) -> None:
    raise UserError("the source's listing is XML with a document type, which no listing has")


# ---- WebDAV --------------------------------------------------------------------------------------------------------


def parse_multistatus(body: bytes, url: str) -> list[Entry] | None:
    """The members of the collection at *url*, from the answer to a PROPFIND of depth 1; None if it is no collection.

    Raises:
        UserError: this is no multistatus.
    """
    reader = _read(body, ("response",))
    if reader.root != "multistatus":
        raise UserError("the source answers PROPFIND with something else than a multistatus")
    page = urlsplit(url)
    directory = segments_of(page.path)
    entries: dict[str, Entry] = {}
    is_collection = False
    for _, row in reader.found:
        href = row.get("href", "").strip()
        is_dir = "collection" in row
        child = child_of(href, page, directory)
        if child is not None:
            name = child[0]
            if is_name(name):
                entries[name] = _member(name, is_dir, row)
        elif is_dir and segments_of(urlsplit(href).path) == directory:
            is_collection = True
    return list(entries.values()) if is_collection else None


def _member(name: str, is_dir: bool, row: Row) -> Entry:
    if is_dir:
        return Entry(name=name, is_dir=True, size=0, mtime_ns=None)
    return Entry(
        name=name,
        is_dir=False,
        size=_number(row.get("getcontentlength", "")),
        mtime_ns=parse_http_date_ns(row.get("getlastmodified", "")),
    )


# ---- buckets -------------------------------------------------------------------------------------------------------


def is_bucket_listing(body: bytes) -> bool:
    """Whether *body* looks like the listing of a bucket; cheap, for pages of any kind."""
    return b"<ListBucketResult" in body[:1024]


def parse_bucket_page(body: bytes) -> BucketPage:
    """One page of a bucket's listing, of either version of the interface.

    Raises:
        UserError: this is none.
    """
    reader = _read(body, ("Contents", "CommonPrefixes"))
    if reader.root != "ListBucketResult":
        raise UserError(f"the source answers a listing with {reader.root!r} instead of 'ListBucketResult'")
    is_escaped = reader.top.get("EncodingType") == "url"
    entries = list(_keys(reader.found, is_escaped))
    if reader.top.get("IsTruncated") != "true":
        return BucketPage(entries, None)
    if token := reader.top.get("NextContinuationToken"):
        return BucketPage(entries, {"continuation-token": token})
    marker = reader.top.get("NextMarker", "")
    last = _unescaped(marker, is_escaped) if marker else max((entry.name for entry in entries), default="")
    if not last:
        raise UserError("the source's listing says that it goes on and not where")
    return BucketPage(entries, {"marker": last})


def _keys(found: list[tuple[str, Row]], is_escaped: bool) -> Iterator[Entry]:
    for kind, row in found:
        is_dir = kind == "CommonPrefixes"
        name = _unescaped(row.get("Prefix" if is_dir else "Key", ""), is_escaped)
        size = _number(row.get("Size", ""))
        mtime_ns = None if is_dir else _iso_ns(row.get("LastModified", ""))
        yield Entry(name=name, is_dir=is_dir, size=0 if is_dir else size, mtime_ns=mtime_ns)


def _unescaped(text: str, is_escaped: bool) -> str:
    # As in a form: a plus is a space, and a plus of the key itself comes as %2B.
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape") if is_escaped else text


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _iso_ns(text: str) -> int | None:
    """Whole seconds, as Last-Modified has them."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 10**9
    except (ValueError, OverflowError):
        return None
