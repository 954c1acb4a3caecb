"""Manifests as users write them."""

import os
from typing import Any

from tests.cluster.conftest import MOUNTS, Origin

API = "data.fluid.io/v1alpha1"


def dataset(namespace: str, name: str, origin: Origin, *, below: str = "", **spec: Any) -> dict[str, Any]:
    """Its mounts are those of the origin; *below* `slow/` they are slow."""
    mounts = [{"mountPoint": origin.url(below + mount), "name": mount} for mount in MOUNTS]
    return {
        "apiVersion": API,
        "kind": "Dataset",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"mounts": mounts, **spec},
    }


def cache_runtime(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    tier = {"hostPath": {"paths": ["/var/lib/headrace/e2e-tier"], "quotas": ["2Gi"], "type": "DirectoryOrCreate"}}
    worker = {"replicas": 1, "tieredStore": {"levels": [{**tier, "high": "0.95", "low": "0.7"}]}}
    return {
        "apiVersion": API,
        "kind": "CacheRuntime",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"runtimeClassName": "headrace", "worker": worker, **spec},
    }


def reader(namespace: str, name: str, claim: str, node: str, *command: str) -> dict[str, Any]:
    """An ordinary unprivileged pod that mounts the dataset."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": True},
            "containers": [
                {
                    "name": "reader",
                    "image": os.environ["HEADRACE_E2E_IMAGE"],
                    "imagePullPolicy": "IfNotPresent",
                    "command": list(command) or ["sleep", "infinity"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
