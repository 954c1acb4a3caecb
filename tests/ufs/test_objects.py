"""Keys as a tree: any set of keys, shown through any size of page, against the plain rule."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from datamodel.errors import NotFound
from ufs.base import Stat
from ufs.objects import Key, ObjectFileSystem


class MemoryBucket:
    """`ufs.objects.Bucket` over a set of keys."""

    def __init__(self, keys: set[str]) -> None:
        self._keys = keys

    def show(self, key: str) -> str:
        return f"memory://{key}"

    def stat(self, key: str) -> Stat:
        if key not in self._keys:
            raise NotFound(self.show(key))
        return Stat(is_dir=False, size=1, mtime_ns=0, version=f"{key};size:1")

    def read(self, key: str, version: str, offset: int, into: memoryview) -> int:
        raise NotFound(self.show(key))

    def read_whole(self, key: str, limit: int) -> tuple[Stat, bytearray]:
        return self.stat(key), bytearray(1)

    def list(self, prefix: str) -> Iterator[Key]:
        found = set()
        for key in self._keys:
            if key.startswith(prefix):
                first, slash, _ = key[len(prefix) :].partition("/")
                found.add(prefix + first + slash)
        return iter([Key(name, 1) for name in sorted(found)])

    def has_any(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self._keys)

    def close(self) -> None:
        """Nothing is open."""


KEYS = st.sets(st.text(alphabet="ab-/.~", min_size=1, max_size=8), max_size=12)


@given(KEYS)
def test_every_key_with_a_path_is_found_in_its_directory_and_nowhere_else(keys: set[str]) -> None:
    ufs = ObjectFileSystem(MemoryBucket(keys), "")

    assert dict(walk(ufs, "")) == tree_of(keys)


@given(KEYS)
def test_listing_never_contradicts_stat(keys: set[str]) -> None:
    ufs = ObjectFileSystem(MemoryBucket(keys), "")

    for path, is_dir in walk(ufs, ""):
        assert ufs.stat(path).is_dir == is_dir


def walk(ufs: ObjectFileSystem, folder: str) -> Iterator[tuple[str, bool]]:
    names = []
    for entry in ufs.list(folder):
        names.append(entry.name)
        path = f"{folder}/{entry.name}" if folder else entry.name
        yield path, entry.is_dir
        if entry.is_dir:
            yield from walk(ufs, path)
    assert len(names) == len(set(names))


def tree_of(keys: set[str]) -> dict[str, bool]:
    """Path to whether it is a directory, by the rule of `ufs.objects` without regard for cost."""
    found: dict[str, bool] = {}
    for key in keys:
        parts = key.split("/")
        for depth, part in enumerate(parts):
            if part in ("", ".", ".."):
                break
            path = "/".join(parts[: depth + 1])
            found[path] = found.get(path, False) or depth < len(parts) - 1
    return found
