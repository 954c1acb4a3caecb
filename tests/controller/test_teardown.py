"""Endings: refused while read, then everything goes, in order, from wherever it was interrupted."""

from typing import Any

import pytest

from controller.apply import Writer
from controller.decide import decide
from controller.plan import Delete, Gone, Patch, Plan, Post, Unread
from controller.teardown import CLEANUP, DRAIN
from datamodel.errors import Conflict
from kube.events import Recorder
from kube.objects import Object
from kube.resources import PODS, PVCS
from tests.controller.objects import (
    RUNTIME_UID,
    SETTINGS,
    alluxio_runtime,
    cache_runtime,
    claim,
    dataset,
    deleting,
    metadata,
    node,
    owned,
    reader,
    shown,
    snapshot,
    volume,
    worker,
    workers,
)
from tests.fakes.apiserver import FakeApiServer

FINALIZED = {"finalizers": ["cache-runtime-controller-finalizer"]}


def plan_for(**parts: Any) -> Plan:
    return decide(snapshot(**parts), SETTINGS)


def ending(**meta: Any) -> Object:
    return deleting(cache_runtime(meta=meta))


def test_dataset_in_use_is_not_deleted_and_the_event_names_the_pod() -> None:
    plan = plan_for(
        dataset=deleting(dataset()),
        runtime=cache_runtime(meta=FINALIZED),
        claim=claim(),
        users=(reader("z"), reader("warm-n1")),
    )

    (post,) = plan.actions
    assert isinstance(post, Post)
    assert post.reason == "ErrorDeleteDataset"
    assert post.message == (
        "Failed to delete dataset because err: can not delete dataset because "
        "Pod warm-n1 in Namespace default is using it"
    )


def test_pods_that_have_ended_or_are_going_do_not_hold_a_dataset() -> None:
    users = (reader("done", phase="Succeeded"), reader("going", deletionTimestamp="2026-01-01T00:00:00Z"))
    plan = plan_for(dataset=deleting(dataset()), runtime=cache_runtime(meta=FINALIZED), claim=claim(), users=users)

    assert shown(plan) == ["Unread demo", "Delete CacheRuntime"]
    (check, _) = plan.actions
    assert isinstance(check, Unread)
    assert not any(check.is_reader(pod) for pod in users)
    assert check.is_reader(reader())


def test_pods_that_use_a_foreign_claim_of_the_same_name_do_not_count() -> None:
    foreign = claim()
    foreign["metadata"]["annotations"] = {}
    plan = plan_for(dataset=deleting(dataset()), claim=foreign, users=(reader(),))

    assert shown(plan) == ["Patch Dataset"]


def test_dataset_waits_for_its_runtime_and_goes_when_it_is_gone() -> None:
    first = plan_for(dataset=deleting(dataset()), runtime=cache_runtime(meta=FINALIZED))
    second = plan_for(dataset=deleting(dataset()), runtime=ending())
    last = plan_for(dataset=deleting(dataset()))

    (deletion,) = first.actions
    assert isinstance(deletion, Delete)
    assert deletion.uid == RUNTIME_UID
    assert "Patch Dataset" not in shown(second)
    (release,) = last.actions
    assert isinstance(release, Patch)
    assert release.body["metadata"]["finalizers"] == []


def test_runtime_in_use_is_not_torn_down() -> None:
    plan = plan_for(dataset=dataset(), runtime=ending(), claim=claim(), users=(reader(),), volume=volume())

    assert shown(plan) == ["Post ErrorProcessRuntime"]


def test_claim_goes_before_volume_before_workloads() -> None:
    parts: dict[str, Any] = {
        "runtime": ending(),
        "claim": claim(),
        "volume": volume(),
        "stateful_set": workers(2),
        "daemon_set": owned("DaemonSet", "demo-client"),
    }
    assert shown(plan_for(**parts)) == ["Unread demo", "Delete PersistentVolumeClaim"]

    parts["claim"] = claim(deletionTimestamp="2026-01-01T00:00:00Z")
    assert shown(plan_for(**parts)) == []

    parts["claim"] = None
    assert shown(plan_for(**parts)) == ["Delete PersistentVolume"]

    parts["volume"] = None
    plan = plan_for(**parts)
    assert shown(plan) == ["Delete DaemonSet", "Delete StatefulSet"]
    assert plan.waiting == DRAIN


def test_labels_wait_for_fuse_pods_but_not_for_ever() -> None:
    parts: dict[str, Any] = {
        "runtime": ending(),
        "fuses": (worker(0, "n1"),),
        "nodes": {"n1": node("n1", **{"fluid.io__f_default_demo": "true"})},
    }
    waiting = plan_for(**parts)
    assert waiting.actions == ()
    assert waiting.waiting == DRAIN
    assert waiting.again_s == SETTINGS.drain_limit_s

    late = plan_for(**parts, waited={DRAIN: SETTINGS.drain_limit_s})

    assert "Patch Node" in shown(late)


def test_last_look_removes_labels_settings_and_token_and_then_the_finalizer() -> None:
    labels = {
        "fluid.io__f_default_demo": "true",
        "fluid.io__s_default_demo": "true",
        "fluid.io__s_cache_default_demo": "true",
        "fluid.io__s_h_cache_t_default_demo": "12GiB",
    }
    marked = node("n1", **labels, other="stays")
    marked["metadata"]["labels"]["fluid_exclusive"] = "default_demo"
    bound = dataset(status={"phase": "Bound", "conditions": [{"type": "Ready"}], "ufsTotal": "1GiB", "runtimes": [{}]})
    plan = plan_for(
        dataset=bound,
        runtime=deleting(cache_runtime(meta={"ownerReferences": [{"kind": "Dataset", "uid": "dataset-uid"}]})),
        service=owned("Service", "svc-demo-worker"),
        config_map=owned("ConfigMap", "fluid-runtime-config-demo"),
        nodes={"n1": marked},
    )

    assert [line for line in shown(plan) if not line.startswith("Gone")] == [
        "Patch Node",
        "Delete Service",
        "Delete ConfigMap",
        "Delete Secret",
        "Patch Dataset status",
        "Patch CacheRuntime",
    ]
    assert plan.ends == RUNTIME_UID
    labels_patch = next(action for action in plan.actions if isinstance(action, Patch))
    gone = labels_patch.body["metadata"]["labels"]
    assert set(gone) == {key for key in marked["metadata"]["labels"] if key != "other"}
    assert set(gone.values()) == {None}
    status = next(action.body["status"] for action in plan.actions if isinstance(action, Patch) and action.subresource)
    assert status == {"phase": "NotBound", "conditions": [], "ufsTotal": None, "runtimes": None}


def test_server_is_asked_whether_volumes_and_workloads_are_really_gone() -> None:
    plan = plan_for(runtime=ending())

    checks = [action for action in plan.actions if isinstance(action, Gone)]
    assert [check.resource.kind for check in checks] == [
        "PersistentVolumeClaim",
        "PersistentVolume",
        "DaemonSet",
        "StatefulSet",
    ]
    assert checks[0].is_ours(claim())
    assert not checks[1].is_ours(volume("default-a", "b"))


def test_nodes_with_folders_are_cleaned_before_the_runtime_goes() -> None:
    runtime = ending(annotations={"headrace.io/tier-nodes": "n1,n2,vanished"})
    nodes = {"n1": node("n1"), "n2": node("n2")}
    first = plan_for(runtime=runtime, nodes=nodes)
    assert shown(first) == ["Create Pod", "Create Pod"]
    assert first.waiting == CLEANUP

    pods = tuple(action.body for action in first.actions if hasattr(action, "body"))
    running = tuple({**pod, "status": {"phase": "Running"}} for pod in pods)
    assert plan_for(runtime=runtime, nodes=nodes, cleanups=running).actions == ()

    done = tuple({**pod, "status": {"phase": "Succeeded"}} for pod in pods)
    last = plan_for(runtime=runtime, nodes=nodes, cleanups=done)
    assert shown(last).count("Delete Pod") == 2
    assert shown(last)[-1] == "Patch CacheRuntime"


def test_node_that_cannot_be_cleaned_is_named_and_does_not_block() -> None:
    runtime = ending(annotations={"headrace.io/tier-nodes": "n1"})
    plan = plan_for(runtime=runtime, nodes={"n1": node("n1")}, waited={CLEANUP: SETTINGS.cleanup_limit_s})

    post = plan.actions[0]
    assert isinstance(post, Post)
    assert "/var/lib/headrace/cache/default/demo could not be removed from nodes n1" in post.message
    assert shown(plan)[-1] == "Patch CacheRuntime"


def test_runtime_without_host_folders_needs_no_cleaning() -> None:
    plan = plan_for(
        runtime=deleting(
            cache_runtime([{"emptyDir": {"quota": "1Gi"}}], meta={"annotations": {"headrace.io/tier-nodes": "n1"}})
        ),
        nodes={"n1": node("n1")},
    )

    assert "Create Pod" not in shown(plan)
    assert shown(plan)[-1] == "Patch CacheRuntime"


def test_invalid_runtime_can_be_deleted() -> None:
    plan = plan_for(runtime=deleting(cache_runtime(runtimeClassName="absent")))

    assert shown(plan)[-1] == "Patch CacheRuntime"


def test_labels_of_a_dataset_with_the_same_volume_name_stay() -> None:
    plan = plan_for(
        runtime=ending(),
        volume=volume("default-a", "b"),
        nodes={"n1": node("n1", **{"fluid.io__f_default_demo": "true"})},
    )

    assert "Patch Node" not in shown(plan)
    assert "Delete PersistentVolume" not in shown(plan)


def test_runtime_that_is_not_served_is_left_to_go() -> None:
    other = deleting(alluxio_runtime())
    other["metadata"]["finalizers"] = []

    assert plan_for(runtime=other).actions == ()


def test_workload_of_a_successor_is_not_deleted() -> None:
    successor = {**owned("StatefulSet", "demo-worker"), "metadata": metadata("demo-worker")}

    assert "Delete StatefulSet" not in shown(plan_for(runtime=ending(), stateful_set=successor))


def test_cleanup_pod_whose_runtime_is_gone_is_removed() -> None:
    stray = {"kind": "Pod", "metadata": metadata("cleanup-demo-1", namespace="fluid-system", uid="u")}

    (deletion,) = plan_for(cleanups=(stray,)).actions

    assert isinstance(deletion, Delete)
    assert (deletion.namespace, deletion.name) == ("fluid-system", "cleanup-demo-1")


def test_pod_that_our_copies_do_not_show_yet_keeps_its_claim(api: FakeApiServer) -> None:
    path = PVCS.path("default", "demo")
    api.put(PVCS.path("default"), claim())
    api.put(PODS.path("default"), reader("new"))
    plan = plan_for(runtime=ending(), claim=claim())

    with pytest.raises(Conflict, match="default/new reads claim demo"):
        Writer(api.transport(), Recorder(api.transport())).run(plan)

    assert api.get(path) is not None
