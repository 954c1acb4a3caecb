"""The local copy of one kind of object, kept by a reflector and read by reconcilers. Thread-safe.

Objects in it are shared: readers must not change them. Extra indexes answer "which pods mount this claim" without a
walk over all pods.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping

from kube.objects import Object, key_of

Key = tuple[str, str]
Index = Callable[[Object], Iterable[Hashable]]
"""The values under which an object is found."""


class Store:
    """Objects by (namespace, name) and by the values of named *indexes*."""

    def __init__(self, indexes: Mapping[str, Index] | None = None) -> None:
        self._lock = threading.Lock()
        self._items: dict[Key, Object] = {}
        self._indexes = dict(indexes or {})
        self._found: dict[str, dict[Hashable, set[Key]]] = {name: {} for name in self._indexes}

    def get(self, namespace: str, name: str) -> Object | None:
        with self._lock:
            return self._items.get((namespace, name))

    def all(self) -> list[Object]:
        with self._lock:
            return list(self._items.values())

    def keys(self) -> set[Key]:
        with self._lock:
            return set(self._items)

    def by(self, index: str, value: Hashable) -> list[Object]:
        """Objects whose *index* holds *value*, sorted by key."""
        with self._lock:
            return [self._items[key] for key in sorted(self._found[index].get(value, ()))]

    def put(self, item: Object) -> Object | None:
        """Keep *item*; returns the one it replaces."""
        with self._lock:
            key = key_of(item)
            old = self._remove(key)
            self._items[key] = item
            for name, index in self._indexes.items():
                for value in index(item):
                    self._found[name].setdefault(value, set()).add(key)
            return old

    def remove(self, key: Key) -> Object | None:
        """Drop the object; returns it, or None if it was not there."""
        with self._lock:
            return self._remove(key)

    def _remove(self, key: Key) -> Object | None:
        item = self._items.pop(key, None)
        if item is None:
            return None
        for name, index in self._indexes.items():
            for value in index(item):
                keys = self._found[name].get(value, set())
                keys.discard(key)
                if not keys:
                    self._found[name].pop(value, None)
        return item
