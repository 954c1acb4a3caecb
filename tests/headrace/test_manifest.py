"""Manifests of a cluster, served on one machine."""

from pathlib import Path

import pytest

from datamodel.errors import UserError
from headrace.manifest import Manifest, TierFolder, read_manifest

DATASET = """
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: demo, namespace: science}
spec:
  owner: {uid: 1000, gid: 1001, user: u, group: g}
  sharedOptions: {connect-timeout: "3"}
  mounts:
  - {name: spark, mountPoint: "https://mirror.example/spark/", options: {username: me}}
  - {name: disk, mountPoint: "local:///data/with space", path: /here}
"""
ALLUXIO = """
apiVersion: data.fluid.io/v1alpha1
kind: AlluxioRuntime
metadata: {name: demo, namespace: science}
spec:
  replicas: 3
  tieredstore:
    levels:
    - {mediumtype: SSD, path: "/ssd,/ssd2", quotaList: "10Gi,20Gi", high: "0.9", low: "0.5"}
    - {mediumtype: MEM, path: /dev/shm, quota: 2Gi}
"""
CACHE = """
apiVersion: data.fluid.io/v1alpha1
kind: CacheRuntime
metadata: {name: demo, namespace: science}
spec:
  runtimeClassName: headrace
  worker:
    tieredStore:
      levels:
      - emptyDir: {quota: 5Gi, medium: Memory}
      - emptyDir: {quota: 7Gi}
  client:
    tieredStore:
      levels:
      - emptyDir: {quota: 3Gi}
"""
UNRELATED = """
apiVersion: v1
kind: Pod
metadata: {name: demo, namespace: science}
spec: {}
"""
GIB = 1 << 30


def read(folder: Path, *documents: str, dataset: str = "") -> Manifest:
    file = folder / "dataset.yaml"
    file.write_text("\n---\n".join(documents))
    return read_manifest(str(file), dataset)


def test_dataset_alone_gives_sources_and_owner(tmp_path: Path) -> None:
    found = read(tmp_path, DATASET, UNRELATED)

    assert (found.namespace, found.name, found.owner) == ("science", "demo", (1000, 1001))
    assert [(source.name, source.url, source.path) for source in found.sources] == [
        ("spark", "https://mirror.example/spark/", "/spark"),
        ("disk", "file:///data/with%20space", "/here"),
    ]
    assert found.sources[0].options == {"connect-timeout": "3", "username": "me"}
    assert (found.memory_bytes, found.tiers) == (0, ())


def test_alluxio_runtime_gives_memory_and_folders(tmp_path: Path) -> None:
    found = read(tmp_path, ALLUXIO, DATASET)

    assert found.memory_bytes == 2 * GIB
    assert found.tiers == (
        TierFolder("/ssd/headrace-mount/science/demo", 10 * GIB, 0.9, 0.5),
        TierFolder("/ssd2/headrace-mount/science/demo", 20 * GIB, 0.9, 0.5),
    )


def test_client_tiers_of_a_cache_runtime_win_over_the_workers(tmp_path: Path) -> None:
    found = read(tmp_path, DATASET, CACHE)

    assert (found.memory_bytes, found.tiers) == (0, (TierFolder("", 3 * GIB, 0.95, 0.7),))


def test_workers_tiers_count_where_the_client_has_none(tmp_path: Path) -> None:
    found = read(tmp_path, DATASET, CACHE.partition("  client:")[0])

    assert (found.memory_bytes, found.tiers) == (5 * GIB, (TierFolder("", 7 * GIB, 0.95, 0.7),))


def test_runtime_of_another_name_does_not_count(tmp_path: Path) -> None:
    assert read(tmp_path, DATASET, ALLUXIO.replace("demo", "other")).tiers == ()


def test_runtime_without_tiers_leaves_the_choice_to_the_command_line(tmp_path: Path) -> None:
    assert read(tmp_path, DATASET, ALLUXIO.partition("  tieredstore:")[0]).tiers == ()


def test_several_datasets_have_to_be_chosen_from(tmp_path: Path) -> None:
    two = (DATASET, DATASET.replace("demo", "other"))

    with pytest.raises(UserError, match="--dataset science/demo or --dataset science/other"):
        read(tmp_path, *two)
    assert read(tmp_path, *two, dataset="other").name == "other"
    assert read(tmp_path, *two, dataset="science/demo").name == "demo"
    with pytest.raises(UserError, match="'none' is not there"):
        read(tmp_path, *two, dataset="none")


def test_items_of_a_list_are_documents(tmp_path: Path) -> None:
    items = "\n".join(f"  {line}" for line in DATASET.strip().splitlines())

    assert read(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n-\n{items}").name == "demo"


def test_options_kept_in_secrets_are_told(tmp_path: Path) -> None:
    secret = "encryptOptions: [{name: password, valueFrom: {secretKeyRef: {name: s, key: k}}}]"

    found = read(tmp_path, DATASET.replace("options: {username: me}", secret))

    assert found.missing == (("spark", "password"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("", "has no Dataset"),
        (UNRELATED, "has no Dataset"),
        (DATASET.replace("https:", "gopher:"), "Dataset 'demo': spec.mounts"),
        (DATASET.replace("mounts:", "munts:"), "spec.mounts: empty"),
        (DATASET.replace("uid: 1000", "uid: x"), "Dataset 'demo': spec: "),
    ],
)
def test_wrong_manifest_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path, text)

    assert "dataset.yaml" in str(refused.value)


def test_wrong_runtime_names_its_kind_and_field(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AlluxioRuntime: spec\.tieredstore\.levels\[0\]"):
        read(tmp_path, DATASET, ALLUXIO.replace("10Gi,20Gi", "10Gi"))


def test_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"-f: '.*none.yaml': No such file"):
        read_manifest(str(tmp_path / "none.yaml"))
