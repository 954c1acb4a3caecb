"""The labels of our own node: on the API server, or in a file where there is none."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from csi.records import write_atomically
from datamodel.errors import Conflict, Corrupt, NotFound, PermissionRefused, Unavailable, UserError
from kube.objects import Object, labels_of
from kube.reflector import Reflector, Source
from kube.resources import NODES
from kube.store import Store
from obs import logs

log = logs.get("csi")

_ON = "true"


class Api(Source, Protocol):
    """The part of kube.transport.Transport that we need."""

    def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...


class KubernetesNodeLabels:
    """Labels of the Node object *node*, changed one key at a time, and watched from `watch()` to `close()`.

    Whatever the API server answers is Unavailable for us: kubelet tries again, and meanwhile somebody may grant the
    missing right or register the node.
    """

    def __init__(self, api: Api, node: str) -> None:
        self._api, self._node = api, node
        self._path = NODES.path(name=node)
        self._seen: frozenset[str] | None = None
        self._reflector: Reflector | None = None

    def put(self, key: str) -> None:
        self._patch(key, _ON)
        log.info("label.put", node=self._node, label=key)

    def remove(self, key: str) -> None:
        self._patch(key, None)
        log.info("label.removed", node=self._node, label=key)

    def present(self) -> frozenset[str]:
        try:
            return self._keep(self._api.get(self._path))
        except (NotFound, PermissionRefused, UserError, Conflict) as error:
            raise Unavailable(f"labels of node {self._node} cannot be read: {error}") from error

    def is_missing(self, key: str) -> bool:
        seen = self._seen
        return seen is not None and key not in seen

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call *on_change*, on a thread of ours, each time a label went away."""

        def changed(old: Object | None, new: Object | None) -> None:
            before = self._seen
            if new is not None and before is not None and before - self._keep(new):
                on_change()

        self._reflector = Reflector(self._api, NODES, Store(), changed, field_selector=f"metadata.name={self._node}")
        self._reflector.start()

    def close(self) -> None:
        if self._reflector is not None:
            self._reflector.stop()

    def _patch(self, key: str, value: str | None) -> None:
        try:
            self._keep(self._api.merge_patch(self._path, {"metadata": {"labels": {key: value}}}))
        except (NotFound, PermissionRefused, UserError, Conflict) as error:
            raise Unavailable(
                f"label {key} of node {self._node} cannot be changed: {error}; the plugin's service account needs "
                "get and patch on this node"
            ) from error

    def _keep(self, node: Object) -> frozenset[str]:
        self._seen = frozenset(key for key, value in labels_of(node).items() if value == _ON)
        return self._seen


class FileNodeLabels:
    """Labels in a JSON file, for a plugin without a cluster; a missing file is an empty one. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def put(self, key: str) -> None:
        self._change(lambda labels: {**labels, key: _ON})

    def remove(self, key: str) -> None:
        self._change(lambda labels: {name: value for name, value in labels.items() if name != key})

    def present(self) -> frozenset[str]:
        with self._lock:
            return frozenset(key for key, value in self._read().items() if value == _ON)

    def is_missing(self, key: str) -> bool:
        return key not in self.present()

    def _change(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        with self._lock:
            labels = self._read()
            try:
                if (changed := change(labels)) != labels:
                    write_atomically(self._path, msgspec.json.encode(changed))
            except OSError as error:
                raise Unavailable(f"labels in {self._path}: {error.strerror}") from error

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Unavailable(f"labels in {self._path}: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Corrupt(f"labels in {self._path}: {error}; remove the file") from error
