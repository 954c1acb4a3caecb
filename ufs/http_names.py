"""From the links of a directory page to the names of its direct children. Pure functions.

Names come from link targets alone. A link counts if it points, without query or fragment, exactly one level below the
page on the page's own server; parents, sort orders, other hosts and anything deeper or outside are no children.
"""

import re
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

_PLAIN = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*/?")


def is_name(name: str) -> bool:
    """Whether *name* can be one part of a path."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def child_of(href: str, page: SplitResult, directory: list[bytes]) -> tuple[str, bool] | None:
    """Name and kind of the direct child that *href* points at; None for every other link.

    *directory* is `segments_of` the path of *page*. The name may still be one that `is_name` refuses.
    """
    if _PLAIN.fullmatch(href):  # almost every link, and directories may have 100k of them
        return href.removesuffix("/"), href.endswith("/")
    try:
        link = urlsplit(href)
    except ValueError:
        return None
    if link.query or link.fragment or href.endswith(("?", "#")) or not link.path:
        return None
    if link.scheme and not link.netloc:
        return None
    if link.netloc and _origin(link, page.scheme) != _origin(page, ""):
        return None
    rest = _below(link.path, directory)
    if rest is None or len(rest) != 1:
        return None
    return rest[0].decode("utf-8", "surrogateescape"), link.path.endswith("/")


def segments_of(path: str) -> list[bytes]:
    """The parts of an escaped path, unescaped, without empty ones and `.`."""
    # Split before decoding: an escaped slash is part of a name, and such a name is refused later.
    parts = path.encode("utf-8", "surrogateescape").split(b"/")
    return [unquote_to_bytes(part) for part in parts if part not in (b"", b".")]


def _origin(url: SplitResult, default_scheme: str) -> tuple[str, str]:
    return url.scheme or default_scheme, url.netloc.lower()


def _below(path: str, directory: list[bytes]) -> list[bytes] | None:
    """Segments of *path* under *directory*; None where it points elsewhere."""
    segments = segments_of(path)
    if not path.startswith("/"):
        return None if b".." in segments else segments
    depth = len(directory)
    return segments[depth:] if segments[:depth] == directory else None
