"""Small accessors to raw Kubernetes objects, so that nobody else spells out `["metadata"]["labels"]`."""

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def meta(item: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = item.get("metadata") or {}
    return result


def name_of(item: Mapping[str, Any]) -> str:
    return str(meta(item).get("name", ""))


def namespace_of(item: Mapping[str, Any]) -> str:
    return str(meta(item).get("namespace", ""))


def key_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """(namespace, name); the namespace of a cluster-scoped object is empty."""
    return namespace_of(item), name_of(item)


def uid_of(item: Mapping[str, Any]) -> str:
    return str(meta(item).get("uid", ""))


def labels_of(item: Mapping[str, Any]) -> dict[str, str]:
    result: dict[str, str] = meta(item).get("labels") or {}
    return result


def annotations_of(item: Mapping[str, Any]) -> dict[str, str]:
    result: dict[str, str] = meta(item).get("annotations") or {}
    return result


def finalizers_of(item: Mapping[str, Any]) -> list[str]:
    return list(meta(item).get("finalizers") or [])


def owners_of(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(meta(item).get("ownerReferences") or [])


def is_deleting(item: Mapping[str, Any]) -> bool:
    return bool(meta(item).get("deletionTimestamp"))


def spec_of(item: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = item.get("spec") or {}
    return result


def status_of(item: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = item.get("status") or {}
    return result


def is_owned_by(item: Mapping[str, Any], uid: str) -> bool:
    """Whether an owner reference of *item* names the object with *uid*."""
    return any(owner.get("uid") == uid for owner in owners_of(item))
