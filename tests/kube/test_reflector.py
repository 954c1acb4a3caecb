"""A reflector against a server with real watches."""

from collections.abc import Iterator

import pytest

from kube.objects import Object, name_of
from kube.reflector import Reflector
from kube.resources import CONFIG_MAPS
from kube.store import Store
from tests.fakes.apiserver import FakeApiServer

PATH = CONFIG_MAPS.path("default")


def settings(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


class Seen:
    def __init__(self, api: FakeApiServer) -> None:
        self.changes: list[tuple[str, str]] = []
        self.store = Store()
        self.reflector = Reflector(api.transport(), CONFIG_MAPS, self.store, self._note)

    def _note(self, old: Object | None, new: Object | None) -> None:
        item = new or old
        assert item is not None
        kind = "added" if old is None else "removed" if new is None else "changed"
        self.changes.append((kind, name_of(item)))

    def names(self) -> set[str]:
        return {name for _, name in self.store.keys()}  # noqa: SIM118  # a store is no dict


@pytest.fixture
def seen(api: FakeApiServer) -> Iterator[Seen]:
    mirror = Seen(api)
    yield mirror
    mirror.reflector.stop()


def test_store_follows_list_and_watch(api: FakeApiServer, seen: Seen) -> None:
    api.put(PATH, settings("first"))
    seen.reflector.start()
    assert seen.reflector.wait_listed(10)

    api.put(PATH, settings("second"))
    api.patch(CONFIG_MAPS.path("default", "first"), {"data": {"a": "1"}})
    api.wait(lambda: len(seen.changes) == 3)
    api.remove(CONFIG_MAPS.path("default", "second"))
    api.wait(lambda: seen.names() == {"first"})

    assert seen.changes == [("added", "first"), ("added", "second"), ("changed", "first"), ("removed", "second")]
    first = seen.store.get("default", "first")
    assert first is not None
    assert first["data"] == {"a": "1"}
    assert first["kind"] == "ConfigMap"


def test_expired_watch_lists_again_and_notices_what_vanished(api: FakeApiServer, seen: Seen) -> None:
    api.put(PATH, settings("stays"))
    api.put(PATH, settings("goes"))
    transport = api.transport()
    seen.reflector.step()

    transport.delete(CONFIG_MAPS.path("default", "goes"))
    api.forget()
    seen.reflector.step()
    seen.reflector.step()

    assert seen.names() == {"stays"}
    assert ("removed", "goes") in seen.changes


def test_refused_list_is_tried_again(api: FakeApiServer, seen: Seen) -> None:
    api.refuse("GET", CONFIG_MAPS.path(), 503)
    api.put(PATH, settings("only"))
    seen.reflector.start()

    api.wait(lambda: seen.names() == {"only"})


def test_silence_is_measured_from_the_last_word_of_the_server(api: FakeApiServer) -> None:
    now = [0.0]
    reflector = Reflector(api.transport(), CONFIG_MAPS, Store(), lambda old, new: None, clock=lambda: now[0])
    now[0] = 50.0
    assert reflector.silent_s == 50.0

    reflector.step()

    assert reflector.silent_s == 0.0
