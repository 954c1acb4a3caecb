"""Read the index pages by which web servers show a directory. Pure: bytes in, entries out.

Understood: the HTML of nginx, Apache, lighttpd, Caddy, rclone and Python's http.server, and in general any page whose
links name its files; the JSON of nginx and Caddy. Names come from the link targets, never from the shown text, which
servers shorten. Only plain links to a direct child of the page's own directory count. Sizes and times are taken only
where the page gives them exactly. Any input yields entries or `UserError`, nothing else.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import SplitResult, urlsplit

from datamodel.errors import UserError
from ufs.base import Entry
from ufs.http_names import child_of, is_name, segments_of
from ufs.http_version import parse_http_date_ns

# nginx and Apache put date, time and size behind the link. A size of digits only is exact with both of them.
_DATE_AND_SIZE = re.compile(
    r"\s*(?:[0-9]{2}-[A-Za-z]{3}-[0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2})\s+[0-9]{2}:[0-9]{2}(?::[0-9]{2})?"
    r"\s+([0-9]{1,18})(?:\s|$)"
)
_SIZE = re.compile(r"[0-9]{1,18}")
_TEXT_LIMIT = 4096  # behind a link; nothing of interest stands further away


def parse_index(body: bytes, content_type: str, url: str) -> list[Entry]:
    """The entries of the directory that *body* shows; *url* is where the page finally came from.

    Raises:
        UserError: this is no index page.
    """
    kind = content_type.partition(";")[0].strip().lower()
    # Not strict: names may be any bytes, and a page may hold them unescaped.
    text = body.decode("utf-8", "surrogateescape")
    if kind in ("application/json", "text/json"):
        return _merge(_json_entries(text, kind, urlsplit(url)))
    if kind in ("text/html", "application/xhtml+xml"):
        return _merge(_html_entries(text, urlsplit(url)))
    raise UserError(
        f"the source answers a directory request with {kind or 'no content type'!r} instead of an index page; "
        "switch on directory listings (e.g. nginx: autoindex on)"
    )


def _merge(entries: Iterable[Entry]) -> list[Entry]:
    """One entry per name: a page may link a name twice, as icon and as text, and only one of them has the size."""
    found: dict[str, Entry] = {}
    for entry in entries:
        known = found.get(entry.name)
        if known is None or (not known.is_dir and (entry.is_dir or known.size is None)):
            found[entry.name] = entry
    return list(found.values())


def _entry(name: str | None, is_dir: bool, size: int | None, mtime_ns: int | None) -> Entry | None:
    if name is None or not is_name(name):
        return None
    return Entry(name=name, is_dir=is_dir, size=0 if is_dir else size, mtime_ns=None if is_dir else mtime_ns)


# ---- HTML ----------------------------------------------------------------------------------------------------------


class _Links(HTMLParser):
    """Collects each link's target, the text behind it and an exact size in an attribute behind it (Caddy, rclone)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.hrefs: list[str] = []
        self.texts: list[list[str]] = []
        self.sizes: list[str | None] = []
        self._inside = False
        self._room = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a":
            self._inside = True
            self._room = _TEXT_LIMIT
            self.hrefs.append(values.get("href") or "")
            self.texts.append([])
            self.sizes.append(None)
        elif tag == "tr":
            self._room = 0
        elif self._room and self.sizes[-1] is None:
            self.sizes[-1] = values.get("data-size") or values.get("data-order")

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._inside = False
        elif tag in ("td", "tr") and self._room:
            self.texts[-1].append(" ")

    def handle_data(self, data: str) -> None:
        if self._room and not self._inside:
            self.texts[-1].append(data[: self._room])
            self._room = max(0, self._room - len(data))


def _html_entries(text: str, page: SplitResult) -> Iterable[Entry]:
    links = _Links()
    try:
        links.feed(text)
        links.close()
    except AssertionError as error:  # html.parser on some malformed declarations
        raise UserError("the source's index page is not readable HTML") from error
    directory = segments_of(page.path)
    for href, texts, size in zip(links.hrefs, links.texts, links.sizes, strict=True):
        child = child_of(href, page, directory)
        if child is None:
            continue
        name, is_dir = child
        entry = _entry(name, is_dir, _exact_size("".join(texts), size), None)
        if entry is not None:
            yield entry


def _exact_size(behind: str, attribute: str | None) -> int | None:
    if attribute is not None and _SIZE.fullmatch(attribute):
        return int(attribute)
    match = _DATE_AND_SIZE.match(behind)
    return int(match[1]) if match else None


# ---- JSON ----------------------------------------------------------------------------------------------------------


def _json_entries(text: str, kind: str, page: SplitResult) -> Iterable[Entry]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the source's index page is {kind} but cannot be read") from error
    if not isinstance(rows, list):
        raise UserError(f"the source's index page is {kind} but no list of files; nginx' and Caddy's forms are known")
    directory = segments_of(page.path)
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise UserError(f"the source's index page is {kind} but its rows have no names")
        if row.get("type", "file") not in ("file", "directory"):
            continue
        is_dir = row.get("type") == "directory" or row.get("is_dir") is True
        size, mtime_ns = row.get("size"), _json_mtime_ns(row)
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            size = None
        if row.get("is_symlink") is True:  # Caddy may show the link's own values
            size = mtime_ns = None
        entry = _entry(_json_name(row, is_dir, page, directory), is_dir, size, mtime_ns)
        if entry is not None:
            yield entry


def _json_name(row: dict[str, object], is_dir: bool, page: SplitResult, directory: list[bytes]) -> str | None:
    link, name = row.get("url"), str(row["name"])
    if isinstance(link, str):  # Caddy: the name itself has lost what is not UTF-8
        child = child_of(link, page, directory)
        return child[0] if child is not None else None
    name = name.removesuffix("/") if is_dir else name
    return name if _is_encodable(name) else None


def _is_encodable(name: str) -> bool:
    """False for a JSON string with an escaped half of a surrogate pair, which stands for no bytes at all."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _json_mtime_ns(row: dict[str, object]) -> int | None:
    """Whole seconds, as Last-Modified has them: nginx' `mtime`, Caddy's `mod_time`."""
    mtime, mod_time = row.get("mtime"), row.get("mod_time")
    if isinstance(mtime, str):
        return parse_http_date_ns(mtime)
    if not isinstance(mod_time, str):
        return None
    try:
        moment = datetime.fromisoformat(mod_time)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 10**9
    except (ValueError, OverflowError):
        return None
