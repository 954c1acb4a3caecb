"""The address and the settings of an HTTP source, taken apart."""

import string
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from datamodel.errors import UserError
from ufs.http_errors import show_url
from ufs.http_socket import Limits


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Options of an HTTP source, parsed."""

    username: str = ""
    password: str = field(default="", repr=False)
    bearer_token: str = field(default="", repr=False)
    ca_file: str | None = None
    limits: Limits = field(default_factory=Limits)


def split_address(url: str) -> tuple[str, str, tuple[str, str] | None]:
    """The bare address, `?query` or "", and the credentials of *url*; escaped as it must stand in a request.

    Raises:
        UserError: it is no address of a web server.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError("source url: cannot be read as an address; write http://HOST[:PORT]/PATH/") from error
    if not host:
        raise UserError(f"source url: {show_url(url)!r} names no host; write http://HOST[:PORT]/PATH/")
    if parts.fragment:
        raise UserError(f"source url: {show_url(url)!r} has a '#' part; write a '#' of a file name as %23")
    netloc = f"[{host}]" if ":" in host else host.encode("idna").decode() if not host.isascii() else host
    # What is escaped already stays; what may not stand in a request is escaped, as browsers do it.
    path = quote(parts.path or "/", safe=string.punctuation, errors="surrogateescape")
    bare = parts._replace(netloc=netloc if port is None else f"{netloc}:{port}", path=path, query="")
    credentials = None
    if parts.username is not None:
        credentials = unquote(parts.username), unquote(parts.password or "")
    query = quote(parts.query, safe=string.punctuation, errors="surrogateescape")
    return bare.geturl(), f"?{query}" if query else "", credentials


def authorization_of(basic: tuple[str, str], bearer_token: str) -> str | None:
    """Value of the Authorization header; None where neither user, password nor token is set."""
    if bearer_token:
        return f"Bearer {bearer_token}"
    return f"Basic {b64encode(':'.join(basic).encode()).decode()}" if any(basic) else None
