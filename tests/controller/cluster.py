"""The rest of a cluster, as far as the controller can tell.

StatefulSets get ready pods, clean-up pods succeed, volumes and claims are bound to each other.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from controller.run import Controller
from kube.objects import Object, labels_of, name_of, namespace_of, owners_of, spec_of, status_of, uid_of
from kube.resources import (
    ALLUXIO_RUNTIMES,
    CACHE_RUNTIMES,
    CONFIG_MAPS,
    DAEMON_SETS,
    DATASETS,
    NODES,
    PODS,
    PVCS,
    PVS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
)
from kube.transport import Transport
from tests.controller.objects import NAME, NAMESPACE, SETTINGS
from tests.fakes.apiserver import FakeApiServer, Refusal, merged

MADE = (STATEFUL_SETS, DAEMON_SETS, SERVICES, CONFIG_MAPS, SECRETS, PVCS, PVS, PODS, CACHE_RUNTIMES, ALLUXIO_RUNTIMES)
QUICK = replace(SETTINGS, report_period_s=3600.0, resync_s=3600.0)


class Cluster:
    """Reacts to what the controller writes, on a thread of its own, until the server closes."""

    def __init__(self, api: FakeApiServer, nodes: tuple[str, ...] = ("n1", "n2")) -> None:
        self._api = api
        for name in nodes:
            api.put(NODES.path(), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {}}})
        self._nodes = nodes
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        seen: int | None = 0
        while seen is not None:
            try:
                self._react()
            except Refusal as refusal:
                if refusal.status != 404:
                    raise  # but an object that went while we looked is the next change, so we look again
            seen = self._api.next_change(seen)

    def _react(self) -> None:
        sets = {(namespace_of(item), name_of(item)): item for item in self._api.all(STATEFUL_SETS.path())}
        for pod in self._api.all(PODS.path()):
            self._tend_pod(pod, sets)
        for item in sets.values():
            self._start_workers(item)
        for item in self._api.all(PVS.path()):
            self._bind_volume(item)

    def _tend_pod(self, pod: Object, sets: dict[tuple[str, str], Object]) -> None:
        owner: Object = next(iter(owners_of(pod)), {})
        if owner and (namespace_of(pod), owner["name"]) not in sets:
            self._api.remove(PODS.path(namespace_of(pod), name_of(pod)))
        if name_of(pod).startswith("cleanup-") and not status_of(pod).get("phase"):
            self._api.patch(PODS.path(namespace_of(pod), name_of(pod)), {"status": {"phase": "Succeeded"}})

    def _bind_volume(self, item: Object) -> None:
        reference, path = spec_of(item)["claimRef"], PVS.path(name=name_of(item))
        claim_path = PVCS.path(reference["namespace"], reference["name"])
        claim = self._api.get(claim_path)
        if claim is None:
            phase = "Released" if reference.get("uid") else "Available"
            self._change(path, item, {"status": {"phase": phase}})
        elif not reference.get("uid"):
            self._change(path, item, {"spec": {"claimRef": {"uid": uid_of(claim)}}, "status": {"phase": "Bound"}})
            self._change(claim_path, claim, {"status": {"phase": "Bound"}})

    def _change(self, path: str, item: Object, change: Object) -> None:
        """Write only what is new, as a write is a change that we would react to again."""
        if merged(item, change) != item:
            self._api.patch(path, change)

    def _start_workers(self, item: Object) -> None:
        path, replicas = PODS.path(namespace_of(item)), int(spec_of(item)["replicas"])
        if status_of(item).get("readyReplicas") == replicas:
            return
        for index in range(replicas):
            name = f"{name_of(item)}-{index}"
            if self._api.get(f"{path}/{name}") is None:
                self._api.put(path, _pod(item, name, self._nodes[index % len(self._nodes)]))
        counts = {"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}
        self._api.patch(STATEFUL_SETS.path(namespace_of(item), name_of(item)), {"status": counts})


def _pod(owner: Object, name: str, node: str) -> Object:
    template = spec_of(owner)["template"]["metadata"]
    reference = {"kind": "StatefulSet", "name": name_of(owner), "uid": uid_of(owner), "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": template["labels"], "ownerReferences": [reference]},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


@contextmanager
def running(transport: Transport, **options: Any) -> Iterator[Controller]:
    """A controller at work."""
    controller = Controller(transport, QUICK, workers=2, **options)
    controller.caches.start()
    for reflector in controller.caches.reflectors:
        assert reflector.wait_listed(10)
    controller.start()
    try:
        yield controller
    finally:
        controller.stop()


def phase(api: FakeApiServer) -> str:
    return str(status_of(api.get(DATASETS.path(NAMESPACE, NAME)) or {}).get("phase", ""))


def leftovers(api: FakeApiServer) -> list[str]:
    """All that the controller ever makes, and labels on nodes."""
    objects = [f"{item['kind']} {name_of(item)}" for resource in MADE for item in api.all(resource.path())]
    labels = [f"{name_of(node)}: {key}" for node in api.all(NODES.path()) for key in labels_of(node)]
    return objects + labels
