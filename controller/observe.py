"""Snapshots out of the local copies. Reads only; never waits."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from controller.caches import CLAIM, CLEANS, NODE, OWNER, VOLUME, Caches, Key
from controller.engines import ENGINES, Engine
from controller.identity import Identity, dataset_uid
from controller.snapshot import Snapshot, WorkerReport, is_finished
from datamodel import names
from kube.objects import Object, finalizers_of, key_of, labels_of, meta, name_of, namespace_of, uid_of
from kube.resources import (
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


def observe(
    caches: Caches,
    key: Key,
    *,
    reports: Mapping[str, WorkerReport],
    token_for: str = "",
    ended: str = "",
    waited: Mapping[str, float],
) -> Snapshot:
    """What the local copies know about *key* now.

    *token_for* is the UID of the runtime whose Secret is known to exist, *ended* that of one known to be gone.
    """
    namespace, name = key
    stores = caches.stores
    dataset = stores[DATASETS].get(namespace, name)
    runtimes = tuple(item for item in _runtimes(caches, key) if uid_of(item) != ended)
    engine = ENGINES[runtimes[0]["kind"]] if runtimes else None
    owned = _owned(caches, key, engine) if engine else {}
    has_token = bool(runtimes) and uid_of(runtimes[0]) == token_for
    identity = Identity(namespace, name, dataset_uid(dataset, runtimes[0] if runtimes else None))
    return Snapshot(
        namespace=namespace,
        name=name,
        now=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        dataset=dataset,
        runtimes=runtimes,
        rivals=_rivals(caches, key, dataset),
        stateful_set=owned.get(STATEFUL_SETS),
        daemon_set=owned.get(DAEMON_SETS),
        service=owned.get(SERVICES),
        config_map=owned.get(CONFIG_MAPS),
        volume=stores[PVS].get("", identity.volume),
        claim=stores[PVCS].get(namespace, name),
        users=tuple(stores[PODS].by(CLAIM, key)),
        workers=tuple(stores[PODS].by(OWNER, (namespace, "StatefulSet", f"{name}-worker"))),
        fuses=tuple(stores[PODS].by(OWNER, (namespace, "DaemonSet", engine.fuse.format(name)))) if engine else (),
        cleanups=tuple(stores[PODS].by(CLEANS, key)),
        nodes={name_of(node): node for node in stores[NODES].all()},
        reports=reports,
        has_token=has_token,
        fresh_token="" if has_token else secrets.token_urlsafe(32),
        waited=waited,
    )


def datasets_on(caches: Caches, node: str) -> int:
    """Number of datasets with a worker on *node*."""
    pods = [pod for pod in caches.stores[PODS].by(NODE, node) if not is_finished(pod)]
    return len({(namespace_of(pod), labels_of(pod)[names.DATASET_LABEL]) for pod in pods})


def _runtimes(caches: Caches, key: Key) -> tuple[Object, ...]:
    """Runtimes of one name; the one that we have begun to serve comes first, then the oldest."""
    found = [caches.stores[engine.resource].get(*key) for engine in ENGINES.values()]
    present = [item for item in found if item is not None]
    return tuple(sorted(present, key=lambda item: (not _is_begun(item), _age(item), item["kind"])))


def _is_begun(runtime: Object) -> bool:
    return ENGINES[runtime["kind"]].finalizer in finalizers_of(runtime)


def _age(item: Object) -> str:
    return str(meta(item).get("creationTimestamp", ""))


def _owned(caches: Caches, key: Key, engine: Engine) -> dict[Resource, Object | None]:
    namespace, name = key
    wanted = {
        STATEFUL_SETS: f"{name}-worker",
        DAEMON_SETS: engine.fuse.format(name),
        SERVICES: engine.service.format(name),
        CONFIG_MAPS: engine.config_map.format(name),
    }
    return {resource: caches.stores[resource].get(namespace, child) for resource, child in wanted.items()}


def _rivals(caches: Caches, key: Key, dataset: Object | None) -> tuple[Object, ...]:
    """Older Datasets with a runtime whose volume has the same name."""
    if dataset is None:
        return ()
    sharers = caches.stores[DATASETS].by(VOLUME, names.volume_name(*key))
    mine = (_age(dataset), key)
    older = [item for item in sharers if key_of(item) != key and (_age(item), key_of(item)) < mine]
    return tuple(item for item in older if _runtimes(caches, key_of(item)))
