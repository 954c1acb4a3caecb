"""From Dataset and runtime to Bound: what is done, and in which order."""

from dataclasses import replace
from typing import Any

import pytest

from controller.decide import NO_DATASET, decide
from controller.plan import Apply, Create, Patch, Plan, Post
from controller.snapshot import Snapshot, WorkerReport
from kube.objects import Object
from tests.controller.objects import (
    DATASET_UID,
    SETTINGS,
    alluxio_runtime,
    cache_runtime,
    claim,
    dataset,
    message_of,
    metadata,
    mount,
    node,
    owned,
    shown,
    snapshot,
    status_patch,
    volume,
    worker,
    workers,
)
from tests.fakes.apiserver import merged


def plan_for(**parts: Any) -> Plan:
    return decide(snapshot(**parts), SETTINGS)


def body_of(plan: Plan, kind: str) -> Object:
    return next(
        action.body for action in plan.actions if isinstance(action, Apply | Create) and action.resource.kind == kind
    )


def test_dataset_alone_gets_finalizer_and_not_bound() -> None:
    plan = plan_for(dataset=dataset())

    metadata_patch, status = plan.actions
    assert isinstance(metadata_patch, Patch)
    assert metadata_patch.body["metadata"]["finalizers"] == ["fluid-dataset-controller-finalizer"]
    assert isinstance(status, Patch)
    assert status.body == {"status": {"phase": "NotBound", "conditions": []}}


def test_nothing_is_written_for_a_dataset_that_is_as_it_should_be() -> None:
    settled = dataset(
        status={"phase": "NotBound", "conditions": []}, meta={"finalizers": ["fluid-dataset-controller-finalizer"]}
    )

    assert plan_for(dataset=settled).actions == ()


def test_runtime_alone_gets_one_event_in_the_words_of_fluid() -> None:
    (post,) = plan_for(runtime=cache_runtime()).actions

    assert isinstance(post, Post)
    assert (post.kind, post.reason, post.message) == ("Warning", "ErrorProcessRuntime", NO_DATASET)


def test_runtime_is_tied_to_its_dataset_before_anything_is_made() -> None:
    plan = plan_for(dataset=dataset(), runtime=cache_runtime())

    assert shown(plan)[:2] == ["Patch Dataset", "Patch CacheRuntime"]
    tie = plan.actions[1]
    assert isinstance(tie, Patch)
    change = tie.body["metadata"]
    assert change["finalizers"] == ["cache-runtime-controller-finalizer"]
    assert change["labels"] == {"fluid.io/dataset-id": "default-demo"}
    (owner,) = change["ownerReferences"]
    assert owner["uid"] == DATASET_UID
    assert "controller" not in owner


def test_reference_to_a_dataset_that_is_gone_is_replaced() -> None:
    old = [{"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "name": "demo", "uid": "before"}]
    plan = plan_for(dataset=dataset(), runtime=cache_runtime(meta={"ownerReferences": old}))

    tie = plan.actions[1]
    assert isinstance(tie, Patch)
    assert [owner["uid"] for owner in tie.body["metadata"]["ownerReferences"]] == [DATASET_UID]


def test_workloads_are_made_in_order_and_dataset_stays_not_bound() -> None:
    plan = plan_for(dataset=dataset(), runtime=cache_runtime())

    made = [line for line in shown(plan) if line.startswith(("Create", "Apply"))]
    assert made == ["Create Secret", "Apply ConfigMap", "Apply Service", "Apply StatefulSet", "Apply DaemonSet"]
    assert status_patch(plan, "Dataset")["phase"] == "NotBound"
    assert status_patch(plan, "CacheRuntime")["phase"] == "NotReady"


def test_token_is_never_written_twice_nor_shown() -> None:
    first = snapshot(dataset=dataset(), runtime=cache_runtime())
    again = replace(first, has_token=True)

    assert "t0k3n" not in repr(decide(first, SETTINGS))
    assert "t0k3n" not in repr(first)
    assert "Create Secret" not in shown(decide(again, SETTINGS))


def ready_parts(kind: str = "cache") -> dict[str, Any]:
    runtime = cache_runtime() if kind == "cache" else alluxio_runtime()
    return {
        "dataset": dataset(),
        "runtime": runtime,
        "stateful_set": workers(1),
        "workers": (worker(0, "n1"),),
        "nodes": {"n1": node("n1"), "n2": node("n2")},
        "volume": volume(),
        "claim": claim(),
    }


@pytest.mark.parametrize(
    ("there", "step"),
    [
        ({"volume": None, "claim": None}, "Create PersistentVolume"),
        ({"volume": volume(phase="Pending"), "claim": None}, None),
        ({"volume": volume(phase="Available"), "claim": None}, "Create PersistentVolumeClaim"),
        ({"volume": volume(), "claim": {**claim(), "status": {"phase": "Pending"}}}, None),
    ],
)
def test_volume_then_claim_then_its_binding_come_before_bound(there: dict[str, Any], step: str | None) -> None:
    plan = plan_for(**{**ready_parts(), **there})

    assert [line for line in shown(plan) if "PersistentVolume" in line] == ([step] if step else [])
    assert status_patch(plan, "Dataset").get("phase") != "Bound"


def test_one_ready_worker_of_two_is_enough_to_be_bound() -> None:
    plan = plan_for(**ready_parts())

    status = status_patch(plan, "Dataset")
    assert status["phase"] == "Bound"
    assert status["runtimes"] == [{"category": "Accelerate", "name": "demo", "namespace": "default", "type": "cache"}]
    (condition,) = status["conditions"]
    assert (condition["type"], condition["status"], condition["reason"], condition["message"]) == (
        "Ready",
        "True",
        "DatasetReady",
        "The ddc runtime is ready.",
    )
    assert status["cacheStates"]["cacheCapacity"] == "12.00GiB"
    assert status["cacheStates"]["cachedPercentage"] == "0.0%"
    assert status["ufsTotal"] == "[Calculating]"
    assert status_patch(plan, "CacheRuntime")["worker"]["phase"] == "PartialReady"


def test_alluxio_conditions_are_those_of_fluid_in_its_order() -> None:
    status = status_patch(plan_for(**ready_parts("alluxio")), "AlluxioRuntime")

    assert [(item["type"], item["status"], item["message"]) for item in status["conditions"]] == [
        ("MasterInitialized", "True", "The master is initialized."),
        ("MasterReady", "True", "The master is ready."),
        ("WorkersInitialized", "True", "The workers are initialized."),
        ("WorkersReady", "True", "The workers are partially ready."),
        ("FusesReady", "True", "The fuses are ready."),
    ]
    assert status["setupDuration"] == "1m3s"
    assert status["selector"] == "app=alluxio,release=demo,role=alluxio-worker"
    assert (status["masterPhase"], status["workerPhase"], status["fusePhase"]) == ("Ready", "PartialReady", "Ready")


def test_second_look_at_a_bound_dataset_changes_nothing() -> None:
    world = FakeWorld(snapshot(**ready_parts()))
    world.settle()

    assert decide(world.now, SETTINGS).actions == ()


def test_dataset_fails_when_all_workers_are_gone_and_recovers() -> None:
    world = FakeWorld(snapshot(**ready_parts()))
    world.settle()

    down = replace(world.now, stateful_set=with_status(world.now.stateful_set, workers(0)))
    status = status_patch(decide(down, SETTINGS), "Dataset")

    assert status["phase"] == "Failed"
    assert [(item["type"], item["status"]) for item in status["conditions"]] == [("Ready", "False")]
    world.now = down
    world.settle()
    world.now = replace(world.now, stateful_set=with_status(world.now.stateful_set, workers(2)))
    assert status_patch(decide(world.now, SETTINGS), "Dataset")["phase"] == "Bound"


def test_scaling_is_told_by_condition_and_event() -> None:
    world = FakeWorld(snapshot(**ready_parts("alluxio")))
    world.settle()
    runtime = world.now.runtimes[0]
    smaller = {**runtime, "spec": {**runtime["spec"], "replicas": 1}}

    plan = decide(replace(world.now, runtimes=(smaller,)), SETTINGS)

    assert any(isinstance(action, Post) and action.message == "Runtime scaled in" for action in plan.actions)
    conditions = status_patch(plan, "AlluxioRuntime")["conditions"]
    assert conditions[-1]["type"] == "WorkersScaledIn"
    assert conditions[-1]["message"] == "Workers scaled in from 2 replicas to 1 replicas."


def test_change_of_replicas_does_not_restart_workers() -> None:
    before = body_of(plan_for(dataset=dataset(), runtime=alluxio_runtime()), "StatefulSet")
    after = body_of(plan_for(dataset=dataset(), runtime=alluxio_runtime(replicas=5)), "StatefulSet")

    assert before["spec"]["template"] == after["spec"]["template"]
    assert after["spec"]["replicas"] == 5


def test_fields_for_a_jvm_are_named_in_one_event() -> None:
    runtime = alluxio_runtime(properties={"alluxio.x": "y"}, worker={"jvmOptions": ["-Xmx4G"]})

    posts = [
        action
        for action in plan_for(dataset=dataset(), runtime=runtime).actions
        if isinstance(action, Post) and action.reason == "RuntimeFieldsIgnored"
    ]

    (post,) = posts
    assert post.once
    assert "spec.properties" in post.message
    assert "spec.worker.jvmOptions" in post.message


@pytest.mark.parametrize(
    ("mounts", "field", "value"),
    [
        ([mount("gopher://old/")], "spec.mounts[0].mountPoint", "gopher://old/"),
        ([mount("http:///x")], "spec.mounts[0].mountPoint", "http:///x"),
        ([mount("local://relative/path")], "spec.mounts[0].mountPoint", "local://relative/path"),
        ([mount("local:///etc/../root")], "spec.mounts[0].mountPoint", "/etc/../root"),
        ([mount(path="/a/../b")], "spec.mounts[0].path", "/a/../b"),
        ([mount(path="relative")], "spec.mounts[0].path", "relative"),
        ([{"mountPoint": "http://origin/"}], "spec.mounts[0].name", "missing"),
        ([mount(), mount("http://other/")], "spec.mounts[1].name", "origin"),
        ([mount(path="/x"), mount(name="b", path="/x")], "spec.mounts", "/x"),
        ([mount(path="/"), mount(name="b")], "spec.mounts", "'/'"),
    ],
)
def test_bad_mount_is_refused_with_field_and_value(mounts: list[Object], field: str, value: str) -> None:
    plan = plan_for(dataset=dataset(*mounts), runtime=cache_runtime())

    assert field in message_of(plan)
    assert value in message_of(plan)
    assert "Post ErrorValidateSpecFields" in shown(plan)
    assert not [line for line in shown(plan) if line.startswith(("Create", "Apply"))]


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (cache_runtime(runtimeClassName="absent"), "'absent'"),
        (cache_runtime([{"emptyDir": {"quota": "lots"}}]), "'lots'"),
        (cache_runtime([{"emptyDir": {"quota": "0"}}]), "leaves no room"),
        (cache_runtime([{"hostPath": {"paths": ["/a", "/b"], "quotas": ["1Gi"]}}]), "2 paths but 1 quotas"),
        (cache_runtime([{"hostPath": {"paths": ["/"], "quotas": ["1Gi"]}}]), "must be an absolute folder"),
        (cache_runtime([{"emptyDir": {"quota": "1Gi"}, "processMemory": {"quota": "1Gi"}}]), "exactly one"),
        (cache_runtime([{"emptyDir": {"quota": "1Gi"}, "high": "0.5", "low": "0.9"}]), "is above high"),
        (
            alluxio_runtime(worker={"resources": {"limits": {"memory": "1Gi"}}}),
            "spec.worker.resources.limits.memory: 1Gi is below 2Gi",
        ),
    ],
)
def test_bad_runtime_is_refused_with_the_reason(runtime: Object, expected: str) -> None:
    assert expected in message_of(plan_for(dataset=dataset(), runtime=runtime))


def test_corrected_dataset_loses_the_complaint() -> None:
    complaint = {"type": "NotReady", "status": "True", "reason": "DatasetFailedToSetup", "message": "x"}
    parts = ready_parts()
    parts["dataset"] = dataset(status={"phase": "NotBound", "conditions": [complaint]})

    status = status_patch(plan_for(**parts), "Dataset")

    assert [item["type"] for item in status["conditions"]] == ["Ready"]


def test_bad_edit_of_a_bound_dataset_keeps_it_bound_and_complains() -> None:
    world = FakeWorld(snapshot(**ready_parts()))
    world.settle()
    bound = world.now.dataset
    assert bound is not None

    broken = {**bound, "spec": {"mounts": [mount("gopher://old/")]}}
    status = status_patch(decide(replace(world.now, dataset=broken), SETTINGS), "Dataset")

    assert "phase" not in status
    assert [item["type"] for item in status["conditions"]] == ["Ready", "NotReady"]


def test_volume_name_of_another_dataset_is_not_taken() -> None:
    plan = plan_for(dataset=dataset(), runtime=cache_runtime(), volume=volume("default-a", "b"))

    assert "'default-demo' already belongs to default-a/b" in message_of(plan)


def test_second_of_two_datasets_with_one_volume_name_is_refused() -> None:
    rival = {"kind": "Dataset", "metadata": metadata("b", namespace="default-a")}
    plan = plan_for(dataset=dataset(), runtime=cache_runtime(), rivals=(rival,))

    assert "Dataset default-a/b came first" in message_of(plan)


def test_own_volume_is_kept_although_a_rival_is_older() -> None:
    rival = {"kind": "Dataset", "metadata": metadata("b", namespace="default-a")}
    parts = {**ready_parts(), "volume": volume(), "claim": claim(), "rivals": (rival,)}

    assert status_patch(plan_for(**parts), "Dataset")["phase"] == "Bound"


def test_claim_of_somebody_else_is_not_taken() -> None:
    foreign = claim()
    foreign["metadata"]["annotations"] = {}

    assert "exists and is not of this Dataset" in message_of(
        plan_for(dataset=dataset(), runtime=cache_runtime(), claim=foreign)
    )


def test_workload_of_somebody_else_is_not_taken() -> None:
    foreign = {**owned("StatefulSet", "demo-worker"), "metadata": metadata("demo-worker")}

    assert "StatefulSet default/demo-worker exists" in message_of(
        plan_for(dataset=dataset(), runtime=cache_runtime(), stateful_set=foreign)
    )


def test_volume_left_by_an_earlier_claim_is_removed_first() -> None:
    parts = {**ready_parts(), "volume": volume(phase="Released", uid="of-a-claim-that-is-gone"), "claim": None}

    lines = shown(plan_for(**parts))

    assert "Delete PersistentVolume" in lines
    assert "Create PersistentVolumeClaim" not in lines


def test_volume_bound_to_a_claim_that_we_have_not_seen_yet_is_kept() -> None:
    parts = {**ready_parts(), "volume": volume(uid="of-a-claim-that-is-new"), "claim": None}

    assert "Delete PersistentVolume" not in shown(plan_for(**parts))


def test_source_that_is_away_is_named_in_one_event() -> None:
    report = WorkerReport(0, 0, 0, None, 0, 0, problems=(("hadoop", "connection refused"),))
    parts = {**ready_parts(), "reports": {"demo-worker-0": report, "demo-worker-1": report}}

    told = [action for action in plan_for(**parts).actions if isinstance(action, Post)]

    assert [(post.about["kind"], post.reason, post.message) for post in told] == [
        ("Dataset", "ErrorProcessDataset", "Source 'hadoop' does not answer: connection refused")
    ]


def test_bad_name_is_refused_in_the_words_of_the_api() -> None:
    bad = dataset()
    bad["metadata"]["name"] = "1number"
    plan = decide(Snapshot(namespace="default", name="1number", now="", dataset=bad), SETTINGS)

    assert "Post ErrorCreateDataset" in shown(plan)
    assert 'metadata.name: Invalid value: "1number": a DNS-1035 label' in message_of(plan)


def test_only_one_of_two_runtimes_is_served() -> None:
    plan = plan_for(dataset=dataset(), runtimes=(cache_runtime(), alluxio_runtime()))

    posts = [action for action in plan.actions if isinstance(action, Post)]
    assert [post.about["kind"] for post in posts if post.reason == "ErrorProcessRuntime"] == ["AlluxioRuntime"]
    assert body_of(plan, "StatefulSet")["metadata"]["ownerReferences"][0]["kind"] == "CacheRuntime"


def test_nodes_are_remembered_before_they_hold_files() -> None:
    parts = {**ready_parts(), "workers": (worker(0, "n2", phase="Pending"), worker(1, "n1"))}

    notes = [
        action.body["metadata"]["annotations"]
        for action in plan_for(**parts).actions
        if isinstance(action, Patch) and "annotations" in action.body.get("metadata", {})
    ]

    assert notes == [{"headrace.io/tier-nodes": "n1,n2"}]


def with_status(item: Object | None, source: Object) -> Object:
    assert item is not None
    return {**item, "status": source["status"]}


FIELDS = {
    "StatefulSet": "stateful_set",
    "DaemonSet": "daemon_set",
    "Service": "service",
    "ConfigMap": "config_map",
    "PersistentVolume": "volume",
    "PersistentVolumeClaim": "claim",
}


class FakeWorld:
    """Applies plans to a snapshot, as the API server and the watches would."""

    def __init__(self, start: Snapshot) -> None:
        self.now = start

    def settle(self) -> None:
        for action in decide(self.now, SETTINGS).actions:
            match action:
                case Apply(resource, body) | Create(resource, body):
                    field = FIELDS.get(resource.kind)
                    old = getattr(self.now, field) if field else None
                    if field:
                        change: dict[str, Any] = {field: merged(old or {}, body)}
                        self.now = replace(self.now, **change)
                    else:
                        self.now = replace(self.now, has_token=True)
                case Patch(resource, _, name, body) if resource.kind == "Node":
                    nodes = {**self.now.nodes, name: merged(self.now.nodes[name], dict(body))}
                    self.now = replace(self.now, nodes=nodes)
                case Patch(resource, _, _, body) if resource.kind == "Dataset":
                    self.now = replace(self.now, dataset=merged(self.now.dataset or {}, dict(body)))
                case Patch(_, _, _, body):
                    self.now = replace(self.now, runtimes=(merged(self.now.runtimes[0], dict(body)),))
