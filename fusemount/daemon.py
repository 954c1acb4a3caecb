"""One daemon process: `python -m fusemount.daemon`. Unprivileged; started again and again by the supervisor.

Everything it needs to go on where a killed one stopped is in the catalog and in the cache folder. With `--standby` it
gets as far as it can without touching anything, and waits to be told to take the place of one that ended.
"""

import argparse
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import trio

from blockcache.assemble import open_origins, read_config, read_token
from blockcache.catalog import Catalog, Node
from blockcache.dataset import CachedDataset, open_dataset
from blockcache.limits import raise_open_files
from broker.client import BrokerSession
from datamodel.client import ClientConfig
from datamodel.errors import HeadraceError, Unavailable
from fusemount import nodes, privileges, profile, shim
from fusemount.connect import attach
from fusemount.features import Connected, features_of, is_disabled
from fusemount.filesystem import FileSystem
from fusemount.inline import Inline
from fusemount.kernelcache import KernelCache
from fusemount.reporter import Reporter, await_go
from obs import logs

if TYPE_CHECKING:
    from fusemount.session import Connection

log = logs.get("fusemount")

_REPORT_PERIOD_S = 0.5
_BACKING_GRACE_S = 1.0
_BROKER_GRACE_S = 1.0


class Daemon:
    """Serves *config* over a broker's *session*, or where that is None by a mount of its own; `run` once."""

    def __init__(
        self,
        config: ClientConfig,
        loaded_shim: ModuleType | None,
        reporter: Reporter,
        session: BrokerSession | None,
    ) -> None:
        self._config, self._shim, self._reporter, self._session = config, loaded_shim, reporter, session
        self._connected = Connected(shim=loaded_shim is not None)
        self._filesystem: FileSystem | None = None
        self._kernel: KernelCache | None = None
        self._broker_lost = trio.Event()
        self._evicted: list[tuple[float, int]] = []

    async def run(self, mountpoint: str, *, allow_other: bool) -> None:
        """Serve until SIGTERM or SIGINT, or until the mount ends. *mountpoint* matters without a session only."""
        # pyfuse3 binds to libfuse when it is imported, so that has to wait for the shim.
        from fusemount.session import Brokered, Plain

        async with open_dataset(
            self._config,
            open_origins(self._config),
            on_complete=self._note_complete,
            on_evict=self._note_evicted,
            on_fetched=self._note_fetched,
            on_change=self._note_changed,
        ) as dataset:
            self._connected = await self._settle(dataset)
            self._filesystem = self._file_system(dataset)
            connection: Connection = Plain(mountpoint, allow_other=allow_other)
            if self._session is not None:
                connection = Brokered(self._session)
            connection.begin(self._filesystem, self._shim, self._note_ready)
            try:
                await self._serve(dataset, connection)
            finally:
                if self._kernel is not None:
                    self._kernel.close()
                connection.end()

    async def _settle(self, dataset: CachedDataset) -> Connected:
        """What holds for this mount from here on: its first daemon decides what it is tuned for."""
        has_shim = self._shim is not None
        wanted = await profile.choose(dataset)
        no_open = wanted == "small-files" and has_shim
        if self._session is None:
            return Connected(has_shim, wanted, no_open)
        return Connected(has_shim, wanted, self._session.settle(no_open=no_open), self._session.attached)

    def _file_system(self, dataset: CachedDataset) -> FileSystem:
        open_backing = self._session.open_backing if self._session and not self._connected.passthrough_problem else None
        return FileSystem(dataset, open_backing, no_open=self._connected.no_open, can_invalidate=True)

    def _note_ready(self, device: int) -> None:
        assert self._filesystem is not None
        self._kernel = KernelCache(device)
        if self._shim is not None:
            answer = Inline(self._filesystem, no_open=self._connected.no_open).answer
            self._shim.serve(device, nodes.INCARNATION_BITS, answer)
        if self._session is not None:
            self._session.ready()
        self._reporter.ready = True
        features, reasons = features_of(self._connected, "")
        log.info("daemon.serving", profile=features.profile, passthrough=features.passthrough, off=list(reasons))

    # ---- news of the dataset --------------------------------------------------------------------------------------

    def _note_complete(self, catalog: Catalog, node: Node) -> None:
        """In a fetch's thread: the next lookup of *node* gives an inode that the kernel reads by itself."""
        if self._filesystem is not None and self._filesystem.has_passthrough:
            catalog.turn(node.id, passthrough=True)
            self._drop_name(node)

    def _note_evicted(self, id: int, incarnation: int) -> None:
        node_id = nodes.number(id, incarnation)
        if self._filesystem is None or not self._filesystem.has_passthrough or not nodes.is_passthrough(node_id):
            return
        self._filesystem.note_evicted(node_id)
        self._evicted.append((trio.current_time() + _BACKING_GRACE_S, node_id))

    def _note_fetched(self, node: Node, content: memoryview) -> None:
        """In a fetch's thread: a small file is here ahead of its reader, so that the kernel may have it already."""
        if self._kernel is not None and self._connected.no_open and not is_disabled("push"):
            self._kernel.offer(nodes.node_id(node), content)

    def _note_changed(self, folder: int, names: tuple[str, ...]) -> None:
        if self._filesystem is not None:
            self._filesystem.note_changed(folder)
        if self._kernel is not None:
            self._kernel.drop_listing(nodes.number(folder, 0))
            for name in names:
                self._kernel.drop_name(nodes.number(folder, 0), name)

    def _drop_name(self, node: Node) -> None:
        if self._kernel is not None:
            self._kernel.drop_name(nodes.number(node.parent, 0), node.name)

    # ---- tasks ----------------------------------------------------------------------------------------------------

    async def _serve(self, dataset: CachedDataset, connection: "Connection") -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_for_ever, dataset)
            nursery.start_soon(self._end_on_signal, nursery.cancel_scope)
            if self._session is not None:
                nursery.start_soon(self._watch_broker, self._session)
            await connection.serve()
            log.info("mount.ended")
            nursery.cancel_scope.cancel()

    async def _watch_broker(self, session: BrokerSession) -> None:
        """Our fuse device keeps the connection alive without the broker that made it; we end when its readers do."""
        await trio.lowlevel.wait_readable(session)
        self._broker_lost.set()
        self._reporter.detached = True
        log.warning("broker.lost")

    async def _end_on_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for number in received:
                log.info("daemon.stopping", signal=signal.Signals(number).name)
                scope.cancel()
                return

    async def _report_for_ever(self, dataset: CachedDataset) -> None:
        assert self._filesystem is not None
        while True:
            self._release_backings()
            features, reasons = features_of(self._connected, self._filesystem.passthrough_problem)
            if self._kernel is not None:
                self._reporter.pushed_bytes = self._kernel.stored_bytes
            if not self._reporter.report(dataset, features, reasons):
                await self._outlive_supervisor()
            await trio.sleep(_REPORT_PERIOD_S)

    async def _outlive_supervisor(self) -> None:
        """If the broker went as well, as they do in one process, our readers have nobody left but us.

        Raises:
            Unavailable: the broker is there, and will have new daemons.
        """
        with trio.move_on_after(_BROKER_GRACE_S):
            await self._broker_lost.wait()
        if not self._broker_lost.is_set():
            raise Unavailable("the supervisor is gone")
        log.warning("supervisor.lost")
        self._reporter.forget_supervisor()

    def _release_backings(self) -> None:
        while self._evicted and self._evicted[0][0] <= trio.current_time():
            _, node_id = self._evicted.pop(0)
            assert self._session is not None
            if not self._broker_lost.is_set():
                self._session.close_backing(node_id)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--broker-socket", default="")
    parser.add_argument("--mountpoint", default="", help="plain mode: mount here, without a broker")
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--status-file", type=Path, help="plain mode: keep the mount's status here")
    parser.add_argument("--report-fd", type=int, default=-1)
    parser.add_argument("--standby", action="store_true", help="prepare, and wait for a word on --report-fd")
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    logs.configure(arguments.log_level)
    reports = socket.socket(fileno=arguments.report_fd) if arguments.report_fd >= 0 else None
    reporter = Reporter(reports, arguments.status_file)
    exit_code = 0
    raise_open_files()
    try:
        config = read_config(arguments.config)
        if arguments.broker_socket:  # fusermount3, which the plain mode mounts and unmounts by, is setuid
            privileges.drop(keep_reading=any(source.url.startswith(("local:", "file:")) for source in config.sources))
        loaded_shim = None if is_disabled("shim") else shim.load()
        if not arguments.standby or reports is None or _is_wanted(config, reports):
            trio.run(_run, arguments, config, loaded_shim, reporter, reports)
    except* HeadraceError as group:
        text = "; ".join(_texts(group))
        log.error("daemon.failed", error=text)
        reporter.last_words(text)
        exit_code = 1
    return exit_code


def _is_wanted(config: ClientConfig, reports: socket.socket) -> bool:
    """Import what takes time, then wait for the supervisor's word; False when it has gone instead."""
    import fusemount.session  # noqa: F401

    for origin in open_origins(config).values():
        origin.close()
    return await_go(reports)


async def _run(
    arguments: argparse.Namespace,
    config: ClientConfig,
    loaded_shim: ModuleType | None,
    reporter: Reporter,
    reports: socket.socket | None,
) -> None:
    session = None
    if arguments.broker_socket:
        token = read_token(config)
        session = await attach(arguments.broker_socket, token, reports, blocking=loaded_shim is None)
    await Daemon(config, loaded_shim, reporter, session).run(arguments.mountpoint, allow_other=arguments.allow_other)


def _texts(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [text for inner in error.exceptions for text in _texts(inner)]
    return [str(error)]


if __name__ == "__main__":
    sys.exit(main())
