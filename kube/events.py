"""Kubernetes Events with a count, so that a condition that lasts is one line in `kubectl describe`, not hundreds.

The name of an Event follows from its object, reason and message: a restarted controller counts on in the same Event.
Posting never fails a reconcile: an Event is a courtesy, and the API server may well refuse it in a namespace that is
going away.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from datamodel.errors import Conflict, HeadraceError, NotFound
from kube.objects import Object, name_of, namespace_of, uid_of
from kube.resources import EVENTS
from kube.transport import Transport
from obs import logs

QUIET_S = 60.0
"""The same Event is counted at most this often."""
_MESSAGE_LIMIT = 1024
_REMEMBERED = 4096

log = logs.get("kube")


class Recorder:
    """Posts Events. Thread-safe."""

    def __init__(self, transport: Transport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._clock = clock
        self._lock = threading.Lock()
        self._posted: dict[str, float] = {}

    def post(self, about: Object, kind: str, reason: str, message: str, *, once: bool = False) -> None:
        """Post an Event of *kind* Normal or Warning about the object; *once*: never count it up."""
        name = self._event_name(about, kind, reason, message)
        if not self._is_due(name, once):
            return
        try:
            self._create_or_count(name, about, kind, reason, message[:_MESSAGE_LIMIT], once)
        except HeadraceError as error:
            with self._lock:
                self._posted.pop(name, None)
            log.warning(
                "event.dropped", about=f"{namespace_of(about)}/{name_of(about)}", reason=reason, error=str(error)
            )

    def _is_due(self, name: str, once: bool) -> bool:
        now = self._clock()
        with self._lock:
            last = self._posted.get(name)
            if last is not None and (once or now - last < QUIET_S):
                return False
            if len(self._posted) >= _REMEMBERED:
                self._posted.clear()
            self._posted[name] = now
            return True

    def _create_or_count(self, name: str, about: Object, kind: str, reason: str, message: str, once: bool) -> None:
        namespace = namespace_of(about) or "default"
        try:
            self._transport.create(EVENTS.path(namespace), _event(name, namespace, about, kind, reason, message))
        except Conflict:
            if once:
                return
            path = EVENTS.path(namespace, name)
            try:
                count = int(self._transport.get(path).get("count") or 1) + 1
                self._transport.merge_patch(path, {"count": count, "lastTimestamp": _now()})
            except NotFound:
                log.info("event.expired", name=name)

    @staticmethod
    def _event_name(about: Object, kind: str, reason: str, message: str) -> str:
        text = "\0".join((uid_of(about), kind, reason, message))
        return f"{name_of(about)[:200]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _event(name: str, namespace: str, about: Object, kind: str, reason: str, message: str) -> dict[str, Any]:
    now = _now()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": about.get("apiVersion", ""),
            "kind": about.get("kind", ""),
            "namespace": namespace_of(about),
            "name": name_of(about),
            "uid": uid_of(about),
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": about.get("kind", "")},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
