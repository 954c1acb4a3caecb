"""Which symbolic links of a local tree may be shown, and with what text.

A link is shown if following it, through all links on its way, never leaves the source: readers of a mount follow the
same text through the same links, so they don't leave the mount either. Whether the way ends at a file, at nothing or in
a circle is no matter. This decides what is shown; what is read is opened by `ufs.beneath`, whatever changes meanwhile.
"""

import os

from datamodel.errors import NotFound
from obs import logs

log = logs.get("ufs")

_MOST_WARNINGS = 100
_MOST_LINKS = 40  # where the kernel gives up, too


class Links:
    """Warns of each refused link once, up to a number; may be used by many threads."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def shown(self, root: str, path: str, target: str) -> str:
        """The text to show for the link at *path* below *root*, whose own text is *target*.

        Raises:
            NotFound: it leads out of *root*.
        """
        folder = path.rpartition("/")[0]
        text = _relative(root, folder, target) if target.startswith("/") else target
        if text is None or _leads_out(root, folder, text):
            self._warn(f"{root}/{path}", target)
            raise NotFound(f"{root}/{path}: the link leads out of the source, to {target!r}")
        return text

    def _warn(self, path: str, target: str) -> None:
        if path not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(path)
            log.warning("link.refused", path=path, target=target)


def _relative(root: str, folder: str, target: str) -> str | None:
    """The absolute *target* as seen from *folder* below *root*; None where it is not below."""
    inside = _inside(root, target)
    if inside is None:
        return None
    up = [".."] * len(_parts(folder))
    return "/".join([*up, *_parts(inside)]) or "."


def _inside(root: str, target: str) -> str | None:
    for base in (root, os.path.realpath(root)):
        if target == base or target.startswith(base.rstrip("/") + "/"):
            return target[len(base) :]
    return None


def _leads_out(root: str, folder: str, text: str) -> bool:
    """Walk as the kernel would for a reader of the mount, whose root is *root* and whose links are rewritten."""
    reached, waiting, links = _parts(folder), _parts(text), 0
    while waiting and links <= _MOST_LINKS:
        part = waiting.pop(0)
        if part == "..":
            if not reached:
                return True
            reached.pop()
            continue
        target = _read(root, [*reached, part])
        if target is None:
            reached.append(part)
            continue
        links += 1
        if target.startswith("/"):
            inside = _inside(root, target)
            if inside is None:
                return True
            reached, target = [], inside
        waiting = [*_parts(target), *waiting]
    return False


def _read(root: str, parts: list[str]) -> str | None:
    """What the link at *parts* names; None where there is none."""
    try:
        return os.readlink(os.path.join(root, *parts))
    except OSError:
        return None  # no link, or nothing at all: where readers end up then is inside


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
