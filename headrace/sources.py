"""SOURCE arguments of `headrace mount`: `[NAME=]URL`, a URL or a path."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from datamodel.client import Source
from datamodel.errors import UserError

LOCAL_SCHEMES = ("local", "file")
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)


def parse_sources(words: Sequence[str]) -> tuple[Source, ...]:
    """One source without a name fills the root; several, or named ones, make a folder each.

    Raises:
        UserError: a name is missing or used twice, a path does not exist, or a URL holds a password.
    """
    if not words:
        raise UserError("SOURCE: missing; give a URL or a folder, or a manifest by -f FILE")
    named = [(match[1], match[2]) if (match := _NAMED.fullmatch(word)) else ("", word) for word in words]
    if len(named) == 1 and not named[0][0]:
        return (Source(name="source", url=_url_of(named[0][1]), path="/"),)
    for name, url in named:
        if not name:
            raise UserError(f"SOURCE: {url!r} needs a name beside others; write e.g. train={url}")
        if [other for other, _ in named].count(name) > 1:
            raise UserError(f"SOURCE: name {name!r} is used twice")
    return tuple(Source(name=name, url=_url_of(url), path=f"/{name}") for name, url in named)


def local_path(source: Source) -> Path | None:
    """The path on this machine that *source* serves, None for a remote one."""
    scheme, _, rest = source.url.partition("://")
    if scheme == "local":
        return Path(rest)
    return Path(urlsplit(source.url).path) if scheme == "file" else None


def _url_of(text: str) -> str:
    if "://" in text:
        return _checked(text)
    if not text or text.isspace():
        raise UserError("SOURCE: is empty; give a URL such as https://mirror.example/data/, or a folder")
    path = Path(text).resolve()
    if not path.exists():
        host = text.split("/")[0]
        hint = f"; did you mean https://{text}?" if "." in host.strip(".") and not text.startswith(".") else ""
        raise UserError(f"SOURCE: {text!r} is neither a URL nor an existing path{hint}")
    return f"local://{path}"


def _checked(url: str) -> str:
    try:
        password = urlsplit(url).password
    except ValueError as error:
        raise UserError(f"SOURCE: cannot be read as a URL: {error}") from error
    if password is not None:
        raise UserError(
            f"SOURCE: the URL of {urlsplit(url).hostname!r} holds a password, which every process can see; leave it "
            "out, and give --option username=NAME and --option-file password=FILE or HEADRACE_OPTION_PASSWORD"
        )
    return url
