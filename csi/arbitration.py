"""Whether a stage or publish agrees with what is staged and published already. Pure.

Everything asked for twice is allowed; the table of the CSI specification says what else is.
"""

from collections.abc import Mapping

from csi.records import Publication, RuntimeRecord, StagedVolume
from csi.values import AccessMode, PublishRequest, StageRequest
from datamodel.errors import AlreadyDifferent, Precondition

_ONE_TARGET = frozenset({AccessMode.SINGLE_NODE_SINGLE_WRITER})
"""Modes with one target per node. kubelet publishes SINGLE_NODE_WRITER (ReadWriteOnce) to many pods of a node."""


def check_stage(request: StageRequest, current: RuntimeRecord | None) -> None:
    """Compare with *current*, the record that *request.volume* is staged in.

    Raises:
        AlreadyDifferent: it is staged for another runtime, elsewhere, or with another capability.
    """
    if current is None:
        return
    staged = current.staged[request.volume]
    for what, before, now in (
        ("fluid_path", current.key, str(request.source.key)),
        ("staging_target_path", staged.staging_path, request.staging_path),
        ("volume_capability", staged.capability, request.capability),
    ):
        if before != now:
            raise AlreadyDifferent(f"volume {request.volume}: staged with {what} {before}, not {now}; unstage it first")


def check_publish(request: PublishRequest, record: RuntimeRecord | None, bound: frozenset[str]) -> None:
    """Compare with *record*, in which the volume is staged, and with *bound*, the targets that are mounted now.

    Raises:
        Precondition: the volume is not staged there, or is in use by its only allowed target.
        AlreadyDifferent: the target is published with other arguments.
    """
    staged: StagedVolume | None = record.staged.get(request.volume) if record else None
    if record is None or staged is None or staged.staging_path != request.staging_path:
        raise Precondition(f"volume {request.volume}: is not staged at {request.staging_path!r}; stage it first")
    if record.key != str(request.source.key):
        raise Precondition(f"volume {request.volume}: is staged for {record.key}, not for {request.source.key}")
    published = {target: item for target, item in record.published.items() if target in bound}
    wanted = publication_of(request)
    current = published.get(request.target)
    if current is not None and current != wanted:
        raise AlreadyDifferent(f"target_path: {request.target!r} is published with {current}; unpublish it first")
    if request.capability.mode in _ONE_TARGET:
        _check_only_target(request, published)


def publication_of(request: PublishRequest) -> Publication:
    """How the record remembers *request*."""
    return Publication(
        request.volume, request.capability.mode, request.read_only, request.source.sub_path, request.no_exec
    )


def _check_only_target(request: PublishRequest, published: Mapping[str, Publication]) -> None:
    others = [t for t, item in published.items() if item.volume == request.volume and t != request.target]
    if others:
        raise Precondition(f"volume {request.volume}: may have one target, and is published at {others[0]!r}")
