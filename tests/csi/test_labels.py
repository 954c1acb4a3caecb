"""The node's labels: one contract for the API server and the file, and what only one of them must do."""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from csi.labels import FileNodeLabels, KubernetesNodeLabels
from csi.ports import NodeLabels
from datamodel.errors import Conflict, Corrupt, HeadraceError, NotFound, PermissionRefused, Unavailable, UserError

KEY, OTHER = "fluid.io/f-default-demo", "fluid.io/f-default-other"


class FakeApi:
    """One Node object; `watch` delivers each change until `close()`."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {"kubernetes.io/hostname": "n1"}
        self.failure: HeadraceError | None = None
        self.requests: list[tuple[str, str]] = []
        self._version = 1
        self._changed = threading.Condition()
        self._is_closed = False

    def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        self._note("get", path)
        if path.endswith("/n1"):
            return self._node()
        assert params is not None
        assert params["fieldSelector"] == "metadata.name=n1"
        return {"metadata": {"resourceVersion": str(self._version)}, "items": [self._node()]}

    def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._note("merge_patch", path)
        assert body.keys() == {"metadata"}
        assert body["metadata"].keys() == {"labels"}
        self.change(body["metadata"]["labels"])
        return self._node()

    def watch(
        self, path: str, *, resource_version: str, params: Mapping[str, str] | None = None, timeout_s: float
    ) -> Iterator[dict[str, Any]]:
        seen = int(resource_version)
        while True:
            with self._changed:
                while self._version == seen and not self._is_closed:
                    self._changed.wait(timeout_s)
                if self._is_closed:
                    return
                seen = self._version
            yield {"type": "MODIFIED", "object": self._node()}

    def change(self, labels: Mapping[str, str | None]) -> None:
        with self._changed:
            for key, value in labels.items():
                if value is None:
                    self.labels.pop(key, None)
                else:
                    self.labels[key] = value
            self._version += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _note(self, verb: str, path: str) -> None:
        self.requests.append((verb, path))
        if self.failure is not None:
            raise self.failure

    def _node(self) -> dict[str, Any]:
        return {"metadata": {"name": "n1", "resourceVersion": str(self._version), "labels": dict(self.labels)}}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    server = FakeApi()
    yield server
    server.close()


@pytest.fixture(params=["kubernetes", "file"])
def labels(request: pytest.FixtureRequest, tmp_path: Path, api: FakeApi) -> NodeLabels:
    choices: dict[str, Callable[[], NodeLabels]] = {
        "kubernetes": lambda: KubernetesNodeLabels(api, "n1"),
        "file": lambda: FileNodeLabels(tmp_path / "labels.json"),
    }
    return choices[request.param]()


def test_label_is_present_from_put_to_remove(labels: NodeLabels) -> None:
    labels.put(KEY)
    labels.put(OTHER)
    assert {KEY, OTHER} <= labels.present()
    assert not labels.is_missing(KEY)

    labels.remove(KEY)

    assert labels.present() & {KEY, OTHER} == {OTHER}
    assert labels.is_missing(KEY)


def test_put_and_remove_twice_are_fine(labels: NodeLabels) -> None:
    labels.put(KEY)
    labels.put(KEY)
    labels.remove(KEY)
    labels.remove(KEY)

    assert KEY not in labels.present()


def test_nothing_is_missing_while_the_node_was_never_seen(api: FakeApi) -> None:
    assert not KubernetesNodeLabels(api, "n1").is_missing(KEY)
    assert api.requests == []


def test_only_our_key_of_our_node_is_patched(api: FakeApi) -> None:
    KubernetesNodeLabels(api, "n1").put(KEY)

    assert api.labels == {"kubernetes.io/hostname": "n1", KEY: "true"}
    assert api.requests == [("merge_patch", "/api/v1/nodes/n1")]


def test_label_with_another_value_does_not_count(api: FakeApi) -> None:
    api.labels[KEY] = "false"

    assert KEY not in KubernetesNodeLabels(api, "n1").present()


@pytest.mark.parametrize("failure", [NotFound, PermissionRefused, UserError, Conflict, Unavailable])
def test_whatever_the_api_server_answers_kubelet_may_try_again(api: FakeApi, failure: type[HeadraceError]) -> None:
    labels = KubernetesNodeLabels(api, "n1")
    api.failure = failure("the server's words")

    with pytest.raises(Unavailable, match="the server's words"):
        labels.put(KEY)
    with pytest.raises(Unavailable, match="the server's words"):
        labels.present()


def test_watch_tells_of_a_label_that_went_away_and_of_nothing_else(api: FakeApi) -> None:
    labels = KubernetesNodeLabels(api, "n1")
    labels.put(KEY)
    calls, called = [], threading.Event()

    def note() -> None:
        calls.append(labels.is_missing(KEY))
        called.set()

    labels.watch(note)
    try:
        api.change({OTHER: "true"})
        api.change({KEY: None})
        assert called.wait(10)
    finally:
        labels.close()

    assert calls == [True]


def test_broken_label_file_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{")

    with pytest.raises(Corrupt, match="remove the file"):
        FileNodeLabels(tmp_path / "labels.json").put(KEY)
