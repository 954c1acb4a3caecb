"""An API server in this process: objects, resourceVersions, watches, finalizers, status, over real HTTP on loopback.

Server-side apply is a deep merge without managed fields: enough for a client that owns what it applies. Faults are
asked for by `refuse` (the next matching request fails) and `forget` (old resourceVersions are gone: 410).
"""

import copy
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kube.config import Endpoint
from kube.transport import Transport

Object = dict[str, Any]
_SUBRESOURCES = ("status", "scale")
_CREATED = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    body: Object | None = None


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message or str(status))
        self.status = status


@dataclass(frozen=True)
class Target:
    """A request path, taken apart."""

    collection: str
    namespace: str
    name: str
    subresource: str

    @classmethod
    def of(cls, path: str) -> "Target":
        parts = path.strip("/").split("/")
        head = 2 if parts[0] == "api" else 3
        group, rest = "/".join(parts[:head]), parts[head:]
        namespace = ""
        if len(rest) >= 3 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        name = rest[1] if len(rest) > 1 else ""
        return cls(f"{group}/{rest[0]}", namespace, name, rest[2] if len(rest) > 2 else "")


@dataclass
class _State:
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    log: list[tuple[int, str, str, Object]] = field(default_factory=list)
    version: int = 100
    oldest: int = 0
    requests: list[Request] = field(default_factory=list)
    refusals: list[tuple[str, str, int]] = field(default_factory=list)
    closed: bool = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in a watch is how watches end; anything else is a mistake in here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FakeApiServer:
    """Serves from construction to `close()`. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._state = _State()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                fake._serve(self, body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, format: str, *args: object) -> None:
                """Tests have their own way to see requests."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def transport(self) -> Transport:
        """A client of this server."""
        return Transport(Endpoint(f"http://127.0.0.1:{self._server.server_address[1]}", None, lambda: ""))

    def close(self) -> None:
        with self._changed:
            self._state.closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # what tests do to the world behind the controller's back

    def get(self, path: str) -> Object | None:
        """The object at *path*, or None."""
        target = Target.of(path)
        with self._changed:
            found = self._state.objects.get((target.collection, target.namespace, target.name))
            return copy.deepcopy(found)

    def put(self, path: str, body: Object) -> Object:
        """Create the object at the collection *path*, status included."""
        with self._changed:
            return self._create(Target.of(path), copy.deepcopy(body))

    def patch(self, path: str, body: Object) -> None:
        """Merge into the object at *path*, whichever part of it."""
        target = Target.of(path)
        with self._changed:
            item = self._found(target)
            self._write("MODIFIED", target, merged(item, body))

    def remove(self, path: str) -> None:
        """Delete as a user would: an object with finalizers stays until they are gone."""
        with self._changed:
            self._delete(Target.of(path), {})

    def refuse(self, method: str, path: str, status: int) -> None:
        """Answer the next such request with *status*."""
        with self._changed:
            self._state.refusals.append((method, path, status))

    def forget(self) -> None:
        """Let every resourceVersion known so far be too old for a watch, and end all watches."""
        with self._changed:
            self._state.version += 1
            self._state.oldest = self._state.version
            self._changed.notify_all()

    def wait(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Return as soon as *condition* holds; fail after *timeout_s*.

        Looked at after every change here, and every 50 ms for conditions on the client's side.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                if time.monotonic() > end:
                    last = [f"{request.method} {request.path}" for request in self._state.requests[-12:]]
                    raise AssertionError(f"not within {timeout_s} s; last requests: {last}")
                self._changed.wait(0.05)

    def next_change(self, seen: int) -> int | None:
        """The version of the world as soon as it is above *seen*; None when the server closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._state.closed or self._state.version > seen)
            return None if self._state.closed else self._state.version

    def all(self, path: str) -> list[Object]:
        """Every object of the collection *path*, of all namespaces."""
        with self._changed:
            collection = Target.of(path).collection
            return [copy.deepcopy(item) for key, item in sorted(self._state.objects.items()) if key[0] == collection]

    @property
    def requests(self) -> list[Request]:
        with self._changed:
            return list(self._state.requests)

    # the server's side

    def _serve(self, handler: BaseHTTPRequestHandler, body: Object | None) -> None:
        url = urlsplit(handler.path)
        params = {key: values[0] for key, values in parse_qs(url.query).items()}
        try:
            if params.get("watch") == "true":
                self._watch(handler, Target.of(url.path), params)
                return
            answer = self._answer(handler, url.path, params, body)
            status = 200
        except Refusal as refusal:
            status, answer = refusal.status, {"kind": "Status", "code": refusal.status, "message": str(refusal)}
        text = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _answer(
        self, handler: BaseHTTPRequestHandler, path: str, params: dict[str, str], body: Object | None
    ) -> Object:
        target, method = Target.of(path), handler.command
        with self._changed:
            self._state.requests.append(Request(method, path, body))
            self._changed.notify_all()
            for refusal in self._state.refusals:
                if refusal[:2] == (method, path):
                    self._state.refusals.remove(refusal)
                    raise Refusal(refusal[2], "as the test asked")
            if method == "GET":
                return copy.deepcopy(self._found(target)) if target.name else self._list(target, params)
            if method == "POST":
                return self._create(target, body or {})
            if method == "DELETE":
                return self._delete(target, body or {})
            return self._change(target, method, handler.headers.get("Content-Type", ""), body or {})

    def _found(self, target: Target) -> Object:
        item = self._state.objects.get((target.collection, target.namespace, target.name))
        if item is None:
            raise Refusal(404, f"{target.collection} {target.namespace}/{target.name} not found")
        return item

    def _list(self, target: Target, params: dict[str, str]) -> Object:
        items = [
            copy.deepcopy(item)
            for (collection, namespace, _), item in sorted(self._state.objects.items())
            if collection == target.collection
            and target.namespace in ("", namespace)
            and _is_selected(item, params.get("labelSelector", ""))
        ]
        for item in items:
            item.pop("kind", None)
            item.pop("apiVersion", None)
        return {"metadata": {"resourceVersion": str(self._state.version)}, "items": items}

    def _create(self, target: Target, body: Object) -> Object:
        name = body["metadata"]["name"]
        target = Target(target.collection, target.namespace, name, "")
        if (target.collection, target.namespace, name) in self._state.objects:
            raise Refusal(409, f"{name} already exists")
        metadata = {"uid": str(uuid.uuid4()), "creationTimestamp": _CREATED, **body["metadata"]}
        if target.namespace:
            metadata["namespace"] = target.namespace
        return self._write("ADDED", target, {**body, "metadata": metadata})

    def _change(self, target: Target, method: str, kind: str, body: Object) -> Object:
        if "apply-patch" in kind and (target.collection, target.namespace, target.name) not in self._state.objects:
            return self._create(target, body)
        old = self._found(target)
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != old["metadata"]["resourceVersion"]:
            raise Refusal(409, "the object has been modified")
        if target.subresource in _SUBRESOURCES:
            new = {**old, "status": merged(old.get("status", {}), body.get("status", {}))}
        else:
            new = body if method == "PUT" else merged(old, body)
            new = {**new, "status": old["status"]} if "status" in old else new
        if new == old:
            return copy.deepcopy(old)
        return self._write("MODIFIED", target, new)

    def _delete(self, target: Target, options: Object) -> Object:
        item = self._found(target)
        uid = options.get("preconditions", {}).get("uid")
        if uid is not None and uid != item["metadata"]["uid"]:
            raise Refusal(409, "the UID does not match")
        if item["metadata"].get("deletionTimestamp"):
            return copy.deepcopy(item)
        metadata = {**item["metadata"], "deletionTimestamp": _CREATED}
        return self._write("MODIFIED", target, {**item, "metadata": metadata})

    def _write(self, event: str, target: Target, item: Object) -> Object:
        metadata = item["metadata"]
        self._state.version += 1
        item = {**item, "metadata": {**metadata, "resourceVersion": str(self._state.version)}}
        key = (target.collection, target.namespace, target.name)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            event = "DELETED"
            self._state.objects.pop(key, None)
        else:
            self._state.objects[key] = item
        self._state.log.append((self._state.version, event, target.collection, item))
        self._changed.notify_all()
        return copy.deepcopy(item)

    def _watch(self, handler: BaseHTTPRequestHandler, target: Target, params: dict[str, str]) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        seen = int(params["resourceVersion"])
        with self._changed:
            self._state.requests.append(Request("WATCH", urlsplit(handler.path).path))
        try:
            while (event := self._next_event(target, params, seen)) is not None:
                seen, line = event
                handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                handler.wfile.flush()
                if b'"ERROR"' in line:
                    break
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            # The client has gone, as it does when a reflector stops.
            handler.close_connection = True

    def _next_event(self, target: Target, params: dict[str, str], seen: int) -> tuple[int, bytes] | None:
        with self._changed:
            while not self._state.closed:
                if seen < self._state.oldest:
                    gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
                    return seen, json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
                for version, event, collection, item in self._state.log:
                    if version <= seen or collection != target.collection:
                        continue
                    if not _is_selected(item, params.get("labelSelector", "")):
                        continue
                    return version, json.dumps({"type": event, "object": item}).encode() + b"\n"
                self._changed.wait()
            return None


def merged(old: Object, change: Object) -> Object:
    """JSON merge patch."""
    result = dict(old)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif isinstance(value, dict):
            result[key] = merged({}, value)
        else:
            result[key] = value
    return result


def _is_selected(item: Object, selector: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    pairs = [part.split("=", 1) for part in selector.split(",") if part]
    return all(labels.get(key) == value for key, value in pairs)
