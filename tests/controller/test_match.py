"""Drift is seen, defaults of the API server are not."""

from typing import Any

import pytest

from controller.match import is_as_wanted, with_fingerprint

WANTED = with_fingerprint(
    {
        "metadata": {"name": "a", "labels": {"app": "x"}},
        "spec": {
            "replicas": 2,
            "template": {
                "env": [],
                "resources": {"requests": {"memory": "1024Mi"}},
                "flags": ["a", "b"],
                "host": False,
            },
        },
    }
)


def served(**spec: Any) -> dict[str, Any]:
    """As an API server returns it: defaults added, quantities rewritten, empty fields left out."""
    return {
        "metadata": {**WANTED["metadata"], "uid": "1", "labels": {"app": "x", "other": "y"}},
        "spec": {
            "replicas": 2,
            "strategy": "default",
            "template": {"resources": {"requests": {"memory": "1Gi"}}, "flags": ["a", "b"], "policy": "Always"},
            **spec,
        },
        "status": {"replicas": 1},
    }


def test_defaults_and_rewritten_quantities_are_no_drift() -> None:
    assert is_as_wanted(served(), WANTED)


@pytest.mark.parametrize(
    "found",
    [
        served(replicas=3),
        served(template={"resources": {"requests": {"memory": "2Gi"}}, "flags": ["a", "b"]}),
        served(template={"resources": {"requests": {"memory": "1Gi"}}, "flags": ["a"]}),
        served(template=None),
        {**served(), "metadata": {"name": "a"}},
    ],
    ids=["number", "quantity", "shorter list", "missing object", "labels gone"],
)
def test_edits_by_hand_are_drift(found: dict[str, Any]) -> None:
    assert not is_as_wanted(found, WANTED)


def test_field_that_is_no_longer_wanted_is_drift() -> None:
    before = with_fingerprint({"metadata": {"name": "a"}, "spec": {"selector": {"x": "1", "y": "2"}}})
    after = with_fingerprint({"metadata": {"name": "a"}, "spec": {"selector": {"x": "1"}}})

    assert not is_as_wanted(before, after)
