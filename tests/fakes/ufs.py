"""An under file system in memory, whose faults a test switches on and whose calls it counts."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from datamodel.errors import Corrupt, HeadraceError, NotFound, Precondition, VersionChanged
from ufs.base import DIRECTORY, Entry, Stat, UnderFileSystem, check_path


@dataclass(frozen=True, slots=True)
class Planted:
    content: bytes
    mtime_ns: int
    version: str


@dataclass
class MemoryFileSystem(UnderFileSystem):
    """`UnderFileSystem` over *files*; folders are there as long as something is in them.

    *away* is raised by every call while it is set; *next_errors* by one call each, first in, first out. While *gate* is
    not set, reads wait for it. *ends_at* cuts every read off there, as a source does whose file shrinks unnoticed.
    """

    files: dict[str, Planted] = field(default_factory=dict)
    away: HeadraceError | None = None
    next_errors: list[HeadraceError] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    ends_at: int | None = None
    hides_sizes: bool = False
    hides_times: bool = False
    """In listings; a question for one name is answered in full."""
    errors_at: dict[str, HeadraceError] = field(default_factory=dict)
    """Raised by every call for one path."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(call, path), in the order in which they came."""
    calls: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    """(path, offset, length) of each read, in the order in which they came."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _clock_ns: int = 1_700_000_000_000_000_000

    def __post_init__(self) -> None:
        self.gate.set()

    def plant(self, path: str, content: bytes) -> None:
        """Make *path*, or give it new content, a later time and another version."""
        self._clock_ns += 1_000_000_000
        self.files[path] = Planted(content, self._clock_ns, f"v{self._clock_ns}")

    def remove(self, path: str) -> None:
        del self.files[path]

    def stat(self, path: str) -> Stat:
        self._enter("stat", path)
        if (file := self.files.get(path)) is not None:
            return Stat(is_dir=False, size=len(file.content), mtime_ns=file.mtime_ns, version=file.version)
        if self._is_folder(path):
            return DIRECTORY
        raise NotFound(f"{path!r}: nothing planted there")

    def list(self, path: str) -> Iterator[Entry]:
        self._enter("list", path)
        if not self._is_folder(path):
            raise NotFound(f"{path!r}: no folder")
        prefix = f"{path}/" if path else ""
        below = [name.removeprefix(prefix) for name in self.files if name.startswith(prefix)]
        for folder in sorted({name.partition("/")[0] for name in below if "/" in name}):
            yield Entry(folder, is_dir=True, size=0, mtime_ns=None)
        for name in below:
            if "/" not in name:
                file = self.files[prefix + name]
                size = None if self.hides_sizes else len(file.content)
                mtime_ns = None if self.hides_sizes or self.hides_times else file.mtime_ns
                yield Entry(name, is_dir=False, size=size, mtime_ns=mtime_ns)

    def read_range(self, path: str, version: str, offset: int, into: memoryview) -> int:
        self._enter("read_range", path)
        with self._lock:
            self.ranges.append((path, offset, len(into)))
        self.gate.wait()
        file = self.files.get(path)
        if file is None:
            raise NotFound(f"{path!r}: nothing planted there")
        if file.version != version:
            raise VersionChanged(f"{path!r}: pinned {version!r}, has {file.version!r}")
        found = file.content[: self.ends_at][offset : offset + len(into)]
        into[: len(found)] = found
        return len(found)

    def read_whole(self, path: str, limit: int) -> tuple[Stat, bytearray]:
        self._enter("read_whole", path)
        self.gate.wait()
        file = self.files.get(path)
        if file is None:
            raise NotFound(f"{path!r}: nothing planted there")
        if len(file.content) > limit:
            raise Precondition(f"{path!r}: longer than {limit}")
        if self.ends_at is not None and self.ends_at < len(file.content):
            raise Corrupt(f"{path!r}: ends at {self.ends_at}, before its promised size")
        stat = Stat(is_dir=False, size=len(file.content), mtime_ns=file.mtime_ns, version=file.version)
        return stat, bytearray(file.content)

    def close(self) -> None:
        """Nothing is held; whoever waits at the gate may go on."""
        self.gate.set()

    def _is_folder(self, path: str) -> bool:
        return path == "" or any(name.startswith(f"{path}/") for name in self.files)

    def _enter(self, call: str, path: str) -> None:
        check_path(path)
        with self._lock:
            self.calls[call] += 1
            self.asked.append((call, path))
            error = self.next_errors.pop(0) if self.next_errors else self.errors_at.get(path, self.away)
        if error is not None:
            raise error
