"""/proc/self/mountinfo as values. It is the only truth about what is mounted: it never blocks on a dead file system."""

import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line. *device* is `major:minor`; *root* the path inside the file system that is mounted at *target*."""

    mount_id: int
    device: str
    root: str
    target: str
    options: frozenset[str]
    kind: str
    source: str

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options


def _unescape(field: bytes) -> str:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field).decode(errors="surrogateescape")


def parse(text: bytes) -> list[Mount]:
    """Mounts in the order of the file, so that of several at one target the last is the visible one.

    Format: Linux `Documentation/filesystems/proc.rst`, section 3.5.
    """
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(b" - ")
        head, tail = left.split(b" "), right.split(b" ")
        if len(head) < 6 or len(tail) < 2:
            continue  # a torn last line of a racing read
        mounts.append(
            Mount(
                mount_id=int(head[0]),
                device=head[2].decode(),
                root=_unescape(head[3]),
                target=_unescape(head[4]),
                options=frozenset(head[5].decode().split(",")),
                kind=_unescape(tail[0]),
                source=_unescape(tail[1]),
            )
        )
    return mounts


def read(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """The current table, read until two reads agree (a single one can miss lines while mounts change)."""
    file = Path(path)
    text = file.read_bytes()
    for _ in range(10):
        again = file.read_bytes()
        if again == text:
            break
        text = again
    return parse(text)


def at(mounts: list[Mount], target: str) -> list[Mount]:
    """Layers at *target*, the visible one last."""
    return [mount for mount in mounts if mount.target == target]
