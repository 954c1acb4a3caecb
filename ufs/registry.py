"""From a dataset's source to the file system that reads it. The only place that knows every scheme and option."""

import os
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from datamodel.client import Source
from datamodel.errors import UserError
from ufs.base import UnderFileSystem
from ufs.http import HttpFileSystem, HttpSettings
from ufs.http_client import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Limits
from ufs.local import LocalFileSystem

HTTP_OPTIONS = {
    "username": "user for basic authentication",
    "password": "password for basic authentication",
    "bearer-token": "token sent as `Authorization: Bearer`",
    "ca-file": "PEM file with the certificates to trust instead of the system's",
    "connect-timeout": f"seconds to wait for a connection, default {CONNECT_TIMEOUT_S:g}",
    "read-timeout": f"seconds without a byte after which a response counts as stalled, default {READ_TIMEOUT_S:g}",
}

SECRET_OPTIONS = frozenset({"password", "bearer-token"})
"""Options whose values are kept out of command lines, logs and status, whichever the scheme."""


def describe_options() -> Mapping[str, Mapping[str, str]]:
    """What can be set for the sources of each scheme: option to one line of help."""
    return {scheme: options for scheme, (_, options) in _SCHEMES.items()}


def open_source(source: Source) -> UnderFileSystem:
    """The file system of *source*. Does not ask the source anything yet.

    Raises:
        UserError: unknown scheme or option, or a value of the wrong form; names the field and what is supported.
    """
    field = f"source {source.name!r}"
    scheme = source.url.partition(":")[0].lower() if "://" in source.url else ""
    if scheme not in _SCHEMES:
        raise UserError(f"{field}: url scheme {scheme!r} is not supported; use one of {', '.join(sorted(_SCHEMES))}")
    opener, options = _SCHEMES[scheme]
    for name in source.options:
        if name not in options:
            known = ", ".join(sorted(options)) or "none"
            raise UserError(f"{field}: option {name!r} is not known for {scheme} sources; supported: {known}")
    try:
        return opener(source.url, source.options)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _open_http(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    for name in ("username", "password", "bearer-token"):
        if not options.get(name, "").isprintable():
            raise UserError(f"option {name!r}: has a control character, perhaps a newline at its end")
    if not options.get("bearer-token", "").isascii():
        raise UserError("option 'bearer-token': has characters that are not ASCII")
    ca_file = options.get("ca-file")
    if ca_file is not None and not os.access(ca_file, os.R_OK):
        raise UserError(f"option 'ca-file': {ca_file!r} cannot be read")
    settings = HttpSettings(
        username=options.get("username", ""),
        password=options.get("password", ""),
        bearer_token=options.get("bearer-token", ""),
        ca_file=ca_file,
        limits=Limits(
            connect_timeout_s=_seconds(options, "connect-timeout", CONNECT_TIMEOUT_S),
            read_timeout_s=_seconds(options, "read-timeout", READ_TIMEOUT_S),
        ),
    )
    return HttpFileSystem(url, settings)


def _open_local(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    # As in Fluid, what follows local:// is the path itself; nothing is unescaped.
    return LocalFileSystem(url.partition("://")[2])


def _open_file(url: str, options: Mapping[str, str]) -> UnderFileSystem:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"source url: {url!r} names host {parts.netloc!r}; write file:///PATH")
    return LocalFileSystem(unquote(parts.path, "utf-8", "surrogateescape"))


def _seconds(options: Mapping[str, str], name: str, default_s: float) -> float:
    text = options.get(name, "")
    try:
        value = float(text) if text else default_s
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise UserError(f"option {name!r}: {text!r} is not a number of seconds between 0 and 3600")
    return value


_SCHEMES: Mapping[str, tuple[Callable[[str, Mapping[str, str]], UnderFileSystem], Mapping[str, str]]] = {
    "http": (_open_http, HTTP_OPTIONS),
    "https": (_open_http, HTTP_OPTIONS),
    "local": (_open_local, {}),
    "file": (_open_file, {}),
}
