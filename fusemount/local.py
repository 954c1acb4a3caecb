"""`headrace mount` on one machine: broker, daemons and cache as in a pod, bound to a folder of the user's choice.

Where a mount lives is found again by its mount point: `<state>/<digest>/` holds `client.json`, the token, the sockets,
`status.json` and a lock that its process holds as long as it runs. Without root there is no broker: one process
mounts by fusermount3, and nothing survives its end.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from blockcache.assemble import open_origins
from blockcache.catalog import CATALOG_NAME, Catalog
from broker import mountinfo
from broker.broker import Broker
from broker.server import BrokerServer
from datamodel.client import ClientConfig, encode_client_config
from datamodel.errors import Conflict, DeadlineExceeded, NotFound, PermissionRefused, Unavailable, UserError
from datamodel.names import RuntimeKey, RuntimePaths
from fusemount.report import Process, status_json
from fusemount.supervisor import Supervisor
from obs import logs

log = logs.get("mount")

_SERVE_DEADLINE_S = 30.0
_STATUS_PERIOD_S = 0.5
_KIND = "fuse.headrace"


def state_root() -> Path:
    """Where mounts of this user keep what describes them."""
    if os.geteuid() == 0:
        return Path("/run/headrace")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/headrace-{os.geteuid()}", "headrace")


def state_of(mountpoint: Path) -> Path:
    return state_root() / hashlib.blake2b(os.fsencode(mountpoint), digest_size=8).hexdigest()


def mountpoint_of(text: str) -> Path:
    """*text* as the mount table writes it. Its parents' links are resolved; it is not touched itself: it may hang."""
    path = Path(os.path.abspath(text))
    return Path(os.path.realpath(path.parent), path.name)


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What `headrace mount` was asked for. *uid* is the daemons' user; *mountpoint* is absolute."""

    config: ClientConfig
    mountpoint: Path
    uid: int
    allow_other: bool
    log_level: str


class LocalMount:
    """One mount in the foreground: `run` serves until `stop` is set.

    Raises:
        UserError: the mount point cannot be used. Conflict: something is mounted there already.
    """

    def __init__(self, plan: MountPlan) -> None:
        self._plan = plan
        self._state = state_of(plan.mountpoint)
        self.stop = threading.Event()
        self.serving = threading.Event()

    def run(self) -> int:
        """Mount, serve until `stop`, unmount; returns the exit code."""
        _check_mountpoint(self._plan.mountpoint)
        with _held_state(self._state, self._plan.mountpoint):
            token_file = self._state / "token"
            _write(token_file, secrets.token_urlsafe(32), self._plan.uid)
            config = msgspec.structs.replace(self._plan.config, token_file=str(token_file))
            config_file = self._state / "client.json"
            _write(config_file, encode_client_config(config), self._plan.uid)
            for tier in config.tiers:
                Path(tier.path).mkdir(mode=0o700, parents=True, exist_ok=True)
                if os.geteuid() == 0:
                    os.chown(tier.path, self._plan.uid, self._plan.uid)
            if os.geteuid() == 0:
                return self._run_with_broker(config_file, token_file.read_text())
            return self._run_plain(config_file)

    def _run_with_broker(self, config_file: Path, token: str) -> int:
        key = RuntimeKey("local", "mounts", self._state.name)
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
            self._await_served(broker, key, supervisor)
            broker.bind(key, target, "", read_only=True, deadline_s=_SERVE_DEADLINE_S)
            self.serving.set()
            log.info("mount.serving", mountpoint=target)
            self._publish_status(supervisor)
        finally:
            broker.unbind(target, keep_folder=True)
            supervisor.stop()
            server.unmount(key)
            server.close()
        return 0

    def _await_served(self, broker: Broker, key: RuntimeKey, supervisor: Supervisor) -> None:
        end = time.monotonic() + _SERVE_DEADLINE_S
        while not self.stop.is_set():
            try:
                broker.runtime(key).wait_served(0.5)
                return
            except DeadlineExceeded:
                if supervisor.problem:
                    raise Unavailable(f"{self._plan.mountpoint}: {supervisor.problem}") from None
                if time.monotonic() > end:
                    break
        if self.stop.is_set():
            raise Unavailable(f"{self._plan.mountpoint}: ended before it served")
        raise Unavailable(
            f"{self._plan.mountpoint}: no daemon serves after {_SERVE_DEADLINE_S:.0f} s; the log says why"
        )

    def _publish_status(self, supervisor: Supervisor) -> None:
        last = ""
        while not self.stop.wait(_STATUS_PERIOD_S):
            broker = Process(os.getpid(), "broker", _rss_bytes())
            status = msgspec.structs.replace(supervisor.status(), processes=(broker, *supervisor.status().processes))
            text = json.dumps(status_json(status) | self._described(), indent=2)
            if text != last:
                _write(self._state / "status.json", text, self._plan.uid)
                last = text

    def _described(self) -> dict[str, Any]:
        return {"mountpoint": str(self._plan.mountpoint), "cacheDir": self._plan.config.tiers[0].path}

    def _run_plain(self, config_file: Path) -> int:
        command = [
            sys.executable, "-m", "fusemount.daemon", "--config", str(config_file),
            "--mountpoint", str(self._plan.mountpoint), "--log-level", self._plan.log_level,
            "--status-file", str(self._state / "status.json"),
        ]  # fmt: skip
        child = subprocess.Popen([*command, *(["--allow-other"] if self._plan.allow_other else [])])
        end = time.monotonic() + _SERVE_DEADLINE_S
        while not self.stop.wait(0.1) and child.poll() is None:
            if not self.serving.is_set() and mountinfo.at(mountinfo.read(), str(self._plan.mountpoint)):
                self.serving.set()
            if not self.serving.is_set() and time.monotonic() > end:
                break
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        code = child.wait()
        return 0 if self.stop.is_set() else code or 1


def unmount(mountpoint: Path, *, lazy: bool, deadline_s: float) -> None:
    """End the mount at *mountpoint*: ask its process, or clean up after one that was killed.

    Raises:
        NotFound: Headrace has nothing mounted there.
        Conflict: it is in use and *lazy* is not set; the message says by whom.
    """
    state = state_of(mountpoint)
    layers = [layer for layer in mountinfo.at(mountinfo.read(), str(mountpoint)) if layer.kind == _KIND]
    if not layers and not state.exists():
        raise NotFound(f"{mountpoint}: not a mount of headrace; see `findmnt -t {_KIND}`")
    if not lazy and (users := _users_of(mountpoint)):
        raise Conflict(f"{mountpoint} is in use by {', '.join(users)}; end them or use --lazy")
    if (pid := _holder(state)) is None:
        _clean_up(state, mountpoint)
        return
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + deadline_s
    while _holder(state) is not None:
        if time.monotonic() > end:
            raise DeadlineExceeded(f"{mountpoint}: process {pid} did not unmount within {deadline_s:.0f} s")
        time.sleep(0.05)


def read_status(mountpoint: Path) -> dict[str, Any]:
    """The last status that the mount at *mountpoint* wrote.

    Raises:
        NotFound: nothing of Headrace is mounted there, or its process is gone.
    """
    state = state_of(mountpoint)
    if _holder(state) is None:
        hint = f"its process is gone; run `headrace umount {mountpoint}`" if state.exists() else "not mounted"
        raise NotFound(f"{mountpoint}: {hint}")
    end = time.monotonic() + 5
    while True:
        try:
            status: dict[str, Any] = json.loads((state / "status.json").read_text())
            return status
        except (FileNotFoundError, json.JSONDecodeError) as error:
            if time.monotonic() > end:
                raise Unavailable(f"{mountpoint}: no status yet; is it still starting?") from error
            time.sleep(0.1)


def _check_mountpoint(mountpoint: Path) -> None:
    # First of all, because a dead mount answers every question below with an error, and a stuck one with silence.
    if mountinfo.at(mountinfo.read(), str(mountpoint)):
        raise Conflict(f"MOUNTPOINT: something is mounted on {str(mountpoint)!r} already; unmount it first")
    if mountpoint.is_symlink() or (mountpoint.exists() and not mountpoint.is_dir()):
        raise UserError(f"MOUNTPOINT: {str(mountpoint)!r} is no folder; give an empty one")
    if not mountpoint.parent.is_dir():
        raise UserError(f"MOUNTPOINT: {str(mountpoint.parent)!r} does not exist; make it first")
    try:
        mountpoint.mkdir(exist_ok=True)
        is_empty = not any(mountpoint.iterdir())
    except PermissionError as error:
        raise UserError(f"MOUNTPOINT: {str(mountpoint)!r}: {error.strerror}; choose a folder of your own") from error
    if not is_empty:
        raise UserError(f"MOUNTPOINT: {str(mountpoint)!r} is not empty; mounting would hide what is in it")


def _check_owner(folder: Path) -> None:
    """In a folder that everybody may write, like /tmp, somebody else may have made ours first."""
    if folder.lstat().st_uid != os.geteuid():
        raise PermissionRefused(f"{folder} belongs to another user; set XDG_RUNTIME_DIR to a folder of your own")


@contextlib.contextmanager
def _held_state(state: Path, mountpoint: Path) -> Iterator[None]:
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_owner(state.parent.parent)
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"{mountpoint}: another `headrace mount` is at work there") from error
        _remove_leftovers(state)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        try:
            yield
        finally:
            _remove_leftovers(state)
            (state / "lock").unlink()
            state.rmdir()
    finally:
        os.close(lock)


def _holder(state: Path) -> int | None:
    """Process that holds the state's lock; None when nobody does."""
    try:
        lock = os.open(state / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(lock, 32) or b"0") or None
    finally:
        os.close(lock)
    return None


def _clean_up(state: Path, mountpoint: Path) -> None:
    """After a killed `headrace mount`: take the dead mounts away and what described them."""
    root_needed = os.geteuid() != 0
    while mountinfo.at(mountinfo.read(), str(mountpoint)):
        if root_needed:
            subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=True)
        else:
            Broker(str(state), (str(mountpoint.parent),)).unbind(str(mountpoint), keep_folder=True)
    if state.exists():
        _remove_leftovers(state)
        (state / "lock").unlink(missing_ok=True)
        state.rmdir()


def _remove_leftovers(state: Path) -> None:
    if (state / "local").exists():
        Broker(str(state), ()).unmount(RuntimeKey("local", "mounts", state.name))
    for name in ("token", "client.json", "status.json", "control.sock"):
        (state / name).unlink(missing_ok=True)


def _users_of(mountpoint: Path) -> list[str]:
    """Processes with an open file, working directory or root below *mountpoint*; never touches the mount itself."""
    import psutil

    prefix = f"{mountpoint}/"
    users = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            links = [f"/proc/{process.pid}/cwd", f"/proc/{process.pid}/root"]
            links += [f"/proc/{process.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{process.pid}/fd")]
            if any(f"{_link(link)}/".startswith(prefix) for link in links):
                users.append(f"{process.name()} (pid {process.pid})")
    return users


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _write(path: Path, text: str, uid: int) -> None:
    new = path.with_name(f".{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        if os.geteuid() == 0 and uid:
            os.fchown(file.fileno(), uid, uid)
    new.rename(path)


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check_sources_answer(config: ClientConfig) -> None:
    """Refuse a mount whose source cannot be reached and of which nothing is cached; a typo is found at once that way.

    Raises:
        UserError: unknown scheme. NotFound, Unavailable: the source says so.
    """
    origins = open_origins(config)
    try:
        for path, origin in origins.items():
            try:
                origin.list("")  # a stat of the root is answered without asking by some
            except (PermissionRefused, UserError) as error:
                log.warning("source.not_listed", source=origin.name, path=path, error=str(error))  # files may be read
            except Unavailable as error:
                if not _has_files(config):
                    raise Unavailable(f"source {origin.name!r}: {error}") from error
                log.warning("source.away", source=origin.name, path=path, error=str(error))
    finally:
        for origin in origins.values():
            origin.close()


def _has_files(config: ClientConfig) -> bool:
    """Whether an earlier mount of these sources has left names that can be served without them."""
    file = Path(config.tiers[0].path, CATALOG_NAME)
    return file.exists() and Catalog(file).totals()[0] > 0
