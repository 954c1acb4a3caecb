"""The settings that worker and fuse pods get, as a ConfigMap. Pure."""

import msgspec

from controller.engines import DEFAULT_CLIENT_TIER_BYTES, WORKER_PORT, RuntimeSpec, Tier
from controller.identity import Identity, labels, owner_reference
from controller.sources import BoundSource
from datamodel import client
from datamodel.dataset import DatasetSpec
from datamodel.names import TOKEN_KEY
from kube.objects import Object

CLIENT_FILE = "client.json"
WORKER_FILE = "worker.json"
CONFIG_FOLDER = "/etc/headrace"
TOKEN_FOLDER = "/etc/headrace-token"
CACHE_FOLDER = "/var/cache/headrace"


def tier_folder(index: int) -> str:
    """Where a worker's tier is mounted."""
    return f"{CACHE_FOLDER}/tier-{index}"


def client_config(spec: RuntimeSpec, dataset: DatasetSpec, sources: tuple[BoundSource, ...]) -> client.ClientConfig:
    """What a fuse pod serves: its cache is one folder of the node, whatever the workers' tiers are."""
    tiers = spec.client_tiers or (Tier("SSD", DEFAULT_CLIENT_TIER_BYTES),)
    quota = sum(tier.quota_bytes for tier in tiers)
    pattern = f"{spec.worker_set}-{{i}}.{spec.service}.{spec.namespace}.svc"
    return client.ClientConfig(
        dataset=f"{spec.namespace}/{spec.name}",
        sources=tuple(bound.source for bound in sources),
        tiers=(client.Tier(path=CACHE_FOLDER, quota_bytes=quota, high=tiers[0].high, low=tiers[0].low),),
        workers=client.Workers(
            replicas=spec.worker.replicas,
            host_pattern=pattern if spec.worker.replicas else "",
            port=WORKER_PORT if spec.worker.replicas else 0,
        ),
        token_file=f"{TOKEN_FOLDER}/{TOKEN_KEY}",
        owner_uid=dataset.owner.uid if dataset.owner else 0,
        owner_gid=dataset.owner.gid if dataset.owner else 0,
    )


def worker_config(spec: RuntimeSpec, served: client.ClientConfig) -> client.ClientConfig:
    """The same for a worker, with its own tiers."""
    tiers = tuple(
        client.Tier(path=tier_folder(index), quota_bytes=tier.quota_bytes, high=tier.high, low=tier.low)
        for index, tier in enumerate(spec.tiers)
    )
    return msgspec.structs.replace(served, tiers=tiers)


def restart_mark(served: client.ClientConfig) -> str:
    """Text that changes when workers must start anew; not with their number, which would empty all caches."""
    return client.encode_client_config(msgspec.structs.replace(served, workers=client.Workers()))


def config_map(spec: RuntimeSpec, identity: Identity, runtime: Object, served: client.ClientConfig) -> Object:
    """The ConfigMap that both kinds of pod mount."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": spec.config_map,
            "namespace": spec.namespace,
            "labels": labels(spec, identity, "config"),
            "ownerReferences": [owner_reference(runtime)],
        },
        "data": {
            CLIENT_FILE: client.encode_client_config(served),
            WORKER_FILE: client.encode_client_config(worker_config(spec, served)),
        },
    }


def secret(spec: RuntimeSpec, identity: Identity, runtime: Object, token: str) -> Object:
    """The runtime's token. It is only ever created: writing it again would lock out the daemons that run."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": spec.secret,
            "namespace": spec.namespace,
            "labels": labels(spec, identity, "token"),
            "ownerReferences": [owner_reference(runtime)],
        },
        "type": "Opaque",
        "stringData": {TOKEN_KEY: token},
    }
