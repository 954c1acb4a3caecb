"""From a snapshot to a plan: the whole behaviour of the controller. Pure.

Order matters in a plan, since a crash may come between any two of its actions: what others rely on is made before it
is announced (volume and claim before phase Bound), and what guards something is removed last (finalizers).
"""

from typing import Any

from controller import config, nodelabels, teardown, volume, workloads
from controller.adapters import decode, runtime_spec
from controller.datasetstatus import (
    BOUND,
    FAILED,
    NOT_BOUND,
    bound_status,
    failed_conditions,
    serving_reports,
    unbound_status,
)
from controller.engines import ENGINES, RuntimeSpec
from controller.match import is_as_wanted, with_fingerprint
from controller.plan import NORMAL, WARNING, Action, Apply, Create, Delete, Patch, Plan, Post, patch_of
from controller.runtimestatus import is_serving, runtime_status, scaled_from
from controller.settings import Settings
from controller.snapshot import Snapshot
from controller.sources import BoundSource, bound_sources, secret_options
from datamodel import names
from datamodel.dataset import DatasetSpec
from datamodel.errors import HeadraceError, UserError
from kube.objects import (
    Object,
    finalizers_of,
    is_deleting,
    is_owned_by,
    labels_of,
    name_of,
    namespace_of,
    owners_of,
    status_of,
    uid_of,
)
from kube.resources import CONFIG_MAPS, DAEMON_SETS, DATASETS, PODS, PVCS, PVS, SECRETS, SERVICES, STATEFUL_SETS

NO_DATASET = "No dataset can be bound to the runtime, waiting."


def decide(snapshot: Snapshot, settings: Settings) -> Plan:
    """What to do now for one (namespace, name)."""
    dataset, runtime = snapshot.dataset, snapshot.runtime
    if runtime is not None and is_deleting(runtime):
        return teardown.end_runtime(snapshot, settings)
    if dataset is not None and is_deleting(dataset):
        return teardown.end_dataset(snapshot, _strays(snapshot))
    if runtime is None:
        return Plan((*_strays(snapshot), *(_lone_dataset(snapshot, dataset) if dataset is not None else ())))
    if dataset is None:
        return Plan((Post(runtime, WARNING, "ErrorProcessRuntime", NO_DATASET),))
    actions = [*_ties(snapshot, dataset, runtime), *_second_runtimes(snapshot)]
    try:
        actions += _bind(snapshot, settings, dataset, runtime)
    except UserError as error:
        actions += complaint(snapshot, error)
    return Plan(tuple(actions))


def complaint(snapshot: Snapshot, error: HeadraceError) -> list[Action]:
    """Tell the user what is wrong, on the Dataset and as an event; what runs already goes on."""
    actions: list[Action] = []
    if snapshot.dataset is not None:
        status = {
            "phase": status_of(snapshot.dataset).get("phase") or NOT_BOUND,
            "conditions": failed_conditions(snapshot.dataset, str(error), snapshot.now),
        }
        actions += _status(snapshot.dataset, status)
    about = snapshot.runtime or snapshot.dataset
    if about is not None:
        kind = "ErrorValidateSpecFields" if isinstance(error, UserError) else "ErrorProcessRuntime"
        actions.append(Post(about, WARNING, kind, str(error)))
    return actions


def _strays(snapshot: Snapshot) -> tuple[Action, ...]:
    """Clean-up pods have no owner, so one whose runtime is gone is ours to remove."""
    if snapshot.runtime is not None:
        return ()
    return tuple(Delete(PODS, namespace_of(pod), name_of(pod), uid_of(pod)) for pod in snapshot.cleanups)


def _lone_dataset(snapshot: Snapshot, dataset: Object) -> tuple[Action, ...]:
    actions = _finalizer(dataset, names.DATASET_FINALIZER)
    if not names.is_dns_1035(name_of(dataset)):
        message = _bad_name(name_of(dataset))
        status = {"phase": NOT_BOUND, "conditions": failed_conditions(dataset, message, snapshot.now)}
        post = Post(dataset, WARNING, "ErrorCreateDataset", f"Failed to create dataset because err: {message}")
        return (*actions, *_status(dataset, status), post)
    return (*actions, *_status(dataset, unbound_status(dataset)))


def _ties(snapshot: Snapshot, dataset: Object, runtime: Object) -> list[Action]:
    """Owner, labels and finalizers: what must be there before anything is made on a runtime's behalf."""
    engine = ENGINES[runtime["kind"]]
    mark = {names.DATASET_ID_LABEL: snapshot.identity.dataset_id}
    actions = _metadata(dataset, mark, [*finalizers_of(dataset), names.DATASET_FINALIZER])
    owners = None
    if not is_owned_by(runtime, uid_of(dataset)):
        owner = {key: dataset[key] for key in ("apiVersion", "kind")}
        # An owner of the same name that is gone would have the garbage collector delete the runtime.
        others = [old for old in owners_of(runtime) if old.get("kind") != "Dataset"]
        owners = [*others, {**owner, "name": name_of(dataset), "uid": uid_of(dataset)}]
    return [*actions, *_metadata(runtime, mark, [*finalizers_of(runtime), engine.finalizer], owners)]


def _second_runtimes(snapshot: Snapshot) -> list[Action]:
    """Only one runtime can serve a Dataset."""
    actions: list[Action] = []
    for runtime in snapshot.runtimes[1:]:
        served = f"{snapshot.runtimes[0]['kind']} {name_of(runtime)!r}"
        message = f"The dataset is bound to {served} already; delete one of the two runtimes."
        actions.append(Post(runtime, WARNING, "ErrorProcessRuntime", message))
    return actions


def _bind(snapshot: Snapshot, settings: Settings, dataset: Object, runtime: Object) -> list[Action]:
    spec, wanted, sources = _validate(snapshot, dataset, runtime)
    identity = snapshot.identity
    actions = _workloads(snapshot, settings, spec, wanted, sources, runtime)
    actions += _ignored(spec, wanted, runtime)
    actions += _remember_nodes(snapshot, spec, runtime)
    actions += _source_problems(snapshot, dataset)
    before = scaled_from(spec, runtime)
    if before is not None:
        actions.append(Post(runtime, NORMAL, "Succeed", f"Runtime scaled {_way(before, spec)}"))
    actions += _status(runtime, runtime_status(spec, identity, snapshot, runtime, wanted))
    actions += nodelabels.label_patches(spec, identity, snapshot, wanted)
    serving = is_serving(spec, snapshot)
    if serving:
        actions += _volume(snapshot, settings, spec, dataset, wanted)
    # A pod that is created on Bound must find a claim that is bound.
    if (serving and volume.is_bound(snapshot.claim)) or status_of(dataset).get("phase") in (BOUND, FAILED):
        actions += _status(dataset, bound_status(spec, snapshot, dataset, is_serving=serving))
    else:
        actions += _status(dataset, {"phase": NOT_BOUND, "conditions": []})
    return actions


def _validate(
    snapshot: Snapshot, dataset: Object, runtime: Object
) -> tuple[RuntimeSpec, DatasetSpec, tuple[BoundSource, ...]]:
    if not names.is_dns_1035(snapshot.name):
        raise UserError(_bad_name(snapshot.name))
    spec = runtime_spec(runtime)
    wanted = decode(DatasetSpec, dataset)
    sources = bound_sources(wanted)
    volume.check_free(snapshot.namespace, snapshot.name, snapshot.volume, snapshot.claim)
    if snapshot.volume is None and snapshot.rivals:
        rival = snapshot.rivals[0]
        raise UserError(
            f"metadata.name: Dataset {namespace_of(rival)}/{name_of(rival)} came first and its volume has the same "
            f"name, {snapshot.identity.volume}; rename this Dataset and its runtime, or delete the other"
        )
    return spec, wanted, sources


def _workloads(
    snapshot: Snapshot,
    settings: Settings,
    spec: RuntimeSpec,
    wanted: DatasetSpec,
    sources: tuple[BoundSource, ...],
    runtime: Object,
) -> list[Action]:
    identity = snapshot.identity
    actions: list[Action] = []
    if not snapshot.has_token:
        secret = config.secret(spec, identity, runtime, snapshot.fresh_token)
        actions.append(Create(SECRETS, secret, accept_existing=True))
    served = config.client_config(spec, wanted, sources)
    settings_map = config.config_map(spec, identity, runtime, served)
    mark = config.restart_mark(config.worker_config(spec, served))
    workers = workloads.stateful_set(spec, identity, runtime, wanted, sources, settings, mark)
    for resource, found, body in (
        (CONFIG_MAPS, snapshot.config_map, settings_map),
        (SERVICES, snapshot.service, workloads.service(spec, identity, runtime)),
        (STATEFUL_SETS, snapshot.stateful_set, workers),
        (DAEMON_SETS, snapshot.daemon_set, workloads.daemon_set(spec, identity, runtime, sources, settings)),
    ):
        _check_owner(found, runtime)
        marked = with_fingerprint(body)
        if found is None or not is_as_wanted(found, marked):
            actions.append(Apply(resource, marked))
    return actions


def _check_owner(found: Object | None, runtime: Object) -> None:
    if found is not None and not is_owned_by(found, uid_of(runtime)):
        raise UserError(
            f"metadata.name: {found['kind']} {namespace_of(found)}/{name_of(found)} exists and is not of this runtime; "
            "delete it, or rename the Dataset and its runtime"
        )


def _volume(
    snapshot: Snapshot, settings: Settings, spec: RuntimeSpec, dataset: Object, wanted: DatasetSpec
) -> list[Action]:
    """The next step to a bound claim: volume, claim, or the removal of leftovers. Its effect leads to the next look."""
    found, claimed = snapshot.volume, snapshot.claim
    if claimed is not None and volume.is_lost(claimed) and not snapshot.readers:
        return [Delete(PVCS, snapshot.namespace, snapshot.name, uid_of(claimed))]
    if found is None:
        return [Create(PVS, volume.volume(spec, snapshot.identity, dataset, wanted, settings))]
    if volume.is_stale(found):
        return [Delete(PVS, "", name_of(found), uid_of(found))]
    if claimed is None and volume.is_known(found):
        return [Create(PVCS, volume.claim(spec, snapshot.identity, dataset, wanted))]
    return []


def _ignored(spec: RuntimeSpec, wanted: DatasetSpec, runtime: Object) -> list[Action]:
    fields = [*spec.ignored, *(f"Dataset {field}" for field in secret_options(wanted))]
    if not fields:
        return []
    message = f"The built-in engine does not use these fields: {', '.join(fields)}"
    return [Post(runtime, WARNING, "RuntimeFieldsIgnored", message, once=True)]


def _source_problems(snapshot: Snapshot, dataset: Object) -> list[Action]:
    """What is cached is served on; but the user should hear which source is away, and why."""
    problems = sorted({problem for report in serving_reports(snapshot).values() for problem in report.problems})
    return [
        Post(dataset, WARNING, "ErrorProcessDataset", f"Source {name!r} does not answer: {text}")
        for name, text in problems
    ]


def _remember_nodes(snapshot: Snapshot, spec: RuntimeSpec, runtime: Object) -> list[Action]:
    """Note the nodes whose folders get cache files, before the files are there: they must be cleaned one day."""
    if not spec.host_folders:
        return []
    known = teardown.tier_nodes(runtime)
    nodes = known | nodelabels.worker_nodes(snapshot)
    if nodes == known:
        return []
    noted = {names.TIER_NODES_ANNOTATION: ",".join(sorted(nodes))}
    return [_patch(runtime, {"metadata": {"annotations": noted}})]


def _way(before: int, spec: RuntimeSpec) -> str:
    return "in" if before > spec.worker.replicas else "out"


def _bad_name(name: str) -> str:
    return (
        f'metadata.name: Invalid value: "{name}": a DNS-1035 label must consist of lower case alphanumeric characters '
        "or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name')"
    )


def _finalizer(item: Object, finalizer: str) -> list[Action]:
    return _metadata(item, {}, [*finalizers_of(item), finalizer])


def _metadata(
    item: Object, labels: dict[str, str], finalizers: list[str], owners: list[dict[str, Any]] | None = None
) -> list[Action]:
    """One patch for all metadata. Lists are replaced as a whole, hence the resourceVersion: a lost race is retried."""
    change: dict[str, Any] = {}
    missing = {key: value for key, value in labels.items() if labels_of(item).get(key) != value}
    if missing:
        change["labels"] = missing
    unique = list(dict.fromkeys(finalizers))
    if unique != finalizers_of(item):
        change["finalizers"] = unique
    if owners is not None:
        change["ownerReferences"] = owners
    if "finalizers" in change or "ownerReferences" in change:
        change["resourceVersion"] = item["metadata"]["resourceVersion"]
    return [_patch(item, {"metadata": change})] if change else []


def _status(item: Object, wanted: dict[str, Any]) -> list[Action]:
    change = patch_of(status_of(item), wanted)
    return [_patch(item, {"status": change}, "status")] if change else []


def _patch(item: Object, body: dict[str, Any], subresource: str = "") -> Patch:
    resource = DATASETS if item["kind"] == DATASETS.kind else ENGINES[item["kind"]].resource
    return Patch(resource, namespace_of(item), name_of(item), body, subresource)
