"""SOURCE arguments of `headrace mount`: `[NAME=]URL`, a URL or a path."""

import re
from collections.abc import Sequence
from pathlib import Path

from datamodel.client import Source
from datamodel.errors import UserError

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")


def parse_sources(words: Sequence[str]) -> tuple[Source, ...]:
    """One source without a name fills the root; several, or named ones, make a folder each.

    Raises:
        UserError: a name is missing or used twice, or a path does not exist.
    """
    named = [(match[1], match[2]) if (match := _NAMED.fullmatch(word)) else ("", word) for word in words]
    if len(named) == 1 and not named[0][0]:
        return (Source(name="source", url=_url_of(named[0][1]), path="/"),)
    for name, url in named:
        if not name:
            raise UserError(f"SOURCE: {url!r} needs a name beside others; write e.g. train={url}")
        if [other for other, _ in named].count(name) > 1:
            raise UserError(f"SOURCE: name {name!r} is used twice")
    return tuple(Source(name=name, url=_url_of(url), path=f"/{name}") for name, url in named)


def _url_of(text: str) -> str:
    if "://" in text:
        return text
    path = Path(text).resolve()
    if not path.exists():
        raise UserError(f"SOURCE: {text!r} is neither a URL nor an existing path")
    return f"local://{path}"
