"""What HTTP headers say about a file: its length, its version, and when to come back. Pure functions.

A version is `<kind>:<validator>;size:<bytes>`. Kinds, best first: `etag` (a strong ETag, also sent as If-Match),
`modified` (Last-Modified, also sent as If-Unmodified-Since), `weak` (a weak ETag, only compared), `none` (the server
gives no validator at all, so only a change of size is noticed).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from datamodel.errors import Corrupt, VersionChanged

_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]+"')  # an empty one tells nothing apart
_CONTENT_RANGE = re.compile(r"bytes\s+(?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)", re.IGNORECASE)

_ENCODED_NAMES = {
    "gzip": (".gz", ".tgz", ".svgz", ".gzip"),
    "x-gzip": (".gz", ".tgz", ".svgz", ".gzip"),
    "compress": (".Z", ".taz"),
    "x-compress": (".Z", ".taz"),
    "bzip2": (".bz2", ".tbz", ".tbz2"),
    "x-bzip2": (".bz2", ".tbz", ".tbz2"),
    "br": (".br",),
    "xz": (".xz", ".txz"),
    "x-xz": (".xz", ".txz"),
    "zstd": (".zst", ".tzst"),
}

_MONTHS = {"Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6, "Jul": 7, "Aug": 8, "Sep": 9}
_MONTHS |= {"Oct": 10, "Nov": 11, "Dec": 12}

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContentRange:
    """A parsed Content-Range; *first* and *last* are None in the answer to a range that lies behind the end."""

    first: int | None
    last: int | None
    total: int | None


def content_range(headers: Headers) -> ContentRange | None:
    """The Content-Range of a 206 or 416; None where it is missing or unreadable."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return None
    first, last, total = (int(group) if group and group != "*" else None for group in match.groups())
    return ContentRange(first, last, total)


def content_length(headers: Headers) -> int | None:
    """Content-Length, or None where it is missing or unreadable."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None


def version_of(headers: Headers, size: int) -> str:
    """The version of a file of *size* bytes whose response has *headers*."""
    etag = headers.get("ETag", "").strip()
    modified = " ".join(headers.get("Last-Modified", "").split())  # folded lines must not go into a request
    if _STRONG_ETAG.fullmatch(etag):
        return f"etag:{etag};size:{size}"
    if modified:
        return f"modified:{modified};size:{size}"
    etag = " ".join(etag.split())
    return f"weak:{etag};size:{size}" if etag else f"none:;size:{size}"


def size_of(version: str) -> int | None:
    """The size that *version* pins; None where it has another form."""
    text = version.rpartition(";size:")[2]
    return int(text) if text.isascii() and text.isdigit() else None


def conditions(version: str) -> dict[str, str]:
    """Request headers that make the server refuse (412) to send anything but *version*."""
    kind, _, rest = version.partition(":")
    validator = rest.rpartition(";size:")[0]
    if kind == "etag":
        return {"If-Match": validator}
    return {"If-Unmodified-Since": validator} if kind == "modified" else {}


def check_version(where: str, version: str, headers: Headers, total: int | None) -> None:
    """Accept a response only if it is of *version*; *total* is the length of the whole file where it is known.

    A server may ignore conditions, so the answer is checked as well.

    Raises:
        VersionChanged: another version, or a response without the validator that the version was made of.
    """
    size = size_of(version)
    found = version_of(headers, total if total is not None else size or 0)
    if size is None or found != version:
        raise VersionChanged(f"{where}: pinned {version!r}, the source has {found!r}")


def check_encoding(where: str, path: str, headers: Headers) -> None:
    """Refuse a body that was compressed on the way: its length and offsets are not those of the file.

    A server may label a file that *is* compressed, such as `x.tar.gz`, with its encoding; those bytes are the file.

    Raises:
        Corrupt: the response is encoded although identity was asked for.
    """
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity") or path.endswith(_ENCODED_NAMES.get(encoding, ())):
        return
    raise Corrupt(
        f"{where}: sent with Content-Encoding {encoding!r} although identity was asked for, so its size is unknown; "
        "switch compression off for this path at the source"
    )


def modified_ns(headers: Headers) -> int | None:
    """Last-Modified in nanoseconds since 1970; None where it is missing or unreadable."""
    return parse_http_date_ns(headers.get("Last-Modified", ""))


def parse_http_date_ns(text: str) -> int | None:
    """An HTTP date in nanoseconds since 1970; None where it is no date."""
    if text.endswith(" GMT") and len(text) == 29:  # the form of today, of which directories may hold 100k
        try:
            day, month, year = int(text[5:7]), _MONTHS[text[8:11]], int(text[12:16])
            moment = datetime(year, month, day, int(text[17:19]), int(text[20:22]), int(text[23:25]), tzinfo=UTC)
        except (ValueError, KeyError):
            return None
        return int(moment.timestamp()) * 10**9
    parsed = _parse_date(text)
    return None if parsed is None else int(parsed.timestamp()) * 10**9


def retry_after_s(headers: Headers, now: datetime) -> float | None:
    """Seconds that the server asks its clients to stay away; None where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    moment = _parse_date(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _parse_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
