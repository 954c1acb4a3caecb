"""A Dataset's mounts into the sources that daemons read. Pure."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from controller.tiers import check_folder
from datamodel.client import SOURCE_SCHEMES, Source, check_sources
from datamodel.dataset import DatasetSpec, Mount
from datamodel.errors import UserError

SOURCE_FOLDER = "/var/lib/headrace/sources"
"""Where folders of the node appear in our pods: a place of our own, so that no source can hide a system folder."""


@dataclass(frozen=True)
class BoundSource:
    """A source, and the folder of the node that must be mounted for it ("" for remote ones)."""

    source: Source
    host_folder: str = ""
    pod_folder: str = ""


def bound_sources(spec: DatasetSpec) -> tuple[BoundSource, ...]:
    """Sources of the Dataset.

    Raises:
        UserError: no mount, an unsupported scheme, a bad path, or two at one place; names field, value and cure.
    """
    if not spec.mounts:
        raise UserError("spec.mounts: empty; name at least one source, e.g. mountPoint: https://mirror.example/data/")
    found = tuple(_source(index, mount, spec) for index, mount in enumerate(spec.mounts))
    names = [bound.source.name for bound in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"spec.mounts[{index}].name: {name!r} is used twice; names must differ")
    try:
        check_sources(tuple(bound.source for bound in found))
    except UserError as error:
        raise UserError(f"spec.mounts: {error}") from error
    return found


def secret_options(spec: DatasetSpec) -> tuple[str, ...]:
    """Fields with options kept in Secrets, which no supported source takes."""
    fields = ["spec.sharedEncryptOptions"] if spec.shared_encrypt_options else []
    for index, mount in enumerate(spec.mounts or ()):
        if mount.encrypt_options:
            fields.append(f"spec.mounts[{index}].encryptOptions")
    return tuple(fields)


def _source(index: int, mount: Mount, spec: DatasetSpec) -> BoundSource:
    field = f"spec.mounts[{index}]"
    path = _path(field, mount)
    name = mount.name or path.strip("/") or "root"
    options = spec.shared_options | mount.options
    url = urlsplit(mount.mount_point)
    if url.scheme not in SOURCE_SCHEMES or "://" not in mount.mount_point:
        known = ", ".join(f"{scheme}://" for scheme in SOURCE_SCHEMES)
        raise UserError(f"{field}.mountPoint: {mount.mount_point!r} has no supported scheme; use one of {known}")
    if url.scheme not in ("local", "file"):
        if not url.netloc:
            raise UserError(f"{field}.mountPoint: {mount.mount_point!r} names no host")
        return BoundSource(Source(name=name, url=mount.mount_point, path=path, options=options))
    if url.netloc:
        raise UserError(f"{field}.mountPoint: {mount.mount_point!r} needs three slashes: {url.scheme}:///folder")
    folder = check_folder(f"{field}.mountPoint", url.path)
    inside = f"{SOURCE_FOLDER}/{index}"
    return BoundSource(Source(name=name, url=f"file://{inside}", path=path, options=options), folder, inside)


def _path(field: str, mount: Mount) -> str:
    if not mount.path and not mount.name:
        raise UserError(f"{field}.name: missing; give the source a name, it becomes a folder of the Dataset")
    if not mount.path:
        if "/" in mount.name or mount.name in (".", ".."):
            raise UserError(f"{field}.name: {mount.name!r} can't be a folder name; set {field}.path or another name")
        return f"/{mount.name}"
    if not mount.path.startswith("/") or any(part in (".", "..") for part in mount.path.split("/")):
        raise UserError(f"{field}.path: {mount.path!r} must be absolute and without '.' or '..', e.g. /{mount.name}")
    return mount.path.rstrip("/") or "/"
