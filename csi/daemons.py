"""Who starts the fuse daemons: in a cluster the DaemonSet that our label calls, without one we ourselves."""

import os
import secrets as random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from csi.records import write_atomically
from datamodel.client import ClientConfig, decode_client_config, encode_client_config
from datamodel.errors import NotFound, Unavailable
from datamodel.names import DAEMON_UID, TOKEN_KEY, RuntimeKey, RuntimePaths
from obs import logs

log = logs.get("csi")

CONFIG_NAME = "client.json"
TOKEN_NAME = "token"


class DaemonSetStarter:
    """The runtime's DaemonSet follows the node label, and kubelet hands us the token; so there is nothing to start.

    The last token is remembered in memory, because a publish need not carry one and the broker may have been
    restarted since the stage.
    """

    uid = DAEMON_UID

    def __init__(self) -> None:
        self._tokens: dict[RuntimeKey, str] = {}

    def token(self, key: RuntimeKey, secrets: Mapping[str, str]) -> str:
        if given := secrets.get(TOKEN_KEY, ""):
            self._tokens[key] = given
        return self._tokens.get(key, "")

    def start(self, key: RuntimeKey) -> None:
        """The label has called the pod already."""

    def stop(self, key: RuntimeKey) -> None:
        """The pod goes with its label."""
        self._tokens.pop(key, None)


class Supervised(Protocol):
    """Daemon processes of one mount."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


Supervise = Callable[[ClientConfig, Path, PurePosixPath], Supervised]
"""Daemons of a config, which lies in a file, on the broker's socket for its runtime; not started yet."""


class LocalStarter:
    """Runs the daemons of datasets described below *datasets* as `<namespace>/<name>/client.json`. Thread-safe.

    The token is the one kubelet gives, else that in the file `token` beside the description, made at need. Relative
    paths of tiers lie in the runtime's cache folder. Files for the daemons are written below *state*.
    """

    def __init__(self, datasets: Path, state: Path, runtime_root: str, uid: int, supervise: Supervise) -> None:
        self._datasets, self._state, self._runtime_root = datasets, state, runtime_root
        self._uid, self._supervise = uid, supervise
        self._lock = threading.Lock()
        self._running: dict[RuntimeKey, Supervised] = {}

    @property
    def uid(self) -> int:
        return self._uid

    def token(self, key: RuntimeKey, secrets: Mapping[str, str]) -> str:
        """Raises NotFound when the dataset is not described."""
        folder = self._folder(key)
        given = secrets.get(TOKEN_KEY, "")
        with self._lock:
            path = folder / TOKEN_NAME
            known = path.read_text().strip() if path.exists() else ""
            token = given or known or random.token_urlsafe(32)
            if token != known:
                _write_for(path, token, self._uid)
            return token

    def start(self, key: RuntimeKey) -> None:
        folder = self._folder(key)
        with self._lock:
            if key in self._running:
                return
            paths = RuntimePaths.of(key, self._runtime_root)
            config = self._completed(decode_client_config((folder / CONFIG_NAME).read_bytes()), paths, folder)
            file = self._file(key)
            _write_for(file, encode_client_config(config), self._uid)
            daemons = self._running[key] = self._supervise(config, file, paths.socket)
            daemons.start()
        log.info("daemons.started", runtime=str(key), processes=config.processes)

    def stop(self, key: RuntimeKey) -> None:
        with self._lock:
            daemons = self._running.pop(key, None)
        if daemons is not None:
            daemons.stop()
            self._file(key).unlink(missing_ok=True)
            log.info("daemons.stopped", runtime=str(key))

    def close(self) -> None:
        """Stop them all."""
        with self._lock:
            keys = list(self._running)
        for key in keys:
            self.stop(key)

    def _folder(self, key: RuntimeKey) -> Path:
        folder = self._datasets / key.namespace / key.name
        if not (folder / CONFIG_NAME).is_file():
            raise NotFound(f"dataset {key.namespace}/{key.name}: there is no {folder / CONFIG_NAME}")
        return folder

    def _file(self, key: RuntimeKey) -> Path:
        return self._state / f"{str(key).replace('/', '.')}.{CONFIG_NAME}"

    def _completed(self, config: ClientConfig, paths: RuntimePaths, folder: Path) -> ClientConfig:
        tiers = tuple(msgspec.structs.replace(tier, path=str(paths.cache / tier.path)) for tier in config.tiers)
        return msgspec.structs.replace(config, tiers=tiers, token_file=str((folder / TOKEN_NAME).absolute()))


def _write_for(path: Path, text: str, uid: int) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomically(path, text.encode())
        if uid != os.geteuid():
            os.chown(path, uid, -1)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
