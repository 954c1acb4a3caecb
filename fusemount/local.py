"""`headrace mount` on one machine: broker, daemons and cache as in a pod, bound to a folder of the user's choice.

Root's mount has a broker inside this process and survives the death of its daemons. Without root there is none: one
process mounts by fusermount3 (`fusemount/plain.py`), and nothing survives its end. Where a mount keeps what describes
it, see `fusemount/localstate.py`.
"""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from blockcache.assemble import open_origins
from blockcache.catalog import CATALOG_NAME, Catalog
from broker import mountinfo
from broker.broker import Broker
from broker.server import BrokerServer
from datamodel.client import ClientConfig, Source, Tier, encode_client_config
from datamodel.errors import (
    Conflict,
    DeadlineExceeded,
    HeadraceError,
    NotFound,
    PermissionRefused,
    Unavailable,
    UserError,
)
from datamodel.names import RuntimePaths
from fusemount import localstate, plain
from fusemount.localcache import claimed, make_memory_tier
from fusemount.localstate import Described, state_of, write_private
from fusemount.report import Process, status_json
from fusemount.supervisor import Supervisor
from obs import logs

log = logs.get("mount")

_SERVE_DEADLINE_S = 30.0
_STATUS_PERIOD_S = 0.5


class Ended(HeadraceError):
    """Somebody ended the mount before it served."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What `headrace mount` was asked for. *uid* is the daemons' user; *mountpoint* is absolute."""

    config: ClientConfig
    mountpoint: Path
    uid: int
    allow_other: bool = False
    log_level: str = "info"
    log_file: str = ""
    memory_bytes: int = 0
    """Of a tier in front of the others, gone with the mount; 0 for none."""
    option_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Content of the option files that the sources name: path in the state folder to value."""


class LocalMount:
    """One mount in the foreground: `run` serves until `stop` is set.

    *on_serving* is called once, when the mount can be used; *warn* with what the user should know before that.
    """

    def __init__(self, plan: MountPlan, on_serving: Callable[[], None], warn: Callable[[str], None]) -> None:
        self._plan, self._on_serving, self._warn = plan, on_serving, warn
        self._state = state_of(plan.mountpoint)
        self.stop = threading.Event()

    def run(self) -> int:
        """Mount, serve until `stop`, unmount; returns the exit code. What a killed mount left here is replaced.

        Raises:
            UserError: the mount point, a source or a cache folder cannot be used.
            Conflict: something is mounted there already, or another mount uses the cache.
            Unavailable: a source is away and nothing of it is known. Ended: `stop` came first.
        """
        plan = self._plan
        with localstate.held(self._state, plan.mountpoint), contextlib.ExitStack() as closing:
            check_mountpoint(plan.mountpoint)
            for path, value in plan.option_values.items():
                Path(path).parent.mkdir(mode=0o711, exist_ok=True)
                write_private(Path(path), value, plan.uid)
            self._check_sources()
            closing.enter_context(claimed(plan.config, plan.mountpoint, plan.uid))
            memory = self._describe()
            config = msgspec.structs.replace(
                plan.config,
                tiers=(*memory, *plan.config.tiers),
                token_file=str(self._state / "token"),
            )
            token = secrets.token_urlsafe(32)
            write_private(self._state / "token", token, plan.uid)
            config_file = self._state / "client.json"
            write_private(config_file, encode_client_config(config), plan.uid)
            with _folder_for_mount(plan.mountpoint):
                if os.geteuid() == 0:
                    return self._run_with_broker(config_file, token)
                return self._run_plain(config_file)

    def _describe(self) -> tuple[Tier, ...]:
        """Write down what this mount is, and make its memory tier, if it has one: in this order, so that none stays."""
        plan, memory = self._plan, ""
        if plan.memory_bytes:
            root = self._state if os.geteuid() == 0 else Path("/dev/shm")
            memory = str(root / ("memory" if os.geteuid() == 0 else f"headrace-{os.geteuid()}-{self._state.name}"))
        about = Described(
            mountpoint=str(plan.mountpoint),
            cache_dir=plan.config.catalog_folder,
            log_file=plan.log_file,
            memory_dir=memory,
        )
        write_private(self._state / "mount.json", msgspec.json.encode(about), plan.uid)
        return (make_memory_tier(Path(memory), plan.memory_bytes, plan.uid),) if memory else ()

    def _check_sources(self) -> None:
        """`check_sources_answer`, given up as soon as `stop` is set: a source may take a minute not to answer."""
        problems: list[BaseException] = []
        done = threading.Event()

        def check() -> None:
            try:
                check_sources_answer(self._plan.config, self._warn)
            except BaseException as error:
                problems.append(error)
            finally:
                done.set()

        threading.Thread(target=check, name="check sources", daemon=True).start()
        while not done.wait(0.05):
            self._end_if_stopped()
        self._end_if_stopped()
        if problems:
            raise problems[0]

    def _end_if_stopped(self) -> None:
        if self.stop.is_set():
            raise Ended(f"{self._plan.mountpoint}: ended before it served")

    def _run_with_broker(self, config_file: Path, token: str) -> int:
        key = localstate.key_of(self._state)
        target = str(self._plan.mountpoint)
        broker = Broker(str(self._state), (str(self._plan.mountpoint.parent),))
        server = BrokerServer(broker, str(self._state / "control.sock"))
        socket = str(RuntimePaths.of(key, str(self._state)).socket)
        supervisor = Supervisor(
            self._plan.config.dataset, str(config_file), socket, self._plan.config.processes, self._plan.uid,
            log_level=self._plan.log_level,
        )  # fmt: skip
        try:
            server.mount(key, token, self._plan.uid)
            supervisor.start()
            self._await_served(broker, supervisor)
            broker.bind(key, target, "", read_only=True, deadline_s=_SERVE_DEADLINE_S)
            log.info("mount.serving", mountpoint=target)
            self._on_serving()
            self._publish_status(supervisor)
        finally:
            broker.unbind(target, keep_folder=True)
            supervisor.stop()
            server.unmount(key)
            server.close()
        return 0

    def _await_served(self, broker: Broker, supervisor: Supervisor) -> None:
        end = time.monotonic() + _SERVE_DEADLINE_S
        while time.monotonic() < end:
            self._end_if_stopped()
            try:
                broker.runtime(localstate.key_of(self._state)).wait_served(0.5)
                return
            except DeadlineExceeded:
                if supervisor.problem:
                    raise Unavailable(f"{self._plan.mountpoint}: {supervisor.problem}") from None
        raise Unavailable(
            f"{self._plan.mountpoint}: no daemon serves after {_SERVE_DEADLINE_S:.0f} s; the log says why"
        )

    def _publish_status(self, supervisor: Supervisor) -> None:
        last = ""
        while not self.stop.wait(_STATUS_PERIOD_S):
            broker = Process(os.getpid(), "broker", _rss_bytes())
            status = supervisor.status()
            status = msgspec.structs.replace(status, processes=(broker, *status.processes))
            text = json.dumps(status_json(status), indent=2)
            if text != last:
                write_private(self._state / "status.json", text, self._plan.uid)
                last = text

    def _run_plain(self, config_file: Path) -> int:
        daemon = plain.PlainDaemon(
            config_file,
            self._plan.mountpoint,
            self._state / "status.json",
            allow_other=self._plan.allow_other,
            log_level=self._plan.log_level,
        )
        with contextlib.closing(daemon):
            daemon.wait_served(self.stop, _SERVE_DEADLINE_S)
            self._end_if_stopped()
            log.info("mount.serving", mountpoint=str(self._plan.mountpoint))
            self._on_serving()
            return daemon.wait_end(self.stop)


def check_mountpoint(mountpoint: Path) -> None:
    """Refuse a place where nothing can be mounted, without making anything.

    Raises:
        Conflict: something is mounted there. UserError: no folder, not empty, or without a parent.
    """
    # First of all, because a dead mount answers every question below with an error, and a stuck one with silence.
    if found := mountinfo.at(mountinfo.read(), str(mountpoint)):
        raise Conflict(f"MOUNTPOINT: {found[-1].source} is mounted on {str(mountpoint)!r} already; unmount it first")
    if mountpoint.is_symlink() or (mountpoint.exists() and not mountpoint.is_dir()):
        raise UserError(f"MOUNTPOINT: {str(mountpoint)!r} is no folder; give an empty one")
    if not mountpoint.parent.is_dir():
        raise UserError(f"MOUNTPOINT: {str(mountpoint.parent)!r} does not exist; make it first")
    try:
        is_empty = not (mountpoint.exists() and any(mountpoint.iterdir()))
    except PermissionError as error:
        raise UserError(f"MOUNTPOINT: {str(mountpoint)!r}: {error.strerror}; choose a folder of your own") from error
    if not is_empty:
        raise UserError(f"MOUNTPOINT: {str(mountpoint)!r} is not empty; mounting would hide what is in it")


@contextlib.contextmanager
def _folder_for_mount(mountpoint: Path) -> Iterator[None]:
    """The folder exists; it goes again if it was made here and nothing was ever served on it."""
    try:
        mountpoint.mkdir()
    except FileExistsError:
        yield
        return
    except OSError as error:
        raise UserError(f"MOUNTPOINT: {str(mountpoint)!r}: {error.strerror}; choose a folder of your own") from error
    try:
        yield
    except HeadraceError:
        with contextlib.suppress(OSError):  # not empty, or busy: it is the user's by now
            mountpoint.rmdir()
        raise


def check_sources_answer(config: ClientConfig, warn: Callable[[str], None]) -> None:
    """Refuse a mount whose source cannot be reached and of which nothing is cached; a typo is found at once that way.

    Raises:
        UserError: unknown scheme or option. NotFound, PermissionRefused, Unavailable: the source says so.
    """
    origins = open_origins(config)
    try:
        for source in config.sources:
            try:
                next(iter(origins[source.path].list("")), None)  # a stat of the root is answered without asking by some
            except NotFound as error:
                raise NotFound(f"source {source.name!r}: {error}; check its URL") from error
            except (PermissionRefused, UserError) as error:
                if not _is_open_web(source) and not _has_files(config):
                    raise type(error)(f"source {source.name!r}: {error}") from error
                warn(f"source {source.name!r} cannot be listed: {error}")
            except Unavailable as error:
                if not _has_files(config):
                    raise Unavailable(f"source {source.name!r}: {error}") from error
                warn(f"source {source.name!r} is away, what is known of it is served: {error}")
    finally:
        for origin in origins.values():
            origin.close()


def _is_open_web(source: Source) -> bool:
    """Whether it is a web server asked without credentials: many let everybody read files, but not list folders."""
    given = {option.lower() for option in (*source.options, *source.option_files)}
    return source.url.startswith(("http://", "https://")) and not given & {"username", "password", "bearer-token"}


def _has_files(config: ClientConfig) -> bool:
    """Whether an earlier mount of these sources has left names that can be served without them."""
    file = Path(config.catalog_folder, CATALOG_NAME)
    return file.exists() and Catalog(file).totals()[0] > 0


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
