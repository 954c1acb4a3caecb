"""Local copies of everything the controller looks at, and which (namespace, name) each change concerns.

Objects are trimmed to what decisions need, and a change that leaves the trimmed object equal wakes nobody: nodes and
pods report far more often than anything here depends on.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping

from controller.engines import ENGINES
from controller.identity import MANAGED_SELECTOR, runtime_name
from controller.pods import CLEANUP_ANNOTATION
from controller.snapshot import claims_of
from controller.volume import claim_of, is_ours
from datamodel import names
from kube.objects import (
    Object,
    annotations_of,
    key_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    owners_of,
    spec_of,
    status_of,
)
from kube.reflector import Reflector
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
    SERVICES,
    STATEFUL_SETS,
    Resource,
)
from kube.store import Index, Store
from kube.transport import Transport

Key = tuple[str, str]
"""(namespace, name) of a Dataset and its runtime; ("", name) is a node."""
OWNER, CLAIM, NODE, CLEANS, VOLUME = "owner", "claim", "node", "cleans", "volume"
MANAGED = (STATEFUL_SETS, DAEMON_SETS, SERVICES, CONFIG_MAPS)


class Caches:
    """One store and one reflector for each kind; *enqueue* gets the keys that a change concerns."""

    def __init__(self, transport: Transport, enqueue: Callable[[Key], None]) -> None:
        self._enqueue = enqueue
        self.stores: dict[Resource, Store] = {}
        self.reflectors: list[Reflector] = []
        runtimes = [engine.resource for engine in ENGINES.values()]
        self._add(transport, DATASETS, self._of_dataset, indexes={VOLUME: _volume_name})
        for resource in runtimes:
            self._add(transport, resource, self._of_runtime)
        for resource in MANAGED:
            self._add(transport, resource, _of_managed, selector=MANAGED_SELECTOR)
        self._add(transport, PVS, self._of_volume)
        self._add(transport, PVCS, self._of_claim)
        indexes: dict[str, Index] = {OWNER: _owner, CLAIM: _claims, NODE: _worker_node, CLEANS: _cleans}
        self._add(transport, PODS, self._of_pod, trim=trim_pod, indexes=indexes)
        self._add(transport, NODES, self._of_node, trim=trim_node)

    def start(self) -> None:
        for reflector in self.reflectors:
            reflector.start()

    def stop(self) -> None:
        for reflector in self.reflectors:
            reflector.stop()

    def unlisted(self) -> str:
        """Why reads from here would be incomplete; empty once everything was listed."""
        kinds = [reflector.resource.kind for reflector in self.reflectors if not reflector.is_listed]
        return f"not listed yet: {', '.join(kinds)}" if kinds else ""

    def silent(self, limit_s: float) -> str:
        """Which watches have heard nothing for too long; empty when all are alive."""
        kinds = [reflector.resource.kind for reflector in self.reflectors if reflector.silent_s > limit_s]
        return f"nothing heard for {limit_s:.0f} s about: {', '.join(kinds)}" if kinds else ""

    def known(self) -> set[Key]:
        """Every key there is something to do for: Datasets, runtimes, nodes."""
        kinds = (DATASETS, ALLUXIO_RUNTIMES, CACHE_RUNTIMES, NODES)
        return set[Key]().union(*(self.stores[kind].keys() for kind in kinds))

    def _add(
        self,
        transport: Transport,
        resource: Resource,
        keys: Callable[[Object], Iterable[Key]],
        *,
        selector: str = "",
        trim: Callable[[Object], Object] | None = None,
        indexes: Mapping[str, Index] | None = None,
    ) -> None:
        store = Store(indexes)

        def handle(old: Object | None, new: Object | None) -> None:
            if old == new:
                return
            for key in {key for item in (old, new) if item is not None for key in keys(item)}:
                self._enqueue(key)

        self.stores[resource] = store
        self.reflectors.append(Reflector(transport, resource, store, handle, selector=selector, trim=trim or trim_any))

    def _is_known(self, key: Key) -> bool:
        return any(self.stores[kind].get(*key) for kind in (DATASETS, ALLUXIO_RUNTIMES, CACHE_RUNTIMES))

    def _of_dataset(self, dataset: Object) -> Iterable[Key]:
        return {key_of(dataset), *self._sharers(_volume_name(dataset)[0])}

    def _of_runtime(self, runtime: Object) -> Iterable[Key]:
        return {key_of(runtime), *self._sharers(_volume_name(runtime)[0])}

    def _sharers(self, volume: Hashable) -> Iterable[Key]:
        """Datasets whose volumes have this name: what happens to one may free the name for another."""
        return [key_of(item) for item in self.stores[DATASETS].by(VOLUME, volume)]

    def _of_volume(self, volume: Object) -> Iterable[Key]:
        own = {claim_of(volume)} if is_ours(volume) else set()
        return {*own, *self._sharers(name_of(volume))}

    def _of_claim(self, claim: Object) -> Iterable[Key]:
        return [key_of(claim)] if is_ours(claim) or self._is_known(key_of(claim)) else []

    def _of_pod(self, pod: Object) -> Iterable[Key]:
        keys = {key for key in _claims(pod) if self._is_known(key)}
        if runtime_name(pod) and CLEANUP_ANNOTATION not in annotations_of(pod):
            keys.add((namespace_of(pod), runtime_name(pod)))
        return keys | set(_cleans(pod)) | {node_key(str(node)) for node in _worker_node(pod)}

    def _of_node(self, node: Object) -> Iterable[Key]:
        pods = self.stores[PODS].by(NODE, name_of(node))
        return [node_key(name_of(node)), *((namespace_of(pod), runtime_name(pod)) for pod in pods)]


def node_key(name: str) -> Key:
    """The key for what is counted on one node."""
    return "", name


def trim_any(item: Object) -> Object:
    """Without the record of who wrote which field, which is as large as the object itself."""
    return {**item, "metadata": {key: value for key, value in meta(item).items() if key != "managedFields"}}


def trim_pod(pod: Object) -> Object:
    """What matters of a pod. Without its resourceVersion, so that equal means nothing happened that matters."""
    kept = ("name", "namespace", "uid", "labels", "annotations", "ownerReferences", "deletionTimestamp")
    metadata = {key: value for key, value in meta(pod).items() if key in kept}
    if not labels_of(pod).get(names.MANAGED_BY_LABEL):
        metadata.pop("annotations", None)
    volumes = [item for item in spec_of(pod).get("volumes") or [] if "persistentVolumeClaim" in item]
    status = status_of(pod)
    ready = [
        {"type": "Ready", "status": item.get("status")}
        for item in status.get("conditions") or []
        if item.get("type") == "Ready"
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": spec_of(pod).get("nodeName", ""), "volumes": volumes},
        "status": {"phase": status.get("phase", ""), "podIP": status.get("podIP", ""), "conditions": ready},
    }


def trim_node(node: Object) -> Object:
    """A node's name and labels."""
    kept = {key: value for key, value in meta(node).items() if key in ("name", "uid", "labels")}
    return {"apiVersion": "v1", "kind": "Node", "metadata": kept}


def _volume_name(item: Object) -> list[str]:
    return [names.volume_name(*key_of(item))]


def _of_managed(item: Object) -> Iterable[Key]:
    return [(namespace_of(item), runtime_name(item))] if runtime_name(item) else []


def _owner(pod: Object) -> Iterable[Hashable]:
    return [
        (namespace_of(pod), owner.get("kind"), owner.get("name")) for owner in owners_of(pod) if owner.get("controller")
    ]


def _claims(pod: Object) -> Iterable[Key]:
    return {(namespace_of(pod), claim) for claim in claims_of(pod)}


def _worker_node(pod: Object) -> Iterable[Hashable]:
    node = spec_of(pod).get("nodeName")
    return [node] if node and runtime_name(pod) and names.DATASET_LABEL in labels_of(pod) else []


def _cleans(pod: Object) -> Iterable[Key]:
    namespace, _, name = annotations_of(pod).get(CLEANUP_ANNOTATION, "").partition("/")
    return [(namespace, name)] if name else []
