"""Runtime objects of each kind into `RuntimeSpec`. Pure; one function per kind, and a table.

To add a kind of runtime, add an `Engine` and an adapter: nothing else in the controller knows the difference.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from controller import tiers
from controller.engines import ALLUXIO, CACHE, Component, RuntimeSpec, Tier
from datamodel.alluxio import AlluxioComponent, AlluxioRuntimeSpec
from datamodel.cacheruntime import CacheComponent, CacheRuntimeSpec
from datamodel.errors import UserError
from datamodel.names import BUILTIN_CLASS
from datamodel.shapes import PodMetadata, Shape
from kube.objects import Object, name_of, namespace_of, spec_of

S = TypeVar("S", bound=Shape)

_JVM_ONLY = ("jvm_options", "properties", "ports", "network_mode")
_NOT_OURS = (
    "alluxio_version",
    "master",
    "job_master",
    "job_worker",
    "api_gateway",
    "init_users",
    "properties",
    "jvm_options",
    "data",
    "run_as",
    "hadoop_config",
)
_NOT_OURS_IN_FUSE = ("image", "image_tag", "image_pull_policy", "args", *_JVM_ONLY[:2], "network_mode")


def runtime_spec(runtime: Object) -> RuntimeSpec:
    """The normalised spec of a runtime object.

    Raises:
        UserError: the spec asks for something that can't be; names field, value and cure.
    """
    return _ADAPTERS[runtime["kind"]](runtime)


def decode(kind: type[S], item: Object) -> S:
    """The typed spec of a raw object.

    Raises:
        UserError: the object does not fit the type, which the CRD's schema should have refused.
    """
    try:
        return msgspec.convert(spec_of(item), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"spec: {error}") from error


def _alluxio(runtime: Object) -> RuntimeSpec:
    spec = decode(AlluxioRuntimeSpec, runtime)
    levels = tiers.classic_tiers("spec.tieredstore", spec.tieredstore.levels)
    pods = spec.pod_metadata
    return RuntimeSpec(
        engine=ALLUXIO,
        namespace=namespace_of(runtime),
        name=name_of(runtime),
        worker=Component(
            replicas=_first(spec.replicas, spec.worker.replicas, 1),
            resources=spec.worker.resources,
            env=_env(spec.worker.env),
            node_selector=spec.worker.node_selector,
            volume_mounts=spec.worker.volume_mounts,
            pull_secrets=spec.image_pull_secrets + spec.worker.image_pull_secrets,
            **_metadata(pods, spec.worker.pod_metadata),
        ),
        client=Component(
            resources=spec.fuse.resources,
            env=_env(spec.fuse.env),
            node_selector=spec.fuse.node_selector,
            volume_mounts=spec.fuse.volume_mounts,
            pull_secrets=spec.image_pull_secrets + spec.fuse.image_pull_secrets,
            **_metadata(pods, spec.fuse.pod_metadata),
        ),
        tiers=levels or tiers.DEFAULT,
        clean_policy=spec.fuse.clean_policy,
        volumes=spec.volumes,
        ignored=_alluxio_ignored(spec),
    )


def _alluxio_ignored(spec: AlluxioRuntimeSpec) -> tuple[str, ...]:
    return (
        *_changed("spec", spec, AlluxioRuntimeSpec(), _NOT_OURS),
        *_changed("spec.worker", spec.worker, AlluxioComponent(), _JVM_ONLY),
        *_changed("spec.fuse", spec.fuse, type(spec.fuse)(), _NOT_OURS_IN_FUSE),
    )


def _cache(runtime: Object) -> RuntimeSpec:
    spec = decode(CacheRuntimeSpec, runtime)
    _check_class(spec.runtime_class_name)
    return RuntimeSpec(
        engine=CACHE,
        namespace=namespace_of(runtime),
        name=name_of(runtime),
        worker=_cache_component(spec, spec.worker, 0 if spec.worker.disabled else spec.worker.replicas),
        client=_cache_component(spec, spec.client, 1),
        tiers=tiers.runtime_tiers("spec.worker.tieredStore", spec.worker.tiered_store.levels) or tiers.DEFAULT,
        client_tiers=_client_tiers(spec),
        clean_policy=spec.client.clean_policy,
        volumes=spec.volumes,
        ignored=_cache_ignored(spec),
    )


def _check_class(name: str) -> None:
    if name != BUILTIN_CLASS:
        raise UserError(
            f"spec.runtimeClassName: {name!r} is not a class this version can run; "
            f"set it to {BUILTIN_CLASS!r}, the built-in engine, which needs no CacheRuntimeClass object"
        )


def _client_tiers(spec: CacheRuntimeSpec) -> tuple[Tier, ...]:
    found = tiers.runtime_tiers("spec.client.tieredStore", spec.client.tiered_store.levels)
    if any(tier.host_path for tier in found):
        raise UserError(
            "spec.client.tieredStore: hostPath is not needed and not supported: "
            "a client's cache lives in the runtime's own folder on the node; use emptyDir to set its quota"
        )
    return found


def _cache_component(spec: CacheRuntimeSpec, part: CacheComponent, replicas: int) -> Component:
    version = part.runtime_version
    is_own_image = bool(version.image and version.image_tag)
    return Component(
        replicas=replicas,
        image=f"{version.image}:{version.image_tag}" if is_own_image else "",
        pull_policy=version.image_pull_policy,
        resources=part.resources,
        env=part.env,
        node_selector=part.node_selector,
        tolerations=part.tolerations,
        volume_mounts=part.volume_mounts,
        pull_secrets=spec.image_pull_secrets,
        **_metadata(spec.pod_metadata, part.pod_metadata),
    )


def _cache_ignored(spec: CacheRuntimeSpec) -> tuple[str, ...]:
    parts = (("master", spec.master), ("worker", spec.worker), ("client", spec.client))
    found = list(_changed("spec", spec, CacheRuntimeSpec(runtime_class_name=""), ("options",)))
    for name, part in parts:
        found += _changed(f"spec.{name}", part, type(part)(), ("options", "args"))
    return tuple(found)


def _changed(prefix: str, given: Any, default: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """JSON paths of the fields in *names* that were set to something."""
    wire = dict(zip(given.__struct_fields__, given.__struct_encode_fields__, strict=True))
    return tuple(f"{prefix}.{wire[name]}" for name in names if getattr(given, name) != getattr(default, name))


def _metadata(common: PodMetadata, own: PodMetadata) -> dict[str, Any]:
    return {"labels": common.labels | own.labels, "annotations": common.annotations | own.annotations}


def _env(values: dict[str, str]) -> tuple[dict[str, Any], ...]:
    return tuple({"name": name, "value": value} for name, value in sorted(values.items()))


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


_ADAPTERS: dict[str, Callable[[Object], RuntimeSpec]] = {ALLUXIO.kind: _alluxio, CACHE.kind: _cache}
