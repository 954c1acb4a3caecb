"""Keeps a `Store` equal to the API server's collection: list once, then watch from there, for ever.

The `kubernetes` package's informer was weighed and left: it needs typed models, goes round without a pause when the
server is away, and cannot tell a quiet watch from a dead one. Here a watch resumes from the last resourceVersion or
bookmark; 410 lists again and reports what vanished meanwhile; every failure waits longer than the one before; and
`silent_s` says how long nothing was heard, which feeds the liveness probe.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from datamodel.errors import HeadraceError
from kube.errors import Gone
from kube.objects import Object, key_of, meta
from kube.resources import Resource
from kube.store import Store
from obs import logs

WATCH_S = 240.0
PAGE = "500"
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0

log = logs.get("kube")

Handler = Callable[[Object | None, Object | None], None]
"""Called with (old, new) on the reflector's thread; None where there is no such object. Must be quick."""


class Source(Protocol):
    """The part of `Transport` that a reflector needs."""

    def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]: ...
    def watch(
        self, path: str, *, resource_version: str, params: Mapping[str, str] | None = None, timeout_s: float
    ) -> Any: ...


class Reflector:
    """One kind of object, mirrored by a thread of its own from `start()` to `stop()`."""

    def __init__(
        self,
        source: Source,
        resource: Resource,
        store: Store,
        handler: Handler,
        *,
        namespace: str | None = None,
        selector: str = "",
        field_selector: str = "",
        trim: Callable[[Object], Object] = lambda item: item,
        watch_s: float = WATCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resource = resource
        self.store = store
        self._source = source
        self._path = resource.path(namespace)
        self._params = {"labelSelector": selector, "fieldSelector": field_selector}
        self._params = {key: value for key, value in self._params.items() if value}
        self._handler = handler
        self._trim = trim
        self._watch_s = watch_s
        self._clock = clock
        self._stopping = threading.Event()
        self._listed = threading.Event()
        self._heard = clock()
        self._version = ""
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it is reading now; it is a daemon, so a silent watch does not hold the process."""
        self._stopping.set()

    def wait_listed(self, timeout_s: float) -> bool:
        """Whether the first list is in the store, waiting for it up to *timeout_s*."""
        return self._listed.wait(timeout_s)

    @property
    def is_listed(self) -> bool:
        return self._listed.is_set()

    @property
    def silent_s(self) -> float:
        """Seconds since the API server was last heard about this kind; a healthy watch stays under `watch_s`."""
        return self._clock() - self._heard

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                self.step()
                pause_s = FIRST_PAUSE_S
            except HeadraceError as error:
                log.warning("watch.failed", kind=self.resource.kind, error=str(error), pause_s=round(pause_s, 1))
                self._stopping.wait(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def step(self) -> None:
        """List if there is no version to go on from, else watch once from it."""
        if not self._version:
            self._version = self._list()
            return
        try:
            for event in self._source.watch(
                self._path, resource_version=self._version, params=self._params, timeout_s=self._watch_s
            ):
                self._heard = self._clock()
                self._take(event["type"], event["object"])
                # After the event is in the store: a watch that breaks resumes exactly behind it.
                self._version = str(meta(event["object"])["resourceVersion"])
                if self._stopping.is_set():
                    break
        except Gone:
            log.info("watch.expired", kind=self.resource.kind)
            self._version = ""
        self._heard = self._clock()

    def _take(self, kind: str, item: Object) -> None:
        if kind == "BOOKMARK":
            return
        item = self._trim(item)
        if kind == "DELETED":
            self._handler(self.store.remove(key_of(item)) or item, None)
            return
        self._handler(self.store.put(item), item)

    def _list(self) -> str:
        seen = set()
        params = {**self._params, "limit": PAGE}
        while True:
            page = self._source.get(self._path, params)
            for item in page.get("items") or []:
                # Items of a list come without their kind, which events and owner references need.
                item.update(kind=self.resource.kind, apiVersion=self.resource.api_version)
                item = self._trim(item)
                seen.add(key_of(item))
                self._handler(self.store.put(item), item)
            params["continue"] = meta(page).get("continue", "")
            if not params["continue"]:
                break
        for key in self.store.keys() - seen:
            self._handler(self.store.remove(key), None)
        self._heard = self._clock()
        self._listed.set()
        return str(meta(page)["resourceVersion"])
