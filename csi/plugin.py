"""Puts the parts together: two gRPC servers, the janitor, health. Starts them in order and ends them in order."""

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from csi.identity import IdentityService
from csi.interceptor import SLOTS, Barrier
from csi.janitor import Janitor
from csi.locks import TryLocks
from csi.node import NodeService
from csi.ports import Broker, DaemonStarter, NodeLabels
from csi.records import Records
from csi.registration import RegistrationService
from csi.requests import RequestRules
from csi.sockets import BoundSocket
from csi.volumes import NodeVolumes
from datamodel.errors import HeadraceError
from obs import logs
from obs.health import HealthServer
from protos import csi_pb2_grpc, pluginregistration_pb2_grpc

log = logs.get("csi")

GRACE_S = 20.0
"""What calls in flight get at the end; the pod has 30 s."""
_PROBE_S = 1.0
_SPARE_THREADS = 16
_MESSAGE_BYTES = 1 << 20
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8192),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the command line decides."""

    driver: str
    version: str
    node: str
    socket: Path
    plugin_path: str
    """Where kubelet finds *socket*."""
    registration_dir: Path | None
    """None: kubelet is not told, for a plugin that something else drives."""
    runtime_root: str
    kubelet_dir: Path
    target_roots: tuple[str, ...]
    state_dir: Path
    resync_s: float
    health_port: int | None


class _Watched(Protocol):
    """Labels that can tell when one went away."""

    def watch(self, on_change: Callable[[], None]) -> None: ...
    def close(self) -> None: ...


class Plugin:
    """The node plugin, from `start()` to `close()`. *stop* is set when it should end, with *exit_code* saying why."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        labels: NodeLabels,
        daemons: DaemonStarter,
        watched: _Watched | None = None,
    ) -> None:
        self.stop, self.exit_code = threading.Event(), 0
        self._settings, self._broker, self._daemons, self._watched = settings, broker, daemons, watched
        self._records, locks = Records(settings.state_dir / "runtimes"), TryLocks()
        self._janitor = Janitor(
            broker, labels, daemons, self._records, locks, kubelet_dir=settings.kubelet_dir, resync_s=settings.resync_s
        )
        volumes = NodeVolumes(
            broker, labels, daemons, self._records, locks, node=settings.node, on_change=self._janitor.wake
        )
        rules = RequestRules(settings.runtime_root, settings.target_roots)
        self._pool = ThreadPoolExecutor(SLOTS + _SPARE_THREADS, "rpc")
        self._server = grpc.server(self._pool, interceptors=[Barrier()], options=_OPTIONS)
        identity = IdentityService(settings.driver, settings.version, lambda: not self._broker_problem())
        csi_pb2_grpc.add_IdentityServicer_to_server(identity, self._server)
        csi_pb2_grpc.add_NodeServicer_to_server(NodeService(settings.node, rules, volumes), self._server)
        self._registration = RegistrationService(settings.driver, settings.plugin_path, self._give_up)
        self._registrar = grpc.server(ThreadPoolExecutor(4, "registrar"), interceptors=[Barrier()], options=_OPTIONS)
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(self._registration, self._registrar)
        self._sockets: list[BoundSocket] = []
        self._health: HealthServer | None = None

    @property
    def health_port(self) -> int:
        return self._health.port if self._health else 0

    def start(self) -> None:
        """Open the sockets; kubelet's last, because it calls back at once."""
        settings = self._settings
        for record in self._records.all():
            if record.staged:
                self._daemons.start(record.runtime)
        self._janitor.start()
        if self._watched is not None:
            self._watched.watch(self._janitor.wake)
        self._sockets.append(BoundSocket(self._server, settings.socket))
        self._server.start()
        if settings.health_port is not None:
            self._health = HealthServer("", settings.health_port, healthy=self.problem, ready=self._unready)
        if settings.registration_dir is not None:
            path = settings.registration_dir / f"{settings.driver}-reg.sock"
            self._sockets.append(BoundSocket(self._registrar, path))
        self._registrar.start()
        log.info("plugin.started", driver=settings.driver, node=settings.node, socket=str(settings.socket))

    def close(self, grace_s: float = GRACE_S) -> None:
        """Take no more calls, let those in flight finish within *grace_s*, leave no socket behind."""
        ended = [server.stop(grace_s) for server in (self._registrar, self._server)]
        for event in ended:
            event.wait()
        for bound in self._sockets:
            bound.remove()
        if self._watched is not None:
            self._watched.close()
        if self._janitor.is_running:
            self._janitor.close()
        if self._health is not None:
            self._health.close()
        self._pool.shutdown()
        log.info("plugin.ended", exit_code=self.exit_code)

    def problem(self) -> str:
        """What keeps us from serving kubelet's calls; empty when nothing does."""
        try:
            self._pool.submit(_nothing).result(_PROBE_S)
        except concurrent.futures.TimeoutError:
            return "every thread for calls is busy"
        if not self._janitor.is_running:
            return "the janitor has ended; see the log"
        return self._broker_problem()

    def _broker_problem(self) -> str:
        try:
            self._broker.runtimes(_PROBE_S)
        except HeadraceError as error:
            return str(error)
        return ""

    def _unready(self) -> str:
        if self._settings.registration_dir is None or self._registration.is_registered:
            return ""
        return "kubelet has not registered the driver yet"

    def _give_up(self) -> None:
        """kubelet looks at a socket once; a new one, made by our restart, is what makes it look again."""
        self.exit_code = 1
        self.stop.set()


def _nothing() -> None:
    """Shows that a thread of the pool is free."""
