"""What goes wrong between us and a web server, as errors of `datamodel.errors`. Addresses are shown without secrets."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

from datamodel.errors import (
    HeadraceError,
    NotFound,
    PermissionRefused,
    Unavailable,
    UserError,
    VersionChanged,
)
from ufs.http_version import retry_after_s


def show_url(url: str) -> str:
    """*url* as it may stand in messages: no credentials, no query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def status_error(status: int, url: str, headers: Mapping[str, str]) -> HeadraceError:
    """The error that an answer with *status*, which is 300 or higher, stands for."""
    where = show_url(url)
    if status in (404, 410):
        return NotFound(f"{where}: the source has no such path (status {status})")
    if status == 405:
        return NotFound(f"{where}: is nothing that can be read (status 405)")
    if status == 407:
        return PermissionRefused(f"{where}: the proxy wants credentials (status 407); check the proxy's address")
    if status in (401, 403):
        return PermissionRefused(f"{where}: the source refuses access (status {status}); check the credentials")
    if status == 412:
        return VersionChanged(f"{where}: the source no longer has the pinned version (status 412)")
    if status in (408, 425, 429) or status >= 500:
        wait_s = retry_after_s(headers, datetime.now(UTC))
        return Unavailable(f"{where}: the source answers with status {status}", wait_s)
    return UserError(f"{where}: the source refuses the request with status {status}; check the address")


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise our errors in place of those of sockets and TLS."""
    try:
        yield
    except OSError as error:
        raise _transport_error(show_url(url), error) from error


def _transport_error(where: str, error: OSError) -> HeadraceError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return UserError(
            f"{where}: its certificate is not trusted: {error.verify_message}; option 'ca-file' names one to trust"
        )
    if isinstance(error, socket.gaierror):
        return Unavailable(f"{where}: the host name cannot be resolved: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return Unavailable(f"{where}: connection refused; is the source running?")
    if isinstance(error, (TimeoutError, BlockingIOError)):  # the latter is what the kernel's own timeout looks like
        return Unavailable(f"{where}: the source does not answer in time")
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror or str(error)
    return Unavailable(f"{where}: the exchange with the source failed: {reason or type(error).__name__}")
