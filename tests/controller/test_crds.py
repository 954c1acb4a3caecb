"""The CRDs are fresh, and what Fluid's users type at them works."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def crd(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / f"deploy/crds/{plural}.data.fluid.io.yaml").read_text())
    return found


def version(plural: str) -> dict[str, Any]:
    (found,) = crd(plural)["spec"]["versions"]
    assert isinstance(found, dict)
    return found


def field(plural: str, path: str) -> dict[str, Any]:
    schema = version(plural)["schema"]["openAPIV3Schema"]
    for part in path.split("."):
        schema = schema["items"] if part == "[]" else schema["properties"][part]
    assert isinstance(schema, dict)
    return schema


def test_files_are_what_the_types_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts/generate-crds"))

    assert {path: path.read_text() for path in script["wanted"]()} == script["wanted"]()


@pytest.mark.parametrize(
    ("plural", "short", "scope"),
    [
        ("datasets", ["dataset"], "Namespaced"),
        ("alluxioruntimes", ["alluxio"], "Namespaced"),
        ("cacheruntimes", None, "Namespaced"),
        ("cacheruntimeclasses", None, "Cluster"),
    ],
)
def test_names_scope_and_category(plural: str, short: list[str] | None, scope: str) -> None:
    spec = crd(plural)["spec"]

    assert spec["names"].get("shortNames") == short
    assert spec["names"]["categories"] == ["fluid"]
    assert spec["scope"] == scope


def test_columns_of_a_dataset() -> None:
    shown = [(column["name"], column.get("priority", 0)) for column in version("datasets")["additionalPrinterColumns"]]

    assert shown == [
        ("Ufs Total Size", 0),
        ("Cached", 0),
        ("Cache Capacity", 0),
        ("Cached Percentage", 0),
        ("Phase", 0),
        ("HCFS URL", 10),
        ("TOTAL FILES", 11),
        ("CACHE HIT RATIO", 10),
        ("AGE", 0),
    ]


def test_alluxio_runtime_scales() -> None:
    assert version("alluxioruntimes")["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.currentWorkerNumberScheduled",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_class_has_its_fields_at_the_top_and_no_status() -> None:
    schema = version("cacheruntimeclasses")["schema"]["openAPIV3Schema"]

    assert "spec" not in schema["properties"]
    assert schema["required"] == ["fileSystemType"]
    assert "subresources" not in version("cacheruntimeclasses")


@pytest.mark.parametrize(
    ("plural", "path", "expected"),
    [
        ("datasets", "spec.mounts", {"type": "array", "minItems": 1}),
        ("datasets", "spec.mounts.[].mountPoint", {"type": "string", "minLength": 5}),
        ("datasets", "spec.placement", {"enum": ["Exclusive", "", "Shared"]}),
        ("alluxioruntimes", "spec.tieredstore.levels.[].mediumtype", {"enum": ["MEM", "SSD", "HDD"]}),
        ("alluxioruntimes", "spec.tieredstore.levels.[].volumeType", {"default": "hostPath"}),
        ("alluxioruntimes", "spec.tieredstore.levels.[].quota", {"x-kubernetes-int-or-string": True}),
        ("alluxioruntimes", "spec.master.replicas", {"minimum": 1}),
        ("alluxioruntimes", "spec.worker.resources", {"x-kubernetes-preserve-unknown-fields": True}),
        ("alluxioruntimes", "spec.apiGateway.enabled", {"type": "boolean"}),
        ("cacheruntimes", "spec.worker.replicas", {"minimum": 0, "default": 1}),
        ("cacheruntimes", "spec.client.cleanPolicy", {"default": "OnRuntimeDeleted"}),
        ("cacheruntimeclasses", "topology.worker.executionEntries.mountUFS.timeout", {"minimum": 20}),
    ],
)
def test_field_has_the_rule_of_fluid(plural: str, path: str, expected: dict[str, Any]) -> None:
    found = field(plural, path)

    assert {key: found.get(key) for key in expected} == expected


def described(schema: dict[str, Any], path: str) -> list[str]:
    missing = []
    for name, child in schema.get("properties", {}).items():
        if "description" not in child and (path, name) != ("", "metadata"):
            missing.append(f"{path}.{name}")
        missing += described(child.get("items", child), f"{path}.{name}")
    return missing


@pytest.mark.parametrize("plural", ["datasets", "alluxioruntimes", "cacheruntimes", "cacheruntimeclasses"])
def test_every_field_says_what_it_is(plural: str) -> None:
    assert described(version(plural)["schema"]["openAPIV3Schema"], "") == []
