"""What the broker does for its control clients: mount, bind, unbind, unmount, report. The sockets are in server.py."""

import contextlib
import errno
import os
import shutil
import threading
from pathlib import Path

from broker import binds, kernel, mountinfo
from broker.connection import Connection
from broker.mountinfo import Mount
from broker.runtime import ServedRuntime
from broker.wire import MountedRuntime, VolumeStatistics
from datamodel.errors import Conflict, NotFound, PermissionRefused, Unavailable
from datamodel.names import RuntimeKey, RuntimePaths
from obs import logs
from obs.metrics import BROKER_MOUNTS

log = logs.get("broker")

_READ_AHEAD_KIB = 4096


class Broker:
    """Keeps the FUSE mounts below *runtime_root* and binds them to targets below *target_roots*. Thread-safe."""

    def __init__(self, runtime_root: str, target_roots: tuple[str, ...]) -> None:
        self._root, self._target_roots = runtime_root, target_roots
        self._lock = threading.Lock()
        self._runtimes: dict[RuntimeKey, ServedRuntime] = {}

    def mount(self, key: RuntimeKey, token: str, daemon_uid: int) -> tuple[ServedRuntime, bool]:
        """The runtime *key*, mounted; and whether this call did it. A mount left by a dead broker is replaced.

        Raises:
            PermissionRefused: it is mounted with another token and a daemon serves it.
        """
        with self._lock:
            runtime = self._runtimes.get(key)
            if runtime is not None:
                if not runtime.is_token(token):
                    if runtime.is_served:
                        raise PermissionRefused(f"runtime {key}: mounted with another token, and in use")
                    runtime.replace_token(token)
                return runtime, False
            paths = RuntimePaths.of(key, self._root)
            self._make_folders(paths, daemon_uid)
            connection = Connection(str(paths.mount), f"headrace:{key}")
            runtime = self._runtimes[key] = ServedRuntime(key, paths, connection, token, daemon_uid)
            BROKER_MOUNTS.set(len(self._runtimes))
        self._set_read_ahead(runtime)
        log.info(
            "runtime.mounted", runtime=str(key), passthrough=connection.has_passthrough, resend=connection.has_resend
        )
        return runtime, True

    def runtime(self, key: RuntimeKey) -> ServedRuntime:
        """Raises NotFound when *key* is not mounted."""
        with self._lock:
            runtime = self._runtimes.get(key)
        if runtime is None:
            raise NotFound(f"runtime {key}: not mounted on this node; stage it first")
        return runtime

    def bind(
        self,
        key: RuntimeKey,
        target: str,
        sub_path: str,
        *,
        read_only: bool,
        no_exec: bool = False,
        deadline_s: float,
    ) -> None:
        """See binds.bind; raises NotFound when *key* is not mounted."""
        runtime = self.runtime(key)
        table = mountinfo.read()
        with self._lock:
            origins = {runtime.key: self._origin(runtime, table) for runtime in self._runtimes.values()}
        binds.bind(
            origins[runtime.key],
            target,
            sub_path,
            read_only=read_only,
            no_exec=no_exec,
            roots=self._target_roots,
            live=frozenset(origin.device for origin in origins.values()),
            deadline_s=deadline_s,
        )
        log.info("target.bound", runtime=str(key), target=target, sub_path=sub_path, read_only=read_only)

    def unbind(self, target: str, *, keep_folder: bool = False) -> None:
        """See binds.unbind."""
        binds.unbind(target, self._target_roots, keep_folder=keep_folder)
        log.info("target.unbound", target=target)

    def unmount(self, key: RuntimeKey) -> ServedRuntime | None:
        """End the mount of *key* and remove its folders; None when it is not mounted (folders go nevertheless).

        Raises:
            Conflict: a target still shows it.
        """
        with self._lock:
            runtime = self._runtimes.get(key)
            if runtime is not None:
                if bound := self._targets(runtime, mountinfo.read()):
                    raise Conflict(f"runtime {key}: still bound to {', '.join(bound)}")
                del self._runtimes[key]
                runtime.close()
                BROKER_MOUNTS.set(len(self._runtimes))
            self._remove_folders(RuntimePaths.of(key, self._root))
        log.info("runtime.unmounted", runtime=str(key))
        return runtime

    def runtimes(self) -> tuple[MountedRuntime, ...]:
        table = mountinfo.read()
        with self._lock:
            return tuple(
                MountedRuntime(str(runtime.key), runtime.is_served, runtime.daemons, self._targets(runtime, table))
                for runtime in self._runtimes.values()
            )

    def statistics(self, key: RuntimeKey, deadline_s: float) -> VolumeStatistics:
        runtime = self.runtime(key)
        if not runtime.is_served:
            return VolumeStatistics(abnormal=True, message="no daemon serves the mount")
        return binds.statistics(self._origin(runtime), deadline_s)

    def close(self) -> None:
        """Detach every mount; cache folders stay."""
        with self._lock:
            for runtime in self._runtimes.values():
                _detach(str(runtime.paths.mount))
                runtime.close()
            self._runtimes.clear()

    def _origin(self, runtime: ServedRuntime, table: list[Mount] | None = None) -> Mount:
        layers = mountinfo.at(mountinfo.read() if table is None else table, str(runtime.paths.mount))
        if not layers:
            raise Unavailable(
                f"runtime {runtime.key}: somebody unmounted {runtime.paths.mount}; unstage and stage it again"
            )
        return layers[-1]

    def _targets(self, runtime: ServedRuntime, table: list[Mount]) -> tuple[str, ...]:
        layers = mountinfo.at(table, str(runtime.paths.mount))
        devices = {layer.device for layer in layers[-1:]}
        return tuple(sorted({m.target for m in table if m.device in devices and m.target != str(runtime.paths.mount)}))

    def _make_folders(self, paths: RuntimePaths, daemon_uid: int) -> None:
        _detach(str(paths.mount))
        for path, mode, uid in (
            (paths.base, 0o755, 0), (paths.mount, 0o755, 0), (paths.run, 0o755, 0), (paths.cache, 0o700, daemon_uid),
        ):  # fmt: skip
            folder = Path(path)
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(fd, mode)
                if uid:
                    os.fchown(fd, uid, uid)
            finally:
                os.close(fd)

    def _remove_folders(self, paths: RuntimePaths) -> None:
        _detach(str(paths.mount))
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(paths.base)  # symlink-safe: Python walks by directory file
        for parent in list(paths.base.parents)[:2]:
            try:
                Path(parent).rmdir()
            except OSError:
                return  # not empty: other runtimes live there

    def _set_read_ahead(self, runtime: ServedRuntime) -> None:
        knob = Path(f"/sys/class/bdi/{self._origin(runtime).device}/read_ahead_kb")
        try:
            try:
                knob.write_text(str(_READ_AHEAD_KIB))
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                # The pod's sandbox mounted sysfs first, read-only, and its superblock is ours too.
                kernel.remount_writable("/sys")
                knob.write_text(str(_READ_AHEAD_KIB))
            runtime.read_ahead_kib = _READ_AHEAD_KIB
        except OSError as error:
            runtime.read_ahead_problem = f"{knob}: {error.strerror}"
            log.warning("read_ahead.unchanged", path=str(knob), error=str(error))


def _detach(target: str) -> None:
    while mountinfo.at(mountinfo.read(), target):
        kernel.umount(target, kernel.MNT_DETACH)
