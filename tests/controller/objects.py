"""Objects as users and kubelets write them, and snapshots of them."""

from typing import Any

from controller.engines import ALLUXIO, CACHE
from controller.plan import Action, Patch, Plan, Unread
from controller.settings import Settings
from controller.snapshot import Snapshot
from kube.objects import Object

NAMESPACE, NAME = "default", "demo"
DATASET_UID, RUNTIME_UID = "dataset-uid", "runtime-uid"
NOW = "2026-01-01T00:01:03Z"
SETTINGS = Settings(namespace="fluid-system", image="headrace:test")
TIERS = [
    {"emptyDir": {"quota": "2Gi", "medium": "Memory"}, "high": "0.95", "low": "0.7"},
    {"hostPath": {"paths": ["/var/lib/headrace/cache"], "quotas": ["10Gi"]}},
]


def metadata(name: str = NAME, uid: str = "", namespace: str = NAMESPACE, **more: Any) -> Object:
    return {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **more,
    }


def mount(url: str = "http://origin/data/", name: str = "origin", **more: Any) -> Object:
    return {"mountPoint": url, "name": name, **more}


def dataset(*mounts: Object, status: Object | None = None, meta: Object | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "Dataset",
        "metadata": metadata(uid=DATASET_UID, **(meta or {})),
        "spec": {"mounts": list(mounts) or [mount()], **spec},
        "status": status or {},
    }


def cache_runtime(
    tiers: list[Object] | None = None, *, status: Object | None = None, meta: Object | None = None, **spec: Any
) -> Object:
    worker = {"replicas": 2, "tieredStore": {"levels": TIERS if tiers is None else tiers}}
    return {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "CacheRuntime",
        "metadata": metadata(uid=RUNTIME_UID, **(meta or {})),
        "spec": {"runtimeClassName": "headrace", "worker": worker, **spec},
        "status": status or {},
    }


def alluxio_runtime(*, status: Object | None = None, meta: Object | None = None, **spec: Any) -> Object:
    level = {"mediumtype": "MEM", "path": "/dev/shm", "quota": "2Gi", "high": "0.95", "low": "0.7"}
    return {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "AlluxioRuntime",
        "metadata": metadata(uid=RUNTIME_UID, **(meta or {})),
        "spec": {"replicas": 2, "tieredstore": {"levels": [level]}, **spec},
        "status": status or {},
    }


def deleting(item: Object) -> Object:
    """The same object, asked to go, held by our finalizer."""
    holder = {"CacheRuntime": CACHE.finalizer, "AlluxioRuntime": ALLUXIO.finalizer}.get(
        item["kind"], "fluid-dataset-controller-finalizer"
    )
    return {**item, "metadata": {**item["metadata"], "deletionTimestamp": NOW, "finalizers": [holder]}}


def owned(kind: str, name: str, *, status: Object | None = None) -> Object:
    """A workload of the runtime."""
    owner = {"kind": "CacheRuntime", "name": NAME, "uid": RUNTIME_UID, "controller": True}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": metadata(name, uid=f"{name}-uid", ownerReferences=[owner]),
        "spec": {},
        "status": status or {},
    }


def workers(ready: int, *, replicas: int = 2) -> Object:
    status = {"replicas": replicas, "readyReplicas": ready, "availableReplicas": ready}
    return owned("StatefulSet", f"{NAME}-worker", status=status)


def worker(
    index: int, node: str, *, is_ready: bool = True, phase: str = "Running", dataset: str = "default-demo"
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(f"{NAME}-worker-{index}", labels={"fluid.io/dataset": dataset}),
        "spec": {"nodeName": node},
        "status": {
            "phase": phase,
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
        },
    }


def reader(name: str = "reader", *, phase: str = "Running", **meta: Any) -> Object:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": NAME}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(name, **meta),
        "spec": {"nodeName": "n1", "volumes": volumes},
        "status": {"phase": phase},
    }


def node(name: str, **labels: str) -> Object:
    given = {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": given}}


def volume(namespace: str = NAMESPACE, name: str = NAME, *, phase: str = "Bound", **claim: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{NAMESPACE}-{NAME}", "uid": "volume-uid", "annotations": {"CreatedBy": "fluid"}},
        "spec": {"claimRef": {"namespace": namespace, "name": name, **claim}},
        "status": {"phase": phase},
    }


def claim(**meta: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(uid="claim-uid", annotations={"CreatedBy": "fluid"}, **meta),
        "spec": {},
        "status": {"phase": "Bound"},
    }


def snapshot(**parts: Any) -> Snapshot:
    runtime = parts.pop("runtime", None)
    if runtime is not None:
        parts["runtimes"] = (runtime,)
    return Snapshot(**{"namespace": NAMESPACE, "name": NAME, "now": NOW, "fresh_token": "t0k3n", **parts})


def shown(plan: Plan) -> list[str]:
    """The plan as text, one action a line: what it does to which kind of object."""
    return [_shown(action) for action in plan.actions]


def status_patch(plan: Plan, kind: str) -> Object:
    """The status that the plan writes to the Dataset or runtime; empty if none."""
    for action in plan.actions:
        if isinstance(action, Patch) and action.subresource == "status" and action.resource.kind == kind:
            result: Object = dict(action.body)["status"]
            return result
    return {}


def message_of(plan: Plan, kind: str = "Dataset") -> str:
    """The complaint that the plan puts on the Dataset."""
    conditions = status_patch(plan, kind).get("conditions", [])
    return next((str(item["message"]) for item in conditions if item["type"] == "NotReady"), "")


def _shown(action: Action) -> str:
    name = type(action).__name__
    if hasattr(action, "reason"):
        return f"Post {action.reason}"
    if isinstance(action, Unread):
        return f"Unread {action.claim}"
    kind = action.resource.kind
    return f"{name} {kind} status" if getattr(action, "subresource", "") else f"{name} {kind}"
