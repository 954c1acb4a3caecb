"""Labels of nodes that hold workers, so that schedulers and people find cache. Pure.

Fluid polls for these; here every change of a worker pod leads to a look. The number of datasets on a node belongs to no
dataset: it has a look of its own for each node, and is counted from the pods, so no two writers can race for it.
"""

from collections.abc import Iterable
from typing import Any

from controller.engines import RuntimeSpec
from controller.identity import Identity
from controller.plan import Patch
from controller.snapshot import Snapshot, is_finished
from datamodel import names
from datamodel.dataset import DatasetSpec
from datamodel.quantity import show_bytes_exactly
from kube.objects import Object, labels_of, name_of, spec_of, status_of
from kube.resources import NODES


def worker_nodes(snapshot: Snapshot) -> frozenset[str]:
    """Nodes with a worker pod, running or about to."""
    return frozenset(
        str(spec_of(pod)["nodeName"])
        for pod in snapshot.workers
        if spec_of(pod).get("nodeName") and not is_finished(pod)
    )


def label_patches(spec: RuntimeSpec, identity: Identity, snapshot: Snapshot, dataset: DatasetSpec) -> tuple[Patch, ...]:
    """Patches that put the labels on nodes with a running worker and take them off the others."""
    running = frozenset(
        str(spec_of(pod)["nodeName"])
        for pod in snapshot.workers
        if spec_of(pod).get("nodeName") and status_of(pod).get("phase") == "Running"
    )
    keep = worker_nodes(snapshot)
    wanted = _wanted(spec, identity, dataset)
    patches = []
    for name, node in sorted(snapshot.nodes.items()):
        if name in running:
            labels = dict(wanted)
            if labels_of(node).get(names.EXCLUSIVE_LABEL):
                # Another namespace's dataset may be here too. Whoever came first keeps the label: two that both
                # insist would overwrite each other for ever.
                labels.pop(names.EXCLUSIVE_LABEL, None)
            patches += _patch(name, node, labels)
        elif name not in keep:
            patches += _removal(name, node, identity, wanted)
    return tuple(patches)


def removal_patches(spec: RuntimeSpec, identity: Identity, snapshot: Snapshot) -> tuple[Patch, ...]:
    """Patches that take every label of this dataset, the fuse label included, off all nodes."""
    keys = (*identity.node_keys(spec.engine), identity.fuse_label)
    patches = []
    for name, node in sorted(snapshot.nodes.items()):
        patches += _removal(name, node, identity, keys)
    return tuple(patches)


def count_patches(node: Object, datasets: int) -> tuple[Patch, ...]:
    """The patch that gives a node the right number of datasets; none at all is no label."""
    return tuple(_patch(name_of(node), node, {names.DATASET_NUM_LABEL: str(datasets) if datasets else None}))


def _wanted(spec: RuntimeSpec, identity: Identity, dataset: DatasetSpec) -> dict[str, str]:
    place = (identity.namespace, identity.name, identity.uid)
    engine, memory, total = spec.engine.type, spec.memory_bytes, spec.capacity_bytes
    labels = {identity.cache_label: "true", names.engine_label(engine, *place): "true"}
    for part, size in (("m", memory), ("d", total - memory), ("t", total)):
        if size:
            labels[names.capacity_label(engine, part, *place)] = show_bytes_exactly(size)
    if dataset.placement != "Shared":
        labels[names.EXCLUSIVE_LABEL] = identity.exclusive
    return labels


def _removal(name: str, node: Object, identity: Identity, keys: Iterable[str]) -> list[Patch]:
    present = labels_of(node)
    gone: dict[str, str | None] = {key: None for key in keys if key in present and key != names.EXCLUSIVE_LABEL}
    if present.get(names.EXCLUSIVE_LABEL) == identity.exclusive:
        gone[names.EXCLUSIVE_LABEL] = None
    return _patch(name, node, gone)


def _patch(name: str, node: Object, labels: dict[str, Any]) -> list[Patch]:
    present = labels_of(node)
    changed = {key: value for key, value in labels.items() if present.get(key) != value}
    return [Patch(NODES, "", name, {"metadata": {"labels": changed}})] if changed else []
