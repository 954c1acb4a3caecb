"""What users get wrong: each mistake is named with its cure, nothing is lost, and a corrected manifest recovers."""

import pytest

from tests.cluster.conftest import Origin
from tests.cluster.kube import apply, get, kubectl, phase, wait
from tests.cluster.manifests import cache_runtime, dataset

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def problem(namespace: str, name: str) -> str:
    found = get("dataset", name, namespace) or {}
    conditions = found.get("status", {}).get("conditions", [])
    return next((c["message"] for c in conditions if c["type"] == "NotReady" and c["status"] == "True"), "")


def test_unknown_class_is_named_and_a_corrected_one_binds(namespace: str, origin: Origin) -> None:
    apply(dataset(namespace, "demo", origin), cache_runtime(namespace, "demo", runtimeClassName="absent"))
    wait("condition", lambda: "absent" in problem(namespace, "demo"), 30)

    kubectl("delete", "cacheruntime", "demo", "-n", namespace)
    apply(cache_runtime(namespace, "demo"))

    wait("Bound dataset", lambda: phase("dataset", "demo", namespace) == "Bound", 60)
    assert problem(namespace, "demo") == ""


def test_runtime_without_dataset_waits_and_says_so(namespace: str, origin: Origin) -> None:
    apply(cache_runtime(namespace, "alone"))
    wait(
        "event",
        lambda: (
            "No dataset can be bound to the runtime, waiting."
            in kubectl("get", "events", "-n", namespace, "-o", "json")
        ),
        30,
    )

    apply(dataset(namespace, "alone", origin))

    wait("Bound dataset", lambda: phase("dataset", "alone", namespace) == "Bound", 60)


@pytest.mark.parametrize("mount_point", ["gopher://old.example/", "http://", "local://relative/../path"])
def test_wrong_mount_point_is_refused_with_its_value(namespace: str, origin: Origin, mount_point: str) -> None:
    wrong = dataset(namespace, "demo", origin)
    wrong["spec"]["mounts"] = [{"mountPoint": mount_point, "name": "wrong"}]
    apply(wrong, cache_runtime(namespace, "demo"))

    wait("condition", lambda: mount_point in problem(namespace, "demo"), 30)
    assert phase("dataset", "demo", namespace) != "Bound"

    apply(dataset(namespace, "demo", origin))
    wait("Bound dataset", lambda: phase("dataset", "demo", namespace) == "Bound", 60)


def test_everything_applied_twice_changes_nothing(namespace: str, origin: Origin) -> None:
    manifests = [dataset(namespace, "demo", origin), cache_runtime(namespace, "demo")]
    apply(*manifests)
    wait("Bound dataset", lambda: phase("dataset", "demo", namespace) == "Bound", 60)
    before = get("pv", f"{namespace}-demo")

    apply(*manifests)

    assert phase("dataset", "demo", namespace) == "Bound"
    assert get("pv", f"{namespace}-demo") == before


def test_source_that_is_away_is_told_and_its_return_is_noticed(namespace: str, origin: Origin) -> None:
    origin.stop()
    try:
        apply(dataset(namespace, "demo", origin), cache_runtime(namespace, "demo"))
        wait(
            "event",
            lambda: "Source 'hadoop' does not answer" in kubectl("get", "events", "-n", namespace, "-o", "json"),
            60,
        )
    finally:
        origin.start()

    wait("total", lambda: (get("dataset", "demo", namespace) or {})["status"].get("fileNum") == "12", 60)
