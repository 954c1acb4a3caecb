"""The core of the Node service: stage, publish and their opposites, on plain values.

Every call does all its steps again, whatever the records say, so a retry heals what was lost in between. Locks are
tried, never waited for: `volume` and `target` keep calls about one thing apart, `runtime` keeps the janitor out.
"""

from collections.abc import Callable

import msgspec

from broker.client import VolumeStatistics
from csi.arbitration import check_publish, check_stage, publication_of
from csi.deadline import Deadline
from csi.locks import TryLocks
from csi.ports import Broker, DaemonStarter, NodeLabels
from csi.records import Publication, Records, RuntimeRecord, StagedVolume
from csi.statistics import StatisticsCache
from csi.values import (
    AccessMode,
    PublishRequest,
    StageRequest,
    StatisticsRequest,
    UnpublishRequest,
    UnstageRequest,
    VolumeSource,
)
from datamodel.errors import DeadlineExceeded, HeadraceError, NotFound, Unavailable, UserError
from datamodel.names import TOKEN_KEY, RuntimeKey
from obs import logs

log = logs.get("csi")

QUICK_S = 5.0
"""How long a publish waits for the daemons that a stage has called, before it calls them again."""


def lock_of_runtime(key: RuntimeKey) -> str:
    return f"runtime {key}"


def _lock_of_volume(volume: str) -> str:
    return f"volume {volume}"


class NodeVolumes:
    """Stages and publishes volumes of this node. Thread-safe; every method may be called again at any time."""

    def __init__(
        self,
        broker: Broker,
        labels: NodeLabels,
        daemons: DaemonStarter,
        records: Records,
        locks: TryLocks,
        *,
        node: str,
        on_change: Callable[[], None],
    ) -> None:
        """*on_change* is called when something may have become free to clean up; it must be quick."""
        self._broker, self._labels, self._daemons = broker, labels, daemons
        self._records, self._locks = records, locks
        self._statistics = StatisticsCache(broker)
        self._node, self._on_change = node, on_change

    def stage(self, request: StageRequest, deadline: Deadline) -> None:
        """Keep the runtime's mount alive and call its fuse daemons to this node.

        Raises:
            AlreadyDifferent: staged with another capability, path or runtime.
            UserError: no token came with the request.
        """
        key = request.source.key
        with self._locks.held(exclusive=[_lock_of_volume(request.volume)], shared=[lock_of_runtime(key)]):
            current = self._records.of_volume(request.volume)
            check_stage(request, current)
            token = self._daemons.token(key, request.secrets)
            if not token:
                raise UserError(
                    f"secrets: {TOKEN_KEY} is missing; the PersistentVolume needs csi.nodeStageSecretRef with the "
                    f"Secret {key.name}-headrace-token of namespace {key.namespace}"
                )
            self._remember_stage(request)
            try:
                self._broker.mount(key, token, daemon_uid=self._daemons.uid, deadline_s=deadline.left_s())
            except Unavailable:
                raise  # kubelet tries again or unstages, so the record must stay
            except HeadraceError:
                if current is None:
                    self._records.forget(key, lambda record: _without_volume(record, request.volume))
                    self._on_change()
                raise
            # Only now: the fuse pod mounts the folders that the broker has just made.
            self._labels.put(request.source.label_key)
            self._daemons.start(key)
        log.info("volume.staged", volume=request.volume, runtime=str(key))

    def unstage(self, request: UnstageRequest) -> None:
        """Forget the volume. Mount and label stay as the clean policy says; the janitor sees to that."""
        with self._locks.held(exclusive=[_lock_of_volume(request.volume)]):
            record = self._records.of_volume(request.volume)
            if record is None:
                return
            self._records.forget(record.runtime, lambda record: _without_volume(record, request.volume))
        self._on_change()
        log.info("volume.unstaged", volume=request.volume, runtime=record.key)

    def publish(self, request: PublishRequest, deadline: Deadline) -> None:
        """Show the dataset at the target once daemons serve it.

        Raises:
            Precondition: not staged, or published elsewhere with a mode that allows one target.
            AlreadyDifferent: the target is published with other arguments.
            DeadlineExceeded: no daemon serves yet; the text says which pod to look at.
        """
        key, volume = request.source.key, _lock_of_volume(request.volume)
        # With one target allowed, two publishes at once could each find nothing published.
        is_single = request.capability.mode is AccessMode.SINGLE_NODE_SINGLE_WRITER
        exclusive = [f"target {request.target}", *([volume] if is_single else [])]
        shared = [lock_of_runtime(key), *([] if is_single else [volume])]
        with self._locks.held(exclusive=exclusive, shared=shared):
            check_publish(request, self._records.of_volume(request.volume), self._bound(key, deadline))
            self._wait_served(request, deadline)
            self._broker.bind(
                key,
                request.target,
                sub_path=request.source.sub_path,
                read_only=request.read_only,
                no_exec=request.no_exec,
                deadline_s=deadline.left_s(),
            )
            publication = publication_of(request)
            self._records.change(key, lambda record: _with_target(record, request.target, publication))
        log.info("volume.published", volume=request.volume, target=request.target, read_only=request.read_only)

    def unpublish(self, request: UnpublishRequest, deadline: Deadline) -> None:
        """Take the mounts off the target and remove its folder. Needs neither record, nor API, nor a living mount."""
        with self._locks.held(exclusive=[f"target {request.target}"]):
            self._broker.unbind(request.target, deadline.left_s())
            for record in self._records.all():
                if request.target in record.published:
                    self._records.forget(record.runtime, lambda record: _without_target(record, request.target))
        self._on_change()
        log.info("volume.unpublished", volume=request.volume, target=request.target)

    def statistics(self, request: StatisticsRequest, deadline: Deadline) -> VolumeStatistics:
        """Size, use and health of the volume, at most a few seconds old.

        Raises:
            NotFound: the volume, or the volume at that path, is unknown here.
        """
        record = self._records.of_volume(request.volume)
        if record is None:
            raise NotFound(f"volume {request.volume}: is not staged on this node")
        targets = {target for target, item in record.published.items() if item.volume == request.volume}
        if request.path not in targets | {record.staged[request.volume].staging_path}:
            raise NotFound(f"volume {request.volume}: is not at {request.path!r}")
        return self._statistics.get(record.runtime, deadline)

    def _remember_stage(self, request: StageRequest) -> None:
        source = request.source
        record = self._records.get(source.key) or RuntimeRecord(str(source.key), source.label_key)
        staged = {**record.staged, request.volume: StagedVolume(request.staging_path, request.capability)}
        changes = {"label_key": source.label_key, "clean_policy": source.clean_policy, "staged": staged}
        self._records.put(msgspec.structs.replace(record, **changes))

    def _bound(self, key: RuntimeKey, deadline: Deadline) -> frozenset[str]:
        runtimes = self._broker.runtimes(deadline.left_s())
        return frozenset(target for runtime in runtimes if runtime.key == key for target in runtime.binds)

    def _wait_served(self, request: PublishRequest, deadline: Deadline) -> None:
        source = request.source
        token = self._daemons.token(source.key, request.secrets)
        if token:
            # The broker may have been restarted since the stage, or the dataset made again with another token.
            self._broker.mount(source.key, token, daemon_uid=self._daemons.uid, deadline_s=deadline.left_s())
        try:
            self._await_daemon(request.volume, source, deadline)
        except NotFound as error:
            raise Unavailable(
                f"runtime {source.key}: the mount broker was restarted and does not know it; "
                "delete the pods of this volume on this node, so that it is staged again"
            ) from error

    def _await_daemon(self, volume: str, source: VolumeSource, deadline: Deadline) -> None:
        if not self._labels.is_missing(source.label_key):
            try:
                return self._broker.wait_served(source.key, deadline.left_s(QUICK_S))
            except DeadlineExceeded:
                log.info("volume.awaited", volume=volume, runtime=str(source.key))
        # A dataset deleted and made again while kubelet keeps it staged loses its label without a new stage.
        self._labels.put(source.label_key)
        self._daemons.start(source.key)
        try:
            return self._broker.wait_served(source.key, deadline.left_s())
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"runtime {source.key}: its fuse pod on this node does not serve yet; look at: kubectl get pods "
                f"-n {source.key.namespace} -l {pod_selector(source.key)} --field-selector spec.nodeName={self._node}"
            ) from error


def pod_selector(key: RuntimeKey) -> str:
    """Label selector of the fuse pods of *key*."""
    if key.engine == "cache":
        return f"cacheruntime.fluid.io/component-name={key.name}-client"
    return f"release={key.name},role={key.engine}-fuse"


def _without_volume(record: RuntimeRecord, volume: str) -> RuntimeRecord:
    staged = {name: item for name, item in record.staged.items() if name != volume}
    return msgspec.structs.replace(record, staged=staged)


def _with_target(record: RuntimeRecord, target: str, publication: Publication) -> RuntimeRecord:
    return msgspec.structs.replace(record, published={**record.published, target: publication})


def _without_target(record: RuntimeRecord, target: str) -> RuntimeRecord:
    published = {path: item for path, item in record.published.items() if path != target}
    return msgspec.structs.replace(record, published=published)
