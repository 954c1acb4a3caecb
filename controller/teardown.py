"""How a Dataset or a runtime ends: refused while read, then everything goes, from readers' side to storage. Pure.

Each look finds out what is still there and asks for the next step only; so it can be interrupted anywhere, and goes on
as soon as pods, claims or volumes are gone. Two steps wait for pods on nodes, which may be dead, and so have a limit.
"""

from typing import Any

from controller import nodelabels, pods, volume
from controller.adapters import runtime_spec
from controller.datasetstatus import unbound_status
from controller.engines import ENGINES, Component, RuntimeSpec, token_secret
from controller.plan import WARNING, Action, Create, Delete, Gone, Patch, Plan, Post, Unread, patch_of
from controller.settings import Settings
from controller.snapshot import Snapshot, claims_of, is_reading
from datamodel import names
from datamodel.errors import UserError
from kube.objects import (
    Object,
    annotations_of,
    finalizers_of,
    is_deleting,
    is_owned_by,
    name_of,
    namespace_of,
    status_of,
    uid_of,
)
from kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    DATASETS,
    PODS,
    PVCS,
    PVS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)

DRAIN, CLEANUP = "drain", "cleanup"
ABSENT = "Absent"


def end_dataset(snapshot: Snapshot, strays: tuple[Action, ...] = ()) -> Plan:
    """Delete the runtime, which takes everything with it, then let the Dataset go, and *strays* with it."""
    dataset, runtime = snapshot.dataset, snapshot.runtime
    assert dataset is not None
    if snapshot.readers:
        return Plan((_refusal(snapshot, dataset),))
    bound = runtime is not None and ENGINES[runtime["kind"]].finalizer in finalizers_of(runtime)
    if runtime is not None and bound:
        resource = ENGINES[runtime["kind"]].resource
        return Plan((*_unread(snapshot), Delete(resource, snapshot.namespace, snapshot.name, uid_of(runtime))))
    return Plan((*strays, *_release(dataset, DATASETS, names.DATASET_FINALIZER)))


def end_runtime(snapshot: Snapshot, settings: Settings) -> Plan:
    """One look at a runtime that is being deleted."""
    runtime = snapshot.runtime
    assert runtime is not None
    engine = ENGINES[runtime["kind"]]
    if engine.finalizer not in finalizers_of(runtime):
        return Plan()
    if snapshot.readers:
        posts = [_refusal(snapshot, runtime)]
        if snapshot.dataset is not None and is_deleting(snapshot.dataset):
            posts.append(_refusal(snapshot, snapshot.dataset))
        return Plan(tuple(posts))
    spec = _spec(runtime)
    for step in (_end_volume, _end_workloads):
        plan = step(snapshot, spec, settings)
        if plan is not None:
            return plan
    cleaning, notes = _clean_nodes(snapshot, spec, settings)
    if cleaning is not None:
        return cleaning
    release = _release(runtime, engine.resource, engine.finalizer)
    return Plan((*notes, *_last_actions(snapshot, spec, runtime), *release), ends=uid_of(runtime))


def tier_nodes(runtime: Object) -> frozenset[str]:
    """Nodes on which this runtime's workers have had folders."""
    noted = annotations_of(runtime).get(names.TIER_NODES_ANNOTATION, "")
    return frozenset(node for node in noted.split(",") if node)


def _spec(runtime: Object) -> RuntimeSpec:
    """The runtime's spec; of one that was never valid nothing was made, so its names are all that matters."""
    try:
        return runtime_spec(runtime)
    except UserError:
        return RuntimeSpec(
            engine=ENGINES[runtime["kind"]],
            namespace=namespace_of(runtime),
            name=name_of(runtime),
            worker=Component(),
            client=Component(),
            tiers=(),
        )


def _refusal(snapshot: Snapshot, about: Object) -> Post:
    # Always the same pod, so that the event is counted up and not written anew.
    pod = min(snapshot.readers, key=name_of)
    using = f"because Pod {name_of(pod)} in Namespace {namespace_of(pod)} is using it"
    if about["kind"] == DATASETS.kind:
        message = f"Failed to delete dataset because err: can not delete dataset {using}"
        return Post(about, WARNING, "ErrorDeleteDataset", message)
    return Post(about, WARNING, "ErrorProcessRuntime", f"Failed to delete volume: can not delete runtime {using}")


def _end_volume(snapshot: Snapshot, spec: RuntimeSpec, settings: Settings) -> Plan | None:
    claim, found = snapshot.claim, snapshot.volume
    if claim is not None and volume.is_ours(claim):
        return Plan(() if is_deleting(claim) else (*_unread(snapshot), _delete(PVCS, claim)))
    if found is not None and _is_own_volume(snapshot, found):
        return Plan(() if is_deleting(found) else (_delete(PVS, found),))
    return None


def _unread(snapshot: Snapshot) -> tuple[Action, ...]:
    """What makes sure, before anything is taken away, that our view of the pods is not behind."""
    claim = snapshot.claim
    if claim is None or not volume.is_ours(claim):
        return ()
    name = name_of(claim)
    return (Unread(snapshot.namespace, name, lambda pod: name in claims_of(pod) and is_reading(pod)),)


def _is_own_volume(snapshot: Snapshot, found: Object) -> bool:
    return volume.is_ours(found) and volume.claim_of(found) == (snapshot.namespace, snapshot.name)


def _end_workloads(snapshot: Snapshot, spec: RuntimeSpec, settings: Settings) -> Plan | None:
    runtime = snapshot.runtime
    assert runtime is not None
    actions = [
        _delete(resource, item)
        for resource, item in ((DAEMON_SETS, snapshot.daemon_set), (STATEFUL_SETS, snapshot.stateful_set))
        if item is not None and is_owned_by(item, uid_of(runtime)) and not is_deleting(item)
    ]
    left = [pod for pod in (*snapshot.fuses, *snapshot.workers) if name_of(pod)]
    waited_s = snapshot.waited.get(DRAIN, 0.0)
    if actions or (left and waited_s < settings.drain_limit_s):
        return Plan(tuple(actions), waiting=DRAIN, again_s=max(0.1, settings.drain_limit_s - waited_s))
    return None


def _clean_nodes(snapshot: Snapshot, spec: RuntimeSpec, settings: Settings) -> tuple[Plan | None, list[Action]]:
    """The look that waits for clean nodes, if any; and what to do about the clean-up pods after it."""
    runtime = snapshot.runtime
    assert runtime is not None
    nodes = [node for node in sorted(tier_nodes(runtime)) if node in snapshot.nodes] if spec.host_folders else []
    found = {name_of(pod): pod for pod in snapshot.cleanups}
    state = {node: _phase(found.get(pods.cleanup_name(snapshot.identity, node))) for node in nodes}
    dirty = [node for node, phase in state.items() if phase != "Succeeded"]
    failed = [node for node, phase in state.items() if phase == "Failed"]
    waited_s = snapshot.waited.get(CLEANUP, 0.0)
    if dirty != failed and waited_s < settings.cleanup_limit_s:
        creations = tuple(
            Create(PODS, pods.cleanup_pod(spec, snapshot.identity, settings, node), accept_existing=True)
            for node, phase in state.items()
            if phase == ABSENT
        )
        again_s = max(0.1, settings.cleanup_limit_s - waited_s)
        return Plan(creations, waiting=CLEANUP, again_s=again_s), []
    actions: list[Action] = [
        Delete(PODS, settings.namespace, pods.cleanup_name(snapshot.identity, node)) for node in nodes
    ]
    if dirty:
        folders = ", ".join(f"{folder}/{spec.namespace}/{spec.name}" for folder in spec.host_folders)
        message = f"Cache folders {folders} could not be removed from nodes {', '.join(dirty)}; remove them by hand"
        actions.insert(0, Post(runtime, WARNING, "ErrorProcessRuntime", message))
    return None, actions


def _phase(pod: Object | None) -> str:
    return str(status_of(pod).get("phase", "")) if pod is not None else ABSENT


def _last_actions(snapshot: Snapshot, spec: RuntimeSpec, runtime: Object) -> list[Action]:
    """Labels, settings and the Dataset's status; the finalizer comes after all of it, so that none is forgotten."""
    actions: list[Action] = _all_gone(snapshot, spec, runtime)
    if snapshot.volume is None:
        # A volume that is there now is another dataset's of the same volume name, and so are the labels.
        actions += nodelabels.removal_patches(spec, snapshot.identity, snapshot)
    for resource, item in ((SERVICES, snapshot.service), (CONFIG_MAPS, snapshot.config_map)):
        if item is not None and is_owned_by(item, uid_of(runtime)):
            actions.append(_delete(resource, item))
    actions.append(Delete(SECRETS, snapshot.namespace, token_secret(spec.name)))
    dataset = snapshot.dataset
    if dataset is not None and not is_deleting(dataset):
        change = patch_of(status_of(dataset), unbound_status(dataset))
        if change:
            actions.append(Patch(DATASETS, snapshot.namespace, snapshot.name, {"status": change}, "status"))
    return actions


def _all_gone(snapshot: Snapshot, spec: RuntimeSpec, runtime: Object) -> list[Action]:
    here, uid = (snapshot.namespace, snapshot.name), uid_of(runtime)
    volume_name = snapshot.identity.volume
    return [
        Gone(PVCS, *here, volume.is_ours),
        Gone(PVS, "", volume_name, lambda item: volume.is_ours(item) and volume.claim_of(item) == here),
        Gone(DAEMON_SETS, snapshot.namespace, spec.fuse_set, lambda item: is_owned_by(item, uid)),
        Gone(STATEFUL_SETS, snapshot.namespace, spec.worker_set, lambda item: is_owned_by(item, uid)),
    ]


def _release(item: Object, resource: Resource, finalizer: str) -> list[Action]:
    held = finalizers_of(item)
    if finalizer not in held:
        return []
    body: dict[str, Any] = {
        "metadata": {
            "finalizers": [other for other in held if other != finalizer],
            "resourceVersion": item["metadata"]["resourceVersion"],
        }
    }
    return [Patch(resource, namespace_of(item), name_of(item), body)]


def _delete(resource: Resource, item: Object) -> Delete:
    return Delete(resource, namespace_of(item), name_of(item), uid_of(item))
