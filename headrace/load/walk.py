"""Files below a path of a mount, one after the other: memory grows with the depth of the tree, not with its size."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """A regular file to load, *size* in bytes."""

    path: str
    size: int


Failed = Callable[[str, OSError], None]


def files(path: str, failed: Failed) -> Iterator[File]:
    """Every regular file at or below *path*, in the order in which the mount lists them; links are not followed.

    *failed* is told the folders and files that could not be looked at; the walk goes on.
    """
    try:
        if not os.path.isdir(path):
            yield File(path, os.stat(path).st_size)
            return
        first = os.scandir(path)
    except OSError as error:
        failed(path, error)
        return
    folders = [(path, first)]
    try:
        yield from _walk(folders, failed)
    finally:
        for _, entries in folders:
            entries.close()


def _walk(folders: "list[tuple[str, os._ScandirIterator[str]]]", failed: Failed) -> Iterator[File]:
    while folders:
        path, entries = folders[-1]
        try:
            entry = next(entries, None)
            if entry is None:
                folders.pop()
                entries.close()
                continue
            path = entry.path
            if entry.is_dir(follow_symlinks=False):
                folders.append((path, os.scandir(path)))
            elif entry.is_file(follow_symlinks=False):
                yield File(path, entry.stat(follow_symlinks=False).st_size)
        except OSError as error:
            failed(path, error)
            if entries is folders[-1][1] and path == folders[-1][0]:
                folders.pop()[1].close()  # the listing broke off: its source went away
