"""The objects that run a dataset: Service, worker StatefulSet, fuse DaemonSet. Pure."""

from typing import Any

from controller import pods
from controller.engines import WORKER_HEALTH_PORT, WORKER_PORT, RuntimeSpec
from controller.identity import FUSE, WORKER, Identity, labels, owner_reference, selector
from controller.settings import Settings
from controller.sources import BoundSource
from datamodel import names
from datamodel.dataset import DatasetSpec
from kube.objects import Object

CONFIG_ANNOTATION = "headrace.io/config"
"""On pod templates: fingerprint of the settings, so that workers restart when these change."""


def service(spec: RuntimeSpec, identity: Identity, runtime: Object) -> Object:
    """The headless Service that gives each worker a name, ready or not: clients judge for themselves."""
    ports = {"blocks": WORKER_PORT, "health": WORKER_HEALTH_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(spec, identity, runtime, spec.service, WORKER),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(spec, WORKER),
            "ports": [
                {"name": name, "port": port, "targetPort": port, "protocol": "TCP"} for name, port in ports.items()
            ],
        },
    }


def stateful_set(
    spec: RuntimeSpec,
    identity: Identity,
    runtime: Object,
    dataset: DatasetSpec,
    sources: tuple[BoundSource, ...],
    settings: Settings,
    restart_mark: str,
) -> Object:
    """The workers. All start and end at once: none depends on another."""
    pod = pods.worker_pod(spec, settings, sources)
    pod.update(_placement(spec, identity, dataset))
    marks = {names.DATASET_LABEL: identity.dataset_id, names.PLACEMENT_LABEL: dataset.placement or "Exclusive"}
    own = labels(spec, identity, WORKER) | marks
    annotations = {**spec.worker.annotations, CONFIG_ANNOTATION: pods.digest(restart_mark)}
    metadata = _metadata(spec, identity, runtime, spec.worker_set, WORKER)
    metadata["labels"] |= marks
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "replicas": spec.worker.replicas,
            "serviceName": spec.service,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": selector(spec, WORKER)},
            "template": {
                "metadata": {"labels": {**spec.worker.labels, **own}, "annotations": annotations},
                "spec": pod,
            },
        },
    }


def daemon_set(
    spec: RuntimeSpec, identity: Identity, runtime: Object, sources: tuple[BoundSource, ...], settings: Settings
) -> Object:
    """The fuse pods: on nodes that the node plugin has labelled, so none at first."""
    pod = pods.fuse_pod(spec, settings, sources)
    pod["nodeSelector"] = {**spec.client.node_selector, identity.fuse_label: "true"}
    template = {
        "labels": {**spec.client.labels, **labels(spec, identity, FUSE)},
        "annotations": spec.client.annotations,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _metadata(spec, identity, runtime, spec.fuse_set, FUSE),
        "spec": {
            "selector": {"matchLabels": selector(spec, FUSE)},
            # A fuse pod is replaced when its node is drained or by hand, never under readers by an edit.
            "updateStrategy": {"type": "OnDelete"},
            "template": {"metadata": template, "spec": pod},
        },
    }


def fuse_preference(identity: Identity) -> dict[str, Any]:
    """Workers like to be where readers are."""
    term = {"matchExpressions": [{"key": identity.fuse_label, "operator": "In", "values": ["true"]}]}
    return {"weight": 100, "preference": term}


def _placement(spec: RuntimeSpec, identity: Identity, dataset: DatasetSpec) -> dict[str, Any]:
    nodes: dict[str, Any] = {"preferredDuringSchedulingIgnoredDuringExecution": [fuse_preference(identity)]}
    if dataset.node_affinity is not None and dataset.node_affinity.required:
        nodes["requiredDuringSchedulingIgnoredDuringExecution"] = dataset.node_affinity.required
    placed: dict[str, Any] = {"affinity": {"nodeAffinity": nodes, "podAntiAffinity": _anti_affinity(dataset)}}
    if spec.worker.node_selector:
        placed["nodeSelector"] = spec.worker.node_selector
    tolerations = [*dataset.tolerations, *spec.worker.tolerations]
    return {**placed, "tolerations": tolerations} if tolerations else placed


def _anti_affinity(dataset: DatasetSpec) -> dict[str, Any]:
    any_worker = _against({"key": names.DATASET_LABEL, "operator": "Exists"})
    if dataset.placement != "Shared":
        return {"requiredDuringSchedulingIgnoredDuringExecution": [any_worker]}
    exclusive = _against({"key": names.PLACEMENT_LABEL, "operator": "In", "values": ["Exclusive"]})
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": [exclusive],
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "podAffinityTerm": any_worker}],
    }


def _against(expression: dict[str, Any]) -> dict[str, Any]:
    return {"labelSelector": {"matchExpressions": [expression]}, "topologyKey": "kubernetes.io/hostname"}


def _metadata(spec: RuntimeSpec, identity: Identity, runtime: Object, name: str, component: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": spec.namespace,
        "labels": labels(spec, identity, component),
        "ownerReferences": [owner_reference(runtime)],
    }
