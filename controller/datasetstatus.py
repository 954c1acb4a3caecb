"""The status of a Dataset: unbound, bound, and what stands in its way. Pure."""

from collections.abc import Mapping
from typing import Any

from controller.conditions import FALSE, TRUE, Conditions, with_condition, without_condition
from controller.engines import CACHE, RuntimeSpec
from controller.snapshot import Snapshot, WorkerReport, is_ready
from datamodel.quantity import show_bytes, show_percentage
from kube.objects import Object, name_of, spec_of, status_of

BOUND, NOT_BOUND, FAILED = "Bound", "NotBound", "Failed"
CALCULATING = "[Calculating]"


def unbound_status(dataset: Object) -> dict[str, Any]:
    """Status without a runtime; mounts stay, as in Fluid. A complaint about the Dataset itself stays too."""
    cleared = dict.fromkeys(("ufsTotal", "fileNum", "cacheStates", "runtimes", "hcfs"))
    return {"phase": NOT_BOUND, "conditions": [], **cleared}


def bound_status(spec: RuntimeSpec, snapshot: Snapshot, dataset: Object, *, is_serving: bool) -> dict[str, Any]:
    """Status with a runtime that serves, or that has served and does not now."""
    reports = serving_reports(snapshot)
    status: dict[str, Any] = {
        "phase": BOUND if is_serving else FAILED,
        "conditions": _ready(dataset, snapshot.now, is_serving=is_serving),
        "runtimes": [
            {"category": "Accelerate", "name": spec.name, "namespace": spec.namespace, "type": spec.engine.type}
        ],
        "mounts": spec_of(dataset).get("mounts"),
        "cacheStates": cache_states(spec, snapshot),
    }
    totals = [report.total_bytes for report in reports.values() if report.total_bytes is not None]
    old = status_of(dataset)
    # Once known, a total stays known: a worker that restarts must not make it flicker.
    status["ufsTotal"] = show_bytes(max(totals)) if totals else old.get("ufsTotal") or CALCULATING
    files = [report.files for report in reports.values() if report.total_bytes is not None]
    status["fileNum"] = str(max(files)) if files else old.get("fileNum") or CALCULATING
    return status


def failed_conditions(dataset: Object, message: str, now: str) -> Conditions:
    """The Dataset's conditions with the complaint *message*."""
    old: Conditions = status_of(dataset).get("conditions") or []
    return with_condition(old, "NotReady", TRUE, "DatasetFailedToSetup", message, now, seen="lastUpdateTime")


def cache_states(spec: RuntimeSpec, snapshot: Snapshot) -> dict[str, str]:
    """Capacity, use and hit ratio. What nobody measures stays empty rather than invented."""
    reports = serving_reports(snapshot)
    ready = sum(is_ready(pod) for pod in snapshot.workers)
    cached = sum(report.cached_bytes for report in reports.values())
    totals = [report.total_bytes for report in reports.values() if report.total_bytes]
    hits = sum(report.hits for report in reports.values())
    asked = hits + sum(report.misses for report in reports.values())
    states = {
        "cacheCapacity": show_bytes(spec.capacity_bytes * ready),
        "cached": show_bytes(cached),
        "cacheHitRatio": show_percentage(hits, asked),
    }
    if totals or not cached:
        states["cachedPercentage"] = show_percentage(cached, max(totals, default=0))
    if spec.engine is CACHE:
        return states
    unmeasured = ("cacheThroughputRatio", "localHitRatio", "localThroughputRatio", "remoteThroughputRatio")
    return {**states, "remoteHitRatio": states["cacheHitRatio"], **dict.fromkeys(unmeasured, "")}


def serving_reports(snapshot: Snapshot) -> Mapping[str, WorkerReport]:
    """Reports of the workers that exist now."""
    present = {name_of(pod) for pod in snapshot.workers}
    return {name: report for name, report in snapshot.reports.items() if name in present}


def _ready(dataset: Object, now: str, *, is_serving: bool) -> Conditions:
    old: Conditions = without_condition(status_of(dataset).get("conditions") or [], "NotReady")
    word = "ready" if is_serving else "not ready"
    status = TRUE if is_serving else FALSE
    return with_condition(
        old, "Ready", status, "DatasetReady", f"The ddc runtime is {word}.", now, seen="lastUpdateTime"
    )
