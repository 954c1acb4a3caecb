"""Pod templates of the fuse and worker pods, and the pods that clean nodes. Pure.

Both kinds of daemon run as nobody, without capabilities, on a read-only root. Only two short-lived containers are root,
with one capability each: the one that hands a fresh host folder to nobody, and the one that removes it in the end.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from controller import config
from controller.engines import (
    FUSE_HEALTH_PORT,
    MEMORY,
    WORKER_HEALTH_PORT,
    WORKER_PORT,
    Component,
    RuntimeSpec,
)
from controller.identity import CLEANUP, Identity, labels
from controller.settings import Settings
from controller.sources import BoundSource
from datamodel.errors import UserError
from datamodel.names import DAEMON_UID
from datamodel.quantity import parse_bytes, show_bytes_exactly
from kube.objects import Object

RUN_FOLDER = "/run/headrace"
CLEANUP_ANNOTATION = "headrace.io/cleans"
"""On clean-up pods: <namespace>/<name> of the runtime."""
_OURS = "headrace-"
"""Prefix of our volumes, so that they never clash with a user's."""

POD_SECURITY: dict[str, Any] = {
    "runAsUser": DAEMON_UID,
    "runAsGroup": DAEMON_UID,
    "runAsNonRoot": True,
    "fsGroup": DAEMON_UID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def root_security(capability: str) -> dict[str, Any]:
    """Security of a short-lived container that is root with one capability."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": [capability]},
        "readOnlyRootFilesystem": True,
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
    }


def digest(text: str) -> str:
    """Short fingerprint, for annotations and names."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def quantity(count: int) -> str:
    """Bytes as Kubernetes writes them, e.g. 2Gi."""
    return show_bytes_exactly(count).removesuffix("B")


def fuse_pod(spec: RuntimeSpec, settings: Settings, sources: tuple[BoundSource, ...]) -> dict[str, Any]:
    """Spec of a fuse pod: it serves the mount that the node's broker holds."""
    paths = spec.paths(settings.runtime_root)
    volumes = {
        **_common_volumes(spec, config.CLIENT_FILE),
        "run": ({"hostPath": {"path": str(paths.run), "type": "Directory"}}, RUN_FOLDER, False),
        "cache": ({"hostPath": {"path": str(paths.cache), "type": "Directory"}}, config.CACHE_FOLDER, False),
        **_source_volumes(sources),
    }
    container = _container("fuse", spec.client, settings, volumes)
    container["args"] = [
        "--config", f"{config.CONFIG_FOLDER}/{config.CLIENT_FILE}",
        "--broker-socket", f"{RUN_FOLDER}/broker.sock",
        "--health-port", str(FUSE_HEALTH_PORT),
    ]  # fmt: skip
    container["env"] = [
        {"name": "FLUID_RUNTIME_TYPE", "value": spec.engine.type},
        {"name": "FLUID_RUNTIME_NS", "value": spec.namespace},
        {"name": "FLUID_RUNTIME_NAME", "value": spec.name},
        *spec.client.env,
    ]
    container["ports"] = [{"name": "health", "containerPort": FUSE_HEALTH_PORT, "protocol": "TCP"}]
    container.update(_probes(FUSE_HEALTH_PORT))
    pod = _pod(spec, spec.client, settings, volumes, container)
    # Where a reader is, its file system must be able to start: no taint and no eviction comes before it.
    pod["tolerations"] = [{"operator": "Exists"}]
    if settings.critical_fuse:
        pod["priorityClassName"] = "system-node-critical"
    return pod


def worker_pod(spec: RuntimeSpec, settings: Settings, sources: tuple[BoundSource, ...]) -> dict[str, Any]:
    """Spec of a worker pod, without its placement."""
    tiers = _tier_volumes(spec)
    volumes = {**_common_volumes(spec, config.WORKER_FILE), **tiers, **_source_volumes(sources)}
    container = _container("worker", spec.worker, settings, volumes)
    container["args"] = [
        "--config", f"{config.CONFIG_FOLDER}/{config.CLIENT_FILE}",
        "--port", str(WORKER_PORT),
        "--health-port", str(WORKER_HEALTH_PORT),
    ]  # fmt: skip
    container["env"] = list(spec.worker.env)
    container["resources"] = worker_resources(spec)
    container["ports"] = [
        {"name": "blocks", "containerPort": WORKER_PORT, "protocol": "TCP"},
        {"name": "health", "containerPort": WORKER_HEALTH_PORT, "protocol": "TCP"},
    ]
    container.update(_probes(WORKER_HEALTH_PORT))
    pod = _pod(spec, spec.worker, settings, volumes, container)
    folders = [mount for source, mount, _ in tiers.values() if "hostPath" in source]
    if folders:
        pod["initContainers"] = [_prepare(spec, settings, tiers, folders)]
    return pod


def worker_resources(spec: RuntimeSpec) -> dict[str, Any]:
    """The worker's resources, with the memory tiers added to what it asks for.

    Raises:
        UserError: then the request is above the limit.
    """
    given = spec.worker.resources
    if not spec.memory_bytes:
        return given
    field = "spec.worker.resources"
    asked = parse_bytes(f"{field}.requests.memory", str((given.get("requests") or {}).get("memory", "0")))
    total = asked + spec.memory_bytes
    shown = quantity(total)
    limit = (given.get("limits") or {}).get("memory")
    if limit is not None and parse_bytes(f"{field}.limits.memory", str(limit)) < total:
        raise UserError(
            f"{field}.limits.memory: {limit} is below {shown}, the request plus the memory tier; raise the limit"
        )
    return {**given, "requests": {**(given.get("requests") or {}), "memory": shown}}


def cleanup_pod(spec: RuntimeSpec, identity: Identity, settings: Settings, node: str) -> Object:
    """A pod that removes this runtime's cache folders from *node*.

    It runs in our own namespace, since none can be made in a namespace that is going away, and with our own image,
    since it is root. It has no owner: the garbage collector could kill it before it has done anything.
    """
    volumes = {
        f"tier-{index}": ({"hostPath": {"path": folder, "type": "DirectoryOrCreate"}}, f"/tier/{index}", False)
        for index, folder in enumerate(spec.host_folders)
    }
    container = _container("cleanup", Component(), settings, volumes)
    container["command"] = ["headrace", "worker"]
    container["args"] = [
        "--remove-tier",
        *(f"{mount}/{spec.namespace}/{spec.name}" for _, mount, _ in volumes.values()),
    ]
    container["securityContext"] = root_security("DAC_OVERRIDE")
    pod = _pod(spec, Component(), settings, volumes, container)
    pod.update(
        nodeName=node,
        restartPolicy="Never",
        activeDeadlineSeconds=int(settings.cleanup_limit_s),
        tolerations=[{"operator": "Exists"}],
        securityContext={"seccompProfile": {"type": "RuntimeDefault"}},
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": cleanup_name(identity, node),
            "namespace": settings.namespace,
            "labels": labels(spec, identity, CLEANUP),
            "annotations": {CLEANUP_ANNOTATION: f"{spec.namespace}/{spec.name}"},
        },
        "spec": pod,
    }


def cleanup_name(identity: Identity, node: str) -> str:
    """Name of the pod that cleans *node*, the same at each try."""
    return f"cleanup-{identity.name}-{digest(f'{identity.namespace}/{identity.name}/{node}')[:10]}"


Volumes = Mapping[str, tuple[dict[str, Any], str, bool]]
"""Name without our prefix → (source of the volume, where it is mounted, whether read-only)."""


def _common_volumes(spec: RuntimeSpec, file: str) -> Volumes:
    items = [{"key": file, "path": config.CLIENT_FILE}]
    secret = {"secretName": spec.secret, "defaultMode": 0o440}
    return {
        "config": ({"configMap": {"name": spec.config_map, "items": items}}, config.CONFIG_FOLDER, True),
        "token": ({"secret": secret}, config.TOKEN_FOLDER, True),
        "tmp": ({"emptyDir": {}}, "/tmp", False),
    }


def _source_volumes(sources: tuple[BoundSource, ...]) -> Volumes:
    local = [bound for bound in sources if bound.host_folder]
    return {
        f"source-{index}": ({"hostPath": {"path": bound.host_folder, "type": "Directory"}}, bound.pod_folder, True)
        for index, bound in enumerate(local)
    }


def _tier_volumes(spec: RuntimeSpec) -> Volumes:
    volumes: dict[str, tuple[dict[str, Any], str, bool]] = {}
    for index, tier in enumerate(spec.tiers):
        empty: dict[str, Any] = {"sizeLimit": quantity(tier.quota_bytes)}
        if tier.medium == MEMORY:
            empty["medium"] = "Memory"
        folder = f"{tier.host_path}/{spec.namespace}/{spec.name}"
        own = {"hostPath": {"path": folder, "type": "DirectoryOrCreate"}}
        volumes[f"tier-{index}"] = (own if tier.host_path else {"emptyDir": empty}, config.tier_folder(index), False)
    return volumes


def _prepare(spec: RuntimeSpec, settings: Settings, tiers: Volumes, folders: list[str]) -> dict[str, Any]:
    """Kubelet makes a missing host folder root's; this hands it to the daemon's user."""
    mine = {name: volume for name, volume in tiers.items() if volume[1] in folders}
    container = _container("prepare", Component(image=spec.worker.image), settings, mine)
    container["command"] = ["headrace", "worker"]
    container["args"] = ["--prepare-tier", *folders]
    container["securityContext"] = root_security("CHOWN")
    return container


def _container(name: str, component: Component, settings: Settings, volumes: Volumes) -> dict[str, Any]:
    mounts = [
        {"name": f"{_OURS}{volume}", "mountPath": path, **({"readOnly": True} if is_read_only else {})}
        for volume, (_, path, is_read_only) in volumes.items()
    ]
    return {
        "name": name,
        "image": component.image or settings.image,
        "imagePullPolicy": component.pull_policy or settings.pull_policy,
        "command": ["headrace", name],
        "resources": component.resources,
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [*mounts, *component.volume_mounts],
    }


def _pod(
    spec: RuntimeSpec, component: Component, settings: Settings, volumes: Volumes, container: dict[str, Any]
) -> dict[str, Any]:
    mounted = {mount.get("name") for mount in component.volume_mounts}
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
        "volumes": [
            *({"name": f"{_OURS}{name}", **source} for name, (source, _, _) in volumes.items()),
            *(volume for volume in spec.volumes if volume.get("name") in mounted),
        ],
    }
    secrets = [*({"name": name} for name in settings.pull_secrets), *component.pull_secrets]
    if secrets:
        pod["imagePullSecrets"] = secrets
    return pod


def _probes(port: int) -> dict[str, Any]:
    return {
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": port}, "periodSeconds": 1, "timeoutSeconds": 5},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": port},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }
