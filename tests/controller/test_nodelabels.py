"""Labels follow the workers, and heal."""

from typing import Any

from controller.adapters import decode, runtime_spec
from controller.nodelabels import count_patches, label_patches, removal_patches
from datamodel.dataset import DatasetSpec
from kube.objects import Object
from tests.controller.objects import cache_runtime, dataset, node, snapshot, worker


def patches(given: Object | None = None, **parts: Any) -> dict[str, dict[str, str | None]]:
    given = given or dataset()
    view = snapshot(dataset=given, **parts)
    found = label_patches(runtime_spec(cache_runtime()), view.identity, view, decode(DatasetSpec, given))
    return {patch.name: patch.body["metadata"]["labels"] for patch in found}


def test_node_of_a_running_worker_gets_the_labels_of_fluid() -> None:
    found = patches(workers=(worker(0, "n1"),), nodes={"n1": node("n1"), "n2": node("n2")})

    assert found == {
        "n1": {
            "fluid.io/s-default-demo": "true",
            "fluid.io/s-cache-default-demo": "true",
            "fluid.io/s-h-cache-m-default-demo": "2GiB",
            "fluid.io/s-h-cache-d-default-demo": "10GiB",
            "fluid.io/s-h-cache-t-default-demo": "12GiB",
            "fluid_exclusive": "default_demo",
        }
    }


def labelled(name: str) -> Object:
    (labels,) = patches(workers=(worker(0, name),), nodes={name: node(name)}).values()
    return {"metadata": {"name": name, "labels": labels}}


def test_labels_that_are_right_are_not_written_again() -> None:
    assert patches(workers=(worker(0, "n1"),), nodes={"n1": labelled("n1")}) == {}


def test_worker_that_left_takes_its_labels_and_leaves_the_others() -> None:
    left = labelled("n1")
    left["metadata"]["labels"] |= {"fluid.io/s-other": "true"}

    (labels,) = patches(workers=(), nodes={"n1": left}).values()

    assert labels["fluid_exclusive"] is None
    assert "fluid.io/s-other" not in labels


def test_labels_stay_while_a_worker_restarts_on_its_node() -> None:
    assert patches(workers=(worker(0, "n1", phase="Pending"),), nodes={"n1": labelled("n1")}) == {}


def test_two_exclusive_datasets_do_not_overwrite_each_other() -> None:
    taken = node("n1")
    taken["metadata"]["labels"]["fluid_exclusive"] = "other_one"

    (labels,) = patches(workers=(worker(0, "n1"),), nodes={"n1": taken}).values()

    assert "fluid_exclusive" not in labels


def test_shared_dataset_claims_no_node() -> None:
    (labels,) = patches(dataset(placement="Shared"), workers=(worker(0, "n1"),), nodes={"n1": node("n1")}).values()

    assert "fluid_exclusive" not in labels


def test_removal_takes_the_fuse_label_too_and_spares_other_nodes() -> None:
    marked = labelled("n1")
    marked["metadata"]["labels"]["fluid.io/f-default-demo"] = "true"
    view = snapshot(dataset=dataset(), nodes={"n1": marked, "n2": node("n2", **{"fluid.io__s_other": "true"})})

    (patch,) = removal_patches(runtime_spec(cache_runtime()), view.identity, view)

    assert patch.name == "n1"
    assert set(patch.body["metadata"]["labels"]) == set(marked["metadata"]["labels"])


def test_number_of_datasets_is_set_corrected_and_taken_away() -> None:
    numbered = node("n1", **{"fluid.io__dataset_num": "2"})

    assert [patch.body["metadata"]["labels"] for patch in count_patches(node("n1"), 1)] == [
        {"fluid.io/dataset-num": "1"}
    ]
    assert count_patches(numbered, 2) == ()
    assert [patch.body["metadata"]["labels"] for patch in count_patches(numbered, 0)] == [
        {"fluid.io/dataset-num": None}
    ]
