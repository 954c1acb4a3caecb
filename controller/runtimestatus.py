"""The status of a runtime, in the shape and words of its kind. Pure.

The built-in engine has no master process: its part (settings, catalog) is done by the controller and the workers, so
the master is reported as one of one ready, which keeps columns and scripts as they are.
"""

from datetime import datetime
from typing import Any

from controller.conditions import FALSE, TRUE, Conditions, with_condition
from controller.engines import CACHE, RuntimeSpec
from controller.identity import Identity, selector_text
from controller.snapshot import Snapshot
from controller.workloads import fuse_preference
from datamodel.dataset import DatasetSpec
from kube.objects import Object, meta, status_of

READY, PARTIAL, NOT_READY = "Ready", "PartialReady", "NotReady"


def phase(desired: int, ready: int) -> str:
    """Phase of a component; nothing wanted is ready."""
    if ready >= desired:
        return READY
    return PARTIAL if ready > 0 else NOT_READY


def worker_phase(spec: RuntimeSpec, snapshot: Snapshot) -> str:
    """Phase of the workers as their StatefulSet counts them."""
    if snapshot.stateful_set is None and spec.worker.replicas:
        return NOT_READY
    return phase(spec.worker.replicas, _worker_counts(spec, snapshot)["ready"])


def is_serving(spec: RuntimeSpec, snapshot: Snapshot) -> bool:
    """Whether enough workers are ready for readers to be let in: one is enough, since the others only add cache."""
    return worker_phase(spec, snapshot) != NOT_READY


def runtime_status(
    spec: RuntimeSpec, identity: Identity, snapshot: Snapshot, runtime: Object, dataset: DatasetSpec
) -> dict[str, Any]:
    """All status fields that we keep on a runtime."""
    old = status_of(runtime)
    status: dict[str, Any] = {
        "valueFile": spec.config_map,
        "selector": selector_text(spec),
        "cacheAffinity": _cache_affinity(identity, dataset),
        "conditions": _conditions(spec, snapshot, old),
    }
    if is_serving(spec, snapshot):
        status["setupDuration"] = old.get("setupDuration") or _duration(runtime, snapshot.now)
        status["mountTime"] = old.get("mountTime") or snapshot.now
    return status | (_cache_numbers(spec, snapshot) if spec.engine is CACHE else _classic_numbers(spec, snapshot))


def scaled_from(spec: RuntimeSpec, runtime: Object) -> int | None:
    """Workers wanted before, when that number has just changed."""
    if not status_of(runtime).get("setupDuration"):
        return None
    old = status_of(runtime).get("desiredWorkerNumberScheduled")
    if spec.engine is CACHE:
        old = (status_of(runtime).get("worker") or {}).get("desiredReplicas")
    return old if old is not None and old != spec.worker.replicas else None


def _worker_counts(spec: RuntimeSpec, snapshot: Snapshot) -> dict[str, int]:
    status = status_of(snapshot.stateful_set or {})
    desired = spec.worker.replicas
    available = int(status.get("availableReplicas") or 0)
    return {
        "desired": desired,
        "current": int(status.get("replicas") or 0),
        "ready": int(status.get("readyReplicas") or 0),
        "available": available,
        "unavailable": max(0, desired - available),
    }


def _fuse_counts(snapshot: Snapshot) -> dict[str, int]:
    status = status_of(snapshot.daemon_set or {})
    return {
        "desired": int(status.get("desiredNumberScheduled") or 0),
        "current": int(status.get("currentNumberScheduled") or 0),
        "ready": int(status.get("numberReady") or 0),
        "available": int(status.get("numberAvailable") or 0),
        "unavailable": int(status.get("numberUnavailable") or 0),
    }


def _classic_numbers(spec: RuntimeSpec, snapshot: Snapshot) -> dict[str, Any]:
    worker, fuse = _worker_counts(spec, snapshot), _fuse_counts(snapshot)
    return {
        "masterPhase": READY,
        "desiredMasterNumberScheduled": 1,
        "currentMasterNumberScheduled": 1,
        "masterNumberReady": 1,
        "workerPhase": worker_phase(spec, snapshot),
        "desiredWorkerNumberScheduled": worker["desired"],
        "currentWorkerNumberScheduled": worker["current"],
        "workerNumberReady": worker["ready"],
        "workerNumberAvailable": worker["available"],
        "workerNumberUnavailable": worker["unavailable"],
        "fusePhase": phase(fuse["desired"], fuse["ready"]),
        "fuseReason": "Fuses are ready",
        "desiredFuseNumberScheduled": fuse["desired"],
        "currentFuseNumberScheduled": fuse["current"],
        "fuseNumberReady": fuse["ready"],
        "fuseNumberAvailable": fuse["available"],
        "fuseNumberUnavailable": fuse["unavailable"],
    }


def _cache_numbers(spec: RuntimeSpec, snapshot: Snapshot) -> dict[str, Any]:
    worker, fuse = _worker_counts(spec, snapshot), _fuse_counts(snapshot)
    one = {"desired": 1, "current": 1, "ready": 1, "available": 1, "unavailable": 0}
    state = worker_phase(spec, snapshot)
    return {
        "phase": state,
        "master": {"phase": READY, **_replicas(one)},
        "worker": {"phase": state, **_replicas(worker)},
        "client": {"phase": phase(fuse["desired"], fuse["ready"]), **_replicas(fuse)},
    }


def _replicas(counts: dict[str, int]) -> dict[str, int]:
    return {f"{name}Replicas": count for name, count in counts.items()}


def _conditions(spec: RuntimeSpec, snapshot: Snapshot, old: dict[str, Any]) -> Conditions:
    conditions: Conditions = old.get("conditions") or []

    def add(kind: str, status: str, reason: str, message: str) -> None:
        nonlocal conditions
        conditions = with_condition(conditions, kind, status, reason, message, snapshot.now, seen="lastProbeTime")

    add("MasterInitialized", TRUE, "Master is initialized", "The master is initialized.")
    add("MasterReady", TRUE, "Master is ready", "The master is ready.")
    add("WorkersInitialized", TRUE, "Workers are initialized", "The workers are initialized.")
    if spec.engine is CACHE:
        add("FusesInitialized", TRUE, "Fuses are initialized", "The client setup finished.")
    state = worker_phase(spec, snapshot)
    shown = {READY: "ready", PARTIAL: "partially ready", NOT_READY: "not ready"}[state]
    add("WorkersReady", FALSE if state == NOT_READY else TRUE, "Workers are ready", f"The workers are {shown}.")
    fuse = _fuse_counts(snapshot)
    if is_serving(spec, snapshot):
        fuses = phase(fuse["desired"], fuse["ready"])
        word = "ready" if fuses == READY else "partially ready" if fuses == PARTIAL else "not ready"
        add("FusesReady", FALSE if fuses == NOT_READY else TRUE, "Fuses are ready", f"The fuses are {word}.")
    before = scaled_from(spec, {"status": old})
    if before is not None:
        way = "in" if before > spec.worker.replicas else "out"
        message = f"Workers scaled {way} from {before} replicas to {spec.worker.replicas} replicas."
        add(f"WorkersScaled{way.capitalize()}", TRUE, f"Workers scaled {way}", message)
    return conditions


def _cache_affinity(identity: Identity, dataset: DatasetSpec) -> dict[str, Any]:
    required = dataset.node_affinity.required if dataset.node_affinity else None
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [fuse_preference(identity)],
        "requiredDuringSchedulingIgnoredDuringExecution": required or {"nodeSelectorTerms": []},
    }


def _duration(runtime: Object, now: str) -> str:
    """Time since creation, as Go writes it: 2s, 1m3s, 1h0m5s."""
    created = str(meta(runtime).get("creationTimestamp") or now)
    seconds = max(0, round((_time(now) - _time(created)).total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
