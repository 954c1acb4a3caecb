"""One daemon process: `python -m fusemount.daemon`. Unprivileged; started again and again by the supervisor.

Everything it needs to go on where a killed one stopped is in the catalog and in the cache folder.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec
import psutil
import trio

from blockcache.assemble import open_origins, read_config, read_token
from blockcache.catalog import Catalog, Node
from blockcache.dataset import CachedDataset, open_dataset
from blockcache.limits import raise_open_files
from broker.client import BrokerSession
from datamodel.client import ClientConfig
from datamodel.errors import HeadraceError, Unavailable
from fusemount import nodes, privileges, shim
from fusemount.filesystem import FileSystem
from fusemount.report import LastWords, Process, Reads, Report, SourceHealth, status_json, summarize
from obs import logs

log = logs.get("fusemount")

_REPORT_PERIOD_S = 0.5
_ATTACH_DEADLINE_S = 10.0
_BACKING_GRACE_S = 1.0
_BROKER_GRACE_S = 1.0


class Daemon:
    """Serves *config* over a broker *session*, or by a mount of its own on *mountpoint*."""

    def __init__(
        self,
        config: ClientConfig,
        loaded_shim: ModuleType | None,
        reports: socket.socket | None,
        status_file: Path | None = None,
    ) -> None:
        self._config, self._shim, self._reports, self._status_file = config, loaded_shim, reports, status_file
        if loaded_shim is not None:
            loaded_shim.set_incarnation_bits(nodes.INCARNATION_BITS)
        self._session: BrokerSession | None = None
        self._ready = False
        self._broker_lost = trio.Event()
        self._evicted: list[tuple[float, int]] = []

    async def run(self, broker_socket: str, mountpoint: str, *, allow_other: bool) -> None:
        """Serve until SIGTERM or SIGINT, or until the mount ends."""
        if broker_socket:
            token = read_token(self._config)
            self._session = await _attach(broker_socket, token, self._reports, blocking=self._shim is None)
        origins = open_origins(self._config)
        async with open_dataset(
            self._config, origins, on_complete=self._note_complete, on_evict=self._note_evicted
        ) as dataset:
            # pyfuse3 binds to libfuse when it is imported, so that has to wait for the shim.
            import pyfuse3

            from fusemount.adapter import Adapter
            from fusemount.session import Handover, begin_plain

            open_backing = self._session.open_backing if self._session and self._has_passthrough else None
            filesystem = FileSystem(dataset, open_backing)
            if self._session is not None:
                handover = Handover(self._session)
                handover.begin(Adapter(filesystem, self._shim, lambda: self._take_over(handover.take_over)))
            else:
                begin_plain(Adapter(filesystem, None, self._note_ready), mountpoint, allow_other=allow_other)
            try:
                await self._serve(dataset, pyfuse3.main)
            finally:
                # With the broker the mount goes on without us; closing would only make libfuse touch it.
                if self._session is None:
                    pyfuse3.close(unmount=True)

    @property
    def _has_passthrough(self) -> bool:
        if "passthrough" in os.environ.get("HEADRACE_DISABLE", "").split(","):
            return False  # so that a benchmark, or a doubt, can compare with the plain path
        return self._session is not None and self._session.has_passthrough and self._shim is not None

    def _note_complete(self, catalog: Catalog, node: Node) -> None:
        """In a fetch's thread: the next lookup of *node* gives an inode that the kernel reads by itself."""
        if self._has_passthrough:
            catalog.turn(node.id, passthrough=True)

    def _take_over(self, take_over: Callable[[], None]) -> None:
        take_over()
        self._note_ready()

    def _note_ready(self) -> None:
        self._ready = True
        log.info("daemon.serving", passthrough=self._has_passthrough, shim=self._shim is not None)

    def _note_evicted(self, id: int, incarnation: int) -> None:
        node_id = nodes.number(id, incarnation)
        if self._has_passthrough and nodes.is_passthrough(node_id):
            self._evicted.append((trio.current_time() + _BACKING_GRACE_S, node_id))

    async def _serve(self, dataset: CachedDataset, main: Callable[[], object]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_for_ever, dataset)
            nursery.start_soon(self._end_on_signal, nursery.cancel_scope)
            if self._session is not None:
                nursery.start_soon(self._watch_broker, self._session)
            await main()  # type: ignore[misc]  # pyfuse3.main is a coroutine function without types
            log.info("mount.ended")
            nursery.cancel_scope.cancel()

    async def _watch_broker(self, session: BrokerSession) -> None:
        """Our fuse device keeps the connection alive without the broker that made it; we end when its readers do."""
        await trio.lowlevel.wait_readable(session)
        self._broker_lost.set()
        log.warning("broker.lost")

    async def _end_on_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for number in received:
                log.info("daemon.stopping", signal=signal.Signals(number).name)
                scope.cancel()
                return

    async def _report_for_ever(self, dataset: CachedDataset) -> None:
        process = psutil.Process()
        while True:
            self._release_backings()
            report = self._report(dataset, process.memory_info().rss)
            if self._reports is not None and not self._send(report):
                await self._outlive_supervisor()
            if self._status_file is not None:
                self._write_status(report)
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
        self._reports = None

    def _release_backings(self) -> None:
        while self._evicted and self._evicted[0][0] <= trio.current_time():
            _, node_id = self._evicted.pop(0)
            assert self._session is not None
            if not self._broker_lost.is_set():
                self._session.close_backing(node_id)

    def _report(self, dataset: CachedDataset, rss_bytes: int) -> Report:
        files, total = dataset.catalog.totals()
        return Report(
            pid=os.getpid(),
            ready=self._ready,
            passthrough=self._has_passthrough,
            detached=self._broker_lost.is_set(),
            quota_bytes=dataset.tiers.quota_bytes,
            cached_bytes=dataset.tiers.cached_bytes,
            files=files,
            total_bytes=total,
            hits=dataset.counters.hits,
            misses=dataset.counters.misses,
            read_bytes=dataset.counters.bytes,
            rss_bytes=rss_bytes,
            sources=tuple(
                SourceHealth(source.name, source.url, not (problem := dataset.origins[source.path].problem), problem)
                for source in self._config.sources
            ),
        )

    def _write_status(self, report: Report) -> None:
        """Plain mode has no supervisor that would do it."""
        assert self._status_file is not None
        me = Process(report.pid, "daemon", report.rss_bytes)
        status = summarize(self._config.dataset, [report], Reads(), (me,), survives_kill=False)
        new = self._status_file.with_suffix(".new")
        new.write_text(json.dumps(status_json(status), indent=2))
        new.rename(self._status_file)

    def _send(self, report: Report) -> bool:
        """False when nobody is there any more to hear it."""
        assert self._reports is not None
        try:
            self._reports.send(msgspec.json.encode(report), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True  # the supervisor is behind; the next report says it all
        except OSError:
            return False
        return True


async def _attach(path: str, token: str, reports: socket.socket | None, *, blocking: bool) -> BrokerSession:
    """Attach as soon as there is a broker: the pod may be up before the node's plugin has staged the volume.

    Raises:
        Unavailable: the supervisor at the other end of *reports* is gone, and with it who would need us.
    """
    pause_s, told = 0.05, False
    while True:
        try:
            return await trio.to_thread.run_sync(
                lambda: BrokerSession(path, token, blocking=blocking, deadline_s=_ATTACH_DEADLINE_S)
            )
        except Unavailable as error:
            if not told:
                log.info("broker.awaited", socket=path, error=str(error))
                told = True
            pause_s = min(1.0, pause_s * 1.5)
            with trio.move_on_after(pause_s):
                await _until_ended(reports)
                raise Unavailable("the supervisor is gone") from error


async def _until_ended(reports: socket.socket | None) -> None:
    """Nobody writes to a daemon, so what makes *reports* readable is its end."""
    if reports is None:
        await trio.sleep_forever()
    else:
        await trio.lowlevel.wait_readable(reports)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--broker-socket", default="")
    parser.add_argument("--mountpoint", default="", help="plain mode: mount here, without a broker")
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--status-file", type=Path, help="plain mode: keep the mount's status here")
    parser.add_argument("--report-fd", type=int, default=-1)
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    logs.configure(arguments.log_level)
    reports = socket.socket(fileno=arguments.report_fd) if arguments.report_fd >= 0 else None
    exit_code = 0
    raise_open_files()
    try:
        config = read_config(arguments.config)
        if arguments.broker_socket:  # fusermount3, which the plain mode mounts and unmounts by, is setuid
            privileges.drop(keep_reading=any(source.url.startswith(("local:", "file:")) for source in config.sources))
        daemon = Daemon(config, shim.load(), reports, arguments.status_file)
        trio.run(lambda: daemon.run(arguments.broker_socket, arguments.mountpoint, allow_other=arguments.allow_other))
    except* HeadraceError as group:
        text = "; ".join(_texts(group))
        log.error("daemon.failed", error=text)
        if reports is not None:
            with contextlib.suppress(OSError):  # the supervisor is gone, or behind; the log has it too
                reports.send(msgspec.json.encode(LastWords(text)), socket.MSG_DONTWAIT)
        exit_code = 1
    return exit_code


def _texts(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [text for inner in error.exceptions for text in _texts(inner)]
    return [str(error)]


if __name__ == "__main__":
    sys.exit(main())
