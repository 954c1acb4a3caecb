"""`headrace mount -f FILE`: the manifests of a cluster, served on this machine.

A Dataset gives sources and owner. The runtime of the same name, if the file has one, gives the tiers: memory levels
become one memory tier, levels with folders keep theirs, others share the default cache folder. What only a cluster can
do (replicas, placement, other kinds of objects) does not matter here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from datamodel.client import Source
from datamodel.errors import UserError

if TYPE_CHECKING:
    from controller import engines
    from datamodel.dataset import DatasetSpec
    from datamodel.shapes import EncryptOption

_GROUP = "data.fluid.io/"


@dataclass(frozen=True, slots=True)
class TierFolder:
    """A tier on disk; *folder* is empty for the default cache folder."""

    folder: str
    quota_bytes: int
    high: float
    low: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one Dataset and its runtime say. Quotas are 0, and tiers empty, where they say nothing."""

    namespace: str
    name: str
    sources: tuple[Source, ...]
    owner: tuple[int, int] | None
    memory_bytes: int = 0
    tiers: tuple[TierFolder, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    """(source, option) pairs whose values are in Secrets of a cluster, so they must come from somewhere else here."""


def read_manifest(path: str, dataset: str = "") -> Manifest:
    """The Dataset in the YAML file *path*, that called *dataset* (`NAME` or `NAMESPACE/NAME`) if it has several.

    Raises:
        UserError: the file, its YAML or an object in it is wrong; names file, field, value and cure.
    """
    objects = [item for item in _documents(path) if str(item.get("apiVersion", "")).startswith(_GROUP)]
    item = _chosen(path, [item for item in objects if item.get("kind") == "Dataset"], dataset)
    namespace, name = _key(item)
    try:
        spec = _dataset_spec(item)
        return _with_runtime(
            Manifest(
                namespace=namespace,
                name=name,
                sources=_sources(spec),
                owner=(spec.owner.uid, spec.owner.gid) if spec.owner else None,
                missing=_kept_in_secrets(spec),
            ),
            [other for other in objects if other is not item and _key(other) == (namespace, name)],
        )
    except UserError as error:
        raise UserError(f"{path}: Dataset {name!r}: {error}") from error


def _documents(path: str) -> list[dict[str, Any]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with Path(path).open("rb") as file:
            documents = list(yaml.load_all(file, Loader=loader))
    except OSError as error:
        raise UserError(f"-f: {path!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"-f: {path!r} is not YAML: {' '.join(str(error).split())}") from error
    found: list[Any] = []
    for document in documents:
        if isinstance(document, dict):
            found += document.get("items") or [] if document.get("kind") == "List" else [document]
    return [item for item in found if isinstance(item, dict) and isinstance(item.get("metadata"), dict)]


def _chosen(path: str, datasets: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    names = ["/".join(_key(item)) for item in datasets]
    if not datasets:
        raise UserError(f"-f: {path!r} has no Dataset; it needs one with apiVersion data.fluid.io/v1alpha1")
    if not wanted and len(datasets) > 1:
        raise UserError(f"-f: {path!r} has several Datasets; choose one by --dataset {' or --dataset '.join(names)}")
    if not wanted:
        return datasets[0]
    matching = [item for item in datasets if wanted in ("/".join(_key(item)), _key(item)[1])]
    if len(matching) != 1:
        problem = "is not there" if not matching else "is in several namespaces"
        raise UserError(f"--dataset: {wanted!r} {problem}; {path!r} has {', '.join(names)}")
    return matching[0]


def _key(item: dict[str, Any]) -> tuple[str, str]:
    metadata = item["metadata"]
    return str(metadata.get("namespace") or "default"), str(metadata.get("name", ""))


def _dataset_spec(item: dict[str, Any]) -> "DatasetSpec":
    from datamodel.dataset import DatasetSpec

    try:
        return msgspec.convert(item.get("spec") or {}, DatasetSpec)
    except msgspec.ValidationError as error:
        raise UserError(f"spec: {error}") from error


def _sources(spec: "DatasetSpec") -> tuple[Source, ...]:
    from controller.sources import bound_sources

    return tuple(
        # Pods see a folder of the node elsewhere; here it is where it is.
        msgspec.structs.replace(bound.source, url=f"file://{quote(bound.host_folder)}")
        if bound.host_folder
        else bound.source
        for bound in bound_sources(spec)
    )


def _kept_in_secrets(spec: "DatasetSpec") -> tuple[tuple[str, str], ...]:
    found = []
    for mount in spec.mounts or ():
        name = mount.name or mount.path.strip("/") or "root"
        options: Sequence[EncryptOption] = (*spec.shared_encrypt_options, *mount.encrypt_options)
        found += [(name, option.name) for option in options]
    return tuple(dict.fromkeys(found))


def _with_runtime(manifest: Manifest, others: list[dict[str, Any]]) -> Manifest:
    from controller.adapters import runtime_spec
    from controller.engines import ENGINES, MEMORY

    runtimes = [item for item in others if item.get("kind") in ENGINES]
    if not runtimes:
        return manifest
    if len(runtimes) > 1:
        raise UserError(f"has {len(runtimes)} runtimes of its name; keep one")
    try:
        spec = runtime_spec(runtimes[0])
    except UserError as error:
        raise UserError(f"{runtimes[0]['kind']}: {error}") from error
    if not (spec.client_tiers or _says_tiers(runtimes[0])):
        return manifest  # what a cluster assumes then fits no machine in particular
    tiers = spec.client_tiers or spec.tiers
    return replace(
        manifest,
        memory_bytes=sum(tier.quota_bytes for tier in tiers if tier.medium == MEMORY),
        tiers=tuple(_tier_folder(manifest, tier) for tier in tiers if tier.medium != MEMORY),
    )


def _says_tiers(runtime: dict[str, Any]) -> bool:
    spec = runtime.get("spec") or {}
    worker = spec.get("worker") or {}
    return bool((spec.get("tieredstore") or {}).get("levels") or (worker.get("tieredStore") or {}).get("levels"))


def _tier_folder(manifest: Manifest, tier: "engines.Tier") -> TierFolder:
    # Beside what a worker of a cluster keeps there, never in it.
    folder = f"{tier.host_path}/headrace-mount/{manifest.namespace}/{manifest.name}" if tier.host_path else ""
    return TierFolder(folder, tier.quota_bytes, tier.high, tier.low)
