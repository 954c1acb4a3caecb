"""PersistentVolume and claim of a bound Dataset, and who owns them. Pure.

Both are created and never changed: most of their fields can't be, and a pod may rely on them.
"""

from typing import Any

from controller.engines import RuntimeSpec
from controller.identity import Identity
from controller.settings import Settings
from datamodel import names
from datamodel.dataset import DatasetSpec
from datamodel.errors import UserError
from datamodel.quantity import parse_bytes
from kube.objects import Object, annotations_of, key_of, name_of, spec_of, status_of

DEFAULT_SIZE = "100Pi"
READ_ONLY = "ReadOnlyMany"


def volume(spec: RuntimeSpec, identity: Identity, dataset: Object, wanted: DatasetSpec, settings: Settings) -> Object:
    """The PersistentVolume, bound beforehand to the claim."""
    token = {"name": spec.secret, "namespace": spec.namespace}
    source: dict[str, Any] = {
        "driver": names.DRIVER,
        "volumeHandle": identity.volume,
        "volumeAttributes": _attributes(spec, identity, settings),
        "nodeStageSecretRef": token,
        "nodePublishSecretRef": token,
    }
    body: dict[str, Any] = {
        "capacity": {"storage": _size(dataset)},
        "accessModes": _modes(wanted),
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": names.STORAGE_CLASS,
        "claimRef": {"namespace": spec.namespace, "name": spec.name},
        "csi": source,
    }
    if spec.client.node_selector:
        terms = [
            {"key": key, "operator": "In", "values": [value]}
            for key, value in sorted(spec.client.node_selector.items())
        ]
        body["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": identity.volume, **_marks(identity)},
        "spec": body,
    }


def claim(spec: RuntimeSpec, identity: Identity, dataset: Object, wanted: DatasetSpec) -> Object:
    """The PersistentVolumeClaim that pods name."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": spec.name, "namespace": spec.namespace, **_marks(identity)},
        "spec": {
            "accessModes": _modes(wanted),
            "resources": {"requests": {"storage": _size(dataset)}},
            "volumeName": identity.volume,
            "storageClassName": names.STORAGE_CLASS,
        },
    }


def is_ours(item: Object) -> bool:
    """Whether a volume or claim was made by us."""
    return annotations_of(item).get(names.CREATED_BY_ANNOTATION) == names.CREATED_BY


def claim_of(volume: Object) -> tuple[str, str]:
    """(namespace, name) of the claim that a volume is for."""
    reference = spec_of(volume).get("claimRef") or {}
    return str(reference.get("namespace", "")), str(reference.get("name", ""))


def check_free(namespace: str, name: str, found: Object | None, claimed: Object | None) -> None:
    """Refuse to take a volume or claim that is somebody else's.

    Raises:
        UserError: says which one, and the cure.
    """
    if found is not None and (not is_ours(found) or claim_of(found) != (namespace, name)):
        other = "/".join(claim_of(found)).strip("/") or "something else"
        raise UserError(
            f"metadata.name: PersistentVolume {name_of(found)!r} already belongs to {other}; "
            "volumes are named <namespace>-<name>, so rename this Dataset and its runtime, or delete the other"
        )
    if claimed is not None and not is_ours(claimed):
        raise UserError(
            f"metadata.name: PersistentVolumeClaim {'/'.join(key_of(claimed))} exists and is not of this Dataset; "
            "delete it, or rename the Dataset and its runtime"
        )


def is_stale(volume: Object) -> bool:
    """Whether a volume is left over from a claim that is gone, so that no new claim can bind to it.

    Only Kubernetes' own word counts: our view of the claims may be older than that of the volumes.
    """
    return status_of(volume).get("phase") in ("Released", "Failed")


def is_known(volume: Object) -> bool:
    """Whether Kubernetes' volume controller has seen the volume: a claim made earlier waits for its resync of 15 s."""
    return status_of(volume).get("phase") in ("Available", "Bound")


def is_bound(claimed: Object | None) -> bool:
    """Whether pods can use the claim now."""
    return claimed is not None and status_of(claimed).get("phase") == "Bound"


def is_lost(claimed: Object) -> bool:
    """Whether a claim has lost its volume for good."""
    return status_of(claimed).get("phase") == "Lost"


def _attributes(spec: RuntimeSpec, identity: Identity, settings: Settings) -> dict[str, str]:
    attributes = {
        names.ATTRIBUTE_PATH: str(spec.paths(settings.runtime_root).mount),
        names.ATTRIBUTE_MOUNT_TYPE: spec.engine.mount_type,
        names.ATTRIBUTE_NAMESPACE: spec.namespace,
        names.ATTRIBUTE_NAME: spec.name,
        names.ATTRIBUTE_LABEL_KEY: identity.fuse_label,
    }
    if spec.clean_policy not in ("", "OnRuntimeDeleted"):
        # The node plugin has no right to read runtimes, so what it must know of one travels with the volume.
        attributes[names.ATTRIBUTE_CLEAN_POLICY] = spec.clean_policy
    return attributes


def _marks(identity: Identity) -> dict[str, Any]:
    return {
        "labels": {identity.cache_label: "true", names.DATASET_ID_LABEL: identity.dataset_id},
        "annotations": {names.CREATED_BY_ANNOTATION: names.CREATED_BY},
    }


def _modes(wanted: DatasetSpec) -> list[str]:
    return list(wanted.access_modes) or [READ_ONLY]


def _size(dataset: Object) -> str:
    size = annotations_of(dataset).get(names.STORAGE_ANNOTATION)
    if size is None:
        return DEFAULT_SIZE
    parse_bytes(f"metadata.annotations[{names.STORAGE_ANNOTATION}]", size)
    return size
