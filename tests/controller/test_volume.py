"""PersistentVolume and claim are Fluid's, and carry the token for the node plugin."""

from controller.adapters import decode, runtime_spec
from controller.identity import Identity
from controller.volume import claim, volume
from datamodel.dataset import DatasetSpec
from kube.objects import Object
from tests.controller.objects import SETTINGS, alluxio_runtime, cache_runtime, dataset

IDENTITY = Identity("default", "demo", "dataset-uid")


def made(runtime: Object, given: Object) -> tuple[Object, Object]:
    spec, wanted = runtime_spec(runtime), decode(DatasetSpec, given)
    return volume(spec, IDENTITY, given, wanted, SETTINGS), claim(spec, IDENTITY, given, wanted)


def test_volume_is_as_fluid_makes_it() -> None:
    found, _ = made(alluxio_runtime(), dataset())

    assert found["metadata"] == {
        "name": "default-demo",
        "labels": {"fluid.io/s-default-demo": "true", "fluid.io/dataset-id": "default-demo"},
        "annotations": {"CreatedBy": "fluid"},
    }
    assert found["spec"] == {
        "capacity": {"storage": "100Pi"},
        "accessModes": ["ReadOnlyMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "fluid",
        "claimRef": {"namespace": "default", "name": "demo"},
        "csi": {
            "driver": "fuse.csi.fluid.io",
            "volumeHandle": "default-demo",
            "volumeAttributes": {
                "fluid_path": "/runtime-mnt/alluxio/default/demo/fuse",
                "mount_type": "fuse.alluxio-fuse",
                "runtime_namespace": "default",
                "runtime_name": "demo",
                "mount_pod_node_selector_key": "fluid.io/f-default-demo",
            },
            "nodeStageSecretRef": {"name": "demo-headrace-token", "namespace": "default"},
            "nodePublishSecretRef": {"name": "demo-headrace-token", "namespace": "default"},
        },
    }


def test_claim_names_its_volume() -> None:
    _, found = made(cache_runtime(), dataset())

    assert found["spec"] == {
        "accessModes": ["ReadOnlyMany"],
        "resources": {"requests": {"storage": "100Pi"}},
        "volumeName": "default-demo",
        "storageClassName": "fluid",
    }
    assert found["metadata"]["annotations"] == {"CreatedBy": "fluid"}


def test_size_and_modes_come_from_the_dataset() -> None:
    given = dataset(
        accessModes=["ReadWriteMany"], meta={"annotations": {"pvc.fluid.io/resources.requests.storage": "5Gi"}}
    )
    found, claimed = made(cache_runtime(), given)

    assert found["spec"]["capacity"] == {"storage": "5Gi"}
    assert claimed["spec"]["accessModes"] == ["ReadWriteMany"]


def test_node_selector_of_fuse_pods_limits_the_volume() -> None:
    found, _ = made(alluxio_runtime(fuse={"nodeSelector": {"disk": "ssd"}}), dataset())

    (term,) = found["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term == {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}


def test_clean_policy_travels_with_the_volume_when_it_is_not_the_default() -> None:
    found, _ = made(cache_runtime(client={"cleanPolicy": "OnDemand"}), dataset())

    assert found["spec"]["csi"]["volumeAttributes"]["clean_policy"] == "OnDemand"
