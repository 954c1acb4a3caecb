"""What runs on nodes, and with which rights."""

from typing import Any

import pytest

from controller import config, pods, workloads
from controller.adapters import decode, runtime_spec
from controller.identity import Identity
from controller.sources import bound_sources
from datamodel.client import decode_client_config
from datamodel.dataset import DatasetSpec
from kube.objects import Object
from tests.controller.objects import SETTINGS, alluxio_runtime, cache_runtime, dataset, mount

IDENTITY = Identity("default", "demo", "dataset-uid")
TOLERATION = {"key": "gpu", "operator": "Exists"}


def rendered(runtime: Object, given: Object) -> tuple[Object, Object]:
    """(StatefulSet, DaemonSet)."""
    spec, wanted = runtime_spec(runtime), decode(DatasetSpec, given)
    sources = bound_sources(wanted)
    return (
        workloads.stateful_set(spec, IDENTITY, runtime, wanted, sources, SETTINGS, "mark"),
        workloads.daemon_set(spec, IDENTITY, runtime, sources, SETTINGS),
    )


def pod_of(workload: Object) -> Object:
    pod: Object = workload["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("runtime", [cache_runtime(), alluxio_runtime()], ids=["cache", "alluxio"])
def test_daemons_run_as_nobody_without_any_right(runtime: Object) -> None:
    for workload in rendered(runtime, dataset()):
        pod = pod_of(workload)
        security = pod["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (65534, 65534, True)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert "hostNetwork" not in pod
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert "privileged" not in rights


def test_only_the_two_short_lived_containers_are_root_with_one_capability_each() -> None:
    runtime = cache_runtime()
    worker, _ = rendered(runtime, dataset())
    (prepare,) = pod_of(worker)["initContainers"]
    cleanup = pods.cleanup_pod(runtime_spec(runtime), IDENTITY, SETTINGS, "n1")["spec"]

    assert prepare["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert prepare["args"] == ["--prepare-tier", "/var/cache/headrace/tier-1"]
    assert [mount["mountPath"] for mount in prepare["volumeMounts"]] == ["/var/cache/headrace/tier-1"]
    (container,) = cleanup["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}
    assert container["args"] == ["--remove-tier", "/tier/0/default/demo"]
    assert cleanup["volumes"][0]["hostPath"]["path"] == "/var/lib/headrace/cache"


def test_cleanup_uses_our_image_and_namespace_whatever_the_user_says() -> None:
    runtime = cache_runtime()
    runtime["spec"]["worker"]["runtimeVersion"] = {"image": "evil", "imageTag": "1"}

    pod = pods.cleanup_pod(runtime_spec(runtime), IDENTITY, SETTINGS, "n1")

    assert pod["metadata"]["namespace"] == "fluid-system"
    assert pod["spec"]["containers"][0]["image"] == "headrace:test"
    assert pod_of(rendered(runtime, dataset())[0])["containers"][0]["image"] == "evil:1"


def test_tiers_become_volumes_and_memory_is_asked_for() -> None:
    worker, _ = rendered(cache_runtime(), dataset())
    pod = pod_of(worker)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}

    assert volumes["headrace-tier-0"]["emptyDir"] == {"sizeLimit": "2Gi", "medium": "Memory"}
    assert volumes["headrace-tier-1"]["hostPath"] == {
        "path": "/var/lib/headrace/cache/default/demo",
        "type": "DirectoryOrCreate",
    }
    assert pod["containers"][0]["resources"] == {"requests": {"memory": "2Gi"}}


def test_runtime_without_tiers_gets_one_small_folder() -> None:
    worker, _ = rendered(cache_runtime([]), dataset())

    assert {"name": "headrace-tier-0", "emptyDir": {"sizeLimit": "2Gi"}} in pod_of(worker)["volumes"]


def test_fuse_pod_sees_only_the_folders_that_the_broker_made() -> None:
    _, fuse = rendered(cache_runtime(), dataset())
    pod = pod_of(fuse)

    folders = [volume["hostPath"] for volume in pod["volumes"] if "hostPath" in volume]
    assert folders == [
        {"path": "/runtime-mnt/cache/default/demo/run", "type": "Directory"},
        {"path": "/runtime-mnt/cache/default/demo/cache", "type": "Directory"},
    ]
    assert pod["nodeSelector"] == {"fluid.io/f-default-demo": "true"}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert fuse["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_local_source_is_mounted_read_only_at_a_place_of_its_own() -> None:
    given = dataset(mount("local:///etc", "conf"))
    for workload in rendered(cache_runtime(), given):
        pod = pod_of(workload)
        assert {"name": "headrace-source-0", "hostPath": {"path": "/etc", "type": "Directory"}} in pod["volumes"]
        assert {
            "name": "headrace-source-0",
            "mountPath": "/var/lib/headrace/sources/0",
            "readOnly": True,
        } in pod["containers"][0]["volumeMounts"]
    (bound,) = bound_sources(decode(DatasetSpec, given))
    assert bound.source.url == "file:///var/lib/headrace/sources/0"


def test_placement_follows_dataset() -> None:
    terms: dict[str, Any] = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]}
    given = dataset(nodeAffinity={"required": terms}, tolerations=[TOLERATION])
    pod = pod_of(rendered(cache_runtime(), given)[0])

    affinity = pod["affinity"]
    assert affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == terms
    assert affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == [
        {
            "labelSelector": {"matchExpressions": [{"key": "fluid.io/dataset", "operator": "Exists"}]},
            "topologyKey": "kubernetes.io/hostname",
        }
    ]
    assert pod["tolerations"] == [TOLERATION]


def test_shared_placement_only_prefers_nodes_of_its_own() -> None:
    pod = pod_of(rendered(cache_runtime(), dataset(placement="Shared"))[0])

    rules = pod["affinity"]["podAntiAffinity"]
    (required,) = rules["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["labelSelector"]["matchExpressions"][0]["values"] == ["Exclusive"]
    assert rules["preferredDuringSchedulingIgnoredDuringExecution"][0]["weight"] == 50


def test_settings_name_sources_tiers_and_workers() -> None:
    spec = runtime_spec(alluxio_runtime())
    wanted = decode(DatasetSpec, dataset(mount(), mount("https://other/", "other", path="/deep")))
    served = config.client_config(spec, wanted, bound_sources(wanted))
    data = config.config_map(spec, IDENTITY, alluxio_runtime(), served)["data"]

    client, worker = decode_client_config(data["client.json"]), decode_client_config(data["worker.json"])
    assert [(source.name, source.path) for source in client.sources] == [("origin", "/origin"), ("other", "/deep")]
    assert [(tier.path, tier.quota_bytes) for tier in client.tiers] == [("/var/cache/headrace", 10 << 30)]
    assert [(tier.path, tier.quota_bytes) for tier in worker.tiers] == [("/var/cache/headrace/tier-0", 2 << 30)]
    assert client.workers.host_pattern == "demo-worker-{i}.demo-worker.default.svc"
    assert (client.workers.replicas, client.workers.port) == (2, 29600)


def test_names_of_alluxio_objects_are_those_of_fluid() -> None:
    worker, fuse = rendered(alluxio_runtime(), dataset())

    assert (worker["metadata"]["name"], fuse["metadata"]["name"]) == ("demo-worker", "demo-fuse")
    labels = worker["spec"]["template"]["metadata"]["labels"]
    assert labels == {
        "app": "alluxio",
        "release": "demo",
        "role": "alluxio-worker",
        "fluid.io/managed-by": "fluid",
        "fluid.io/dataset-id": "default-demo",
        "fluid.io/dataset": "default-demo",
        "fluid.io/dataset-placement": "Exclusive",
    }
    assert worker["spec"]["podManagementPolicy"] == "Parallel"
