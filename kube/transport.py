"""Blocking, thread-safe requests to the API server: raw dicts in, raw dicts out, errors by blame.

Nothing is retried here: callers have a work queue, a watch loop or a lease period that decides when to try again.
Every request has a deadline, so a silent API server shows up as `Unavailable` and never as a hang.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3

from datamodel.errors import NotFound, Unavailable
from kube import config
from kube.config import Endpoint
from kube.errors import error_of

REQUEST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
WATCH_GRACE_S = 15.0
"""How long past its own end a watch may be silent before the connection counts as dead."""
_CONNECTIONS = 32

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Transport:
    """One API server, reached through a pool of connections."""

    def __init__(self, endpoint: Endpoint, *, user_agent: str = "headrace") -> None:
        self._endpoint = endpoint
        self._user_agent = user_agent
        pool: dict[str, Any] = {"ssl_context": endpoint.tls} if endpoint.tls else {}
        self._pool = urllib3.PoolManager(num_pools=2, maxsize=_CONNECTIONS, retries=False, **pool)

    @classmethod
    def load(cls, kubeconfig: str | None = None) -> "Transport":
        """Connect as the pod's service account, or as the current context of the file *kubeconfig*."""
        return cls(config.from_kubeconfig(kubeconfig) if kubeconfig else config.in_cluster())

    def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One object, or a list with *params* such as labelSelector."""
        return self._call("GET", path, params=params)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create *body* in the collection *path*; `Conflict` when it exists."""
        return self._call("POST", path, body=body, kind="application/json")

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Put *body* in place of the object; `Conflict` when its resourceVersion is not the current one."""
        return self._call("PUT", path, body=body, kind="application/json")

    def apply(self, path: str, body: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """Server-side apply: create the object or own the fields in *body*, taking them from other managers."""
        params = {"fieldManager": manager, "force": "true"}
        return self._call("PATCH", path, params=params, body=body, kind=APPLY)

    def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change the fields in *body*; None removes one, a list replaces the whole list."""
        return self._call("PATCH", path, body=body, kind=MERGE)

    def delete(self, path: str, *, uid: str | None = None, propagation: str = "Background") -> None:
        """Delete the object, but only the one with *uid* if given; one that is gone is fine.

        Raises:
            Conflict: another object has that name by now.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._call("DELETE", path, body=options, kind="application/json")
        except NotFound:
            return

    def watch(
        self,
        path: str,
        *,
        resource_version: str,
        params: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Iterator[dict[str, Any]]:
        """Raw watch events since *resource_version*, bookmarks included; ends after about *timeout_s*.

        Raises:
            Gone: the version is too old; list again.
            Unavailable: the connection broke or went silent.
        """
        fields = {
            **(params or {}),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(timeout_s))),
        }
        silence = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s + WATCH_GRACE_S)
        response = self._send("GET", path, fields, None, "", silence, stream=True)
        try:
            for line in _lines(response, path):
                event: dict[str, Any] = msgspec.json.decode(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise error_of(int(status.get("code", 500)), json.dumps(status).encode(), {}, f"WATCH {path}")
                yield event
        finally:
            # The rest of the stream is of no use: closing is cheaper than draining, and lets the server forget us.
            response.close()
            response.release_conn()

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        kind: str = "",
    ) -> dict[str, Any]:
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=REQUEST_TIMEOUT_S)
        response = self._send(method, path, params, body, kind, timeout, stream=False)
        try:
            result: dict[str, Any] = msgspec.json.decode(response.data)
        except msgspec.DecodeError as error:
            raise Unavailable(f"{method} {path}: the answer is not JSON: {error}") from error
        return result

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        kind: str,
        timeout: urllib3.Timeout,
        *,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        authorization = self._endpoint.authorization()
        if authorization:
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = kind
        query = f"?{urlencode(params)}" if params else ""
        try:
            response = self._pool.request(
                method,
                f"{self._endpoint.url}{path}{query}",
                body=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=timeout,
                preload_content=not stream,
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"{method} {path}: {error}") from error
        if response.status >= 300:
            raise error_of(response.status, response.data, response.headers, f"{method} {path}")
        return response


def _lines(response: urllib3.BaseHTTPResponse, path: str) -> Iterator[bytes]:
    """Whole lines of a stream. A line cut short by a broken connection is never delivered."""
    rest = b""
    try:
        for chunk in response.stream(1 << 16, decode_content=True):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line for line in whole if line.strip())
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unavailable(f"WATCH {path}: {error}") from error
