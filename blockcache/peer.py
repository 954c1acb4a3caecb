"""Workers as an under file system: the same three questions, asked over HTTP to the worker that owns the answer.

Placement: rendezvous hashing of (path, chunk) over the workers, so that every client asks the same one, and the loss
of a worker moves only its share. A worker that does not answer is left out for a moment and the next in order is
asked; when none is left the caller goes to the source itself.
"""

import hashlib
import time
from collections.abc import Iterator
from urllib.parse import quote, unquote

import msgspec
import urllib3

from datamodel.client import Workers
from datamodel.errors import (
    Corrupt,
    NotFound,
    PermissionRefused,
    Precondition,
    Unavailable,
    UserError,
    VersionChanged,
)
from ufs.base import Entry, Stat, UnderFileSystem, check_path

CHUNK_BYTES = 64 << 20
VERSION_HEADER = "X-Headrace-Version"
MTIME_HEADER = "X-Headrace-Mtime-Ns"
LINK_HEADER = "X-Headrace-Link"
EXECUTABLE_HEADER = "X-Headrace-Executable"
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 1.0, 30.0
_DOWN_FOR_S = 5.0
_POOL = 16


class ListedEntry(msgspec.Struct, frozen=True):
    """One line of a worker's directory listing. *name* as percent-encoded bytes, so that any name survives JSON."""

    name: str
    is_dir: bool
    size: int | None
    mtime_ns: int | None
    link: str | None = None
    """What a symbolic link names, percent-encoded like *name*."""
    is_executable: bool = False


def ranked(workers: int, key: str) -> list[int]:
    """Ordinals of *workers* in the order in which they are responsible for *key* (rendezvous hashing)."""
    scores = [
        hashlib.blake2b(f"{key}\0{i}".encode(errors="surrogateescape"), digest_size=8).digest() for i in range(workers)
    ]
    return sorted(range(workers), key=scores.__getitem__, reverse=True)


class PeerFileSystem(UnderFileSystem):
    """Files below *prefix* (absolute path in the dataset) as the workers have them. Implements UnderFileSystem."""

    def __init__(self, workers: Workers, token: str, prefix: str) -> None:
        self._workers, self._prefix = workers, prefix.strip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._down_until = [0.0] * workers.replicas
        self._pool = urllib3.PoolManager(
            num_pools=workers.replicas,
            maxsize=_POOL,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=_READ_TIMEOUT_S),
            retries=False,
        )

    def stat(self, path: str) -> Stat:
        response = self._ask("HEAD", path, path, {})
        response.release_conn()
        size, version = int(response.headers.get("Content-Length", 0)), response.headers.get(VERSION_HEADER, "")
        is_dir = response.headers.get("Content-Type") == "application/json"
        mtime_ns = int(response.headers.get(MTIME_HEADER, 0))
        link, is_executable = response.headers.get(LINK_HEADER), EXECUTABLE_HEADER in response.headers
        return Stat(
            is_dir,
            0 if is_dir else size,
            mtime_ns,
            "" if is_dir else _text(version),
            is_executable=is_executable,
            link_target=None if link is None else _text(link),
        )

    def list(self, path: str) -> Iterator[Entry]:
        response = self._ask("GET", path, path, {}, is_directory=True)
        try:
            entries = msgspec.json.decode(response.read(), type=list[ListedEntry])
        except (msgspec.DecodeError, urllib3.exceptions.HTTPError) as error:
            raise Corrupt(f"worker's listing of {path!r}: {error}") from error
        finally:
            response.release_conn()
        for entry in entries:
            link = None if entry.link is None else _text(entry.link)
            yield Entry(_text(entry.name), entry.is_dir, entry.size, entry.mtime_ns, link, entry.is_executable)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        if not into:
            return 0
        headers = {"Range": f"bytes={offset}-{offset + len(into) - 1}", "If-Match": f'"{_token(version)}"'}
        try:
            response = self._ask("GET", path, f"{path}\0{offset // CHUNK_BYTES}", headers)
        except Precondition:
            return 0  # behind the end of the file
        if response.status != 206:
            response.close()
            raise Corrupt(f"worker: {path!r}: answered {response.status} to a range")
        done = 0
        try:
            while done < len(into) and (count := response.readinto(into[done:])):
                done += count
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise Unavailable(f"worker: {path!r} broke off after {done} bytes: {error}") from error
        response.release_conn()
        return done

    def close(self) -> None:
        self._pool.clear()

    def _ask(
        self, method: str, path: str, key: str, headers: dict[str, str], *, is_directory: bool = False
    ) -> urllib3.BaseHTTPResponse:
        check_path(path)
        full = "/".join(part for part in (self._prefix, path) if part)
        target = "/files/" + quote(full.encode(errors="surrogateescape")) + ("/" if is_directory and full else "")
        for ordinal in ranked(self._workers.replicas, key):
            if time.monotonic() < self._down_until[ordinal]:
                continue
            host = self._workers.host_pattern.format(i=ordinal)
            url = f"http://{host}:{self._workers.port}{target}"
            try:
                response = self._pool.request(
                    method, url, headers={**self._headers, **headers}, preload_content=False, redirect=False
                )
            except (urllib3.exceptions.HTTPError, OSError):
                self._down_until[ordinal] = time.monotonic() + _DOWN_FOR_S
                continue
            if response.status < 300:
                return response
            problem = response.read(512, decode_content=False).decode(errors="replace").strip()
            response.drain_conn()
            if response.status >= 500:
                raise Unavailable(f"worker {ordinal}: {problem}")
            raise _ERRORS.get(response.status, UserError)(f"worker {ordinal}: {path!r}: {problem}")
        raise Unavailable("no worker answers")


_ERRORS = {404: NotFound, 401: PermissionRefused, 403: PermissionRefused, 412: VersionChanged, 416: Precondition}


def _token(version: str) -> str:
    """A version as it may stand in an HTTP header: percent-encoded bytes."""
    return quote(version.encode(errors="surrogateescape"), safe="")


def _text(token: str) -> str:
    return unquote(token, "utf-8", "surrogateescape")
