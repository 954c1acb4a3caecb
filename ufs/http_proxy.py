"""Which proxy stands before a web server, by the environment variables that curl and most tools honour.

`HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in lower case as well, which wins. `NO_PROXY` holds names, which stand for
their subdomains too, addresses, and networks such as `10.0.0.0/8`, parted by commas; `*` is every host. Loopback is
never asked through a proxy.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment

from datamodel.errors import UserError


class Origin(NamedTuple):
    """A web server, and what must be equal for credentials to be sent to it."""

    scheme: str
    host: str
    port: int

    def netloc(self) -> str:
        """As in a Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS = {"http": 80, "https": 443}


def origin_of(parts: SplitResult) -> Origin:
    """The server that an http or https address names."""
    return Origin(parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme])


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    authorization: str | None = field(repr=False)
    """Value of Proxy-Authorization."""


def proxy_for(origin: Origin) -> Proxy | None:
    """The proxy through which to reach *origin*, None for the direct way.

    Raises:
        UserError: the environment names a proxy of a kind that is not supported.
    """
    url = getproxies_environment().get(origin.scheme)
    if not url or _is_direct(origin):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    name = f"{origin.scheme.upper()}_PROXY"
    if parts.scheme != "http" or not parts.hostname:
        raise UserError(f"{name}: a proxy of scheme {parts.scheme!r} is not supported; write http://HOST:PORT")
    try:
        port = parts.port or 80
    except ValueError as error:
        raise UserError(f"{name}: its port is not a number; write http://HOST:PORT") from error
    authorization = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(credentials.encode()).decode()}"
    return Proxy(parts.hostname, port, authorization)


def _is_direct(origin: Origin) -> bool:
    if origin.host == "localhost":
        return True
    try:
        if ip_address(origin.host).is_loopback:
            return True
    except ValueError:
        pass  # a name
    entries = getproxies_environment().get("no", "").lower().split(",")
    return any(_covers(entry.strip(), origin) for entry in entries)


def _covers(entry: str, origin: Origin) -> bool:
    """Whether one entry of NO_PROXY stands for *origin*."""
    if "/" in entry:
        try:
            return ip_address(origin.host) in ip_network(entry, strict=False)
        except ValueError:
            return False  # a name is in no network, and an entry that is none means nothing, as with other tools
    name = entry.lstrip("*").lstrip(".")
    if not name:
        return entry == "*"
    named = (origin.host, f"{origin.host}:{origin.port}")
    return name in named or any(host.endswith(f".{name}") for host in named)
