"""Puts a tier in order after processes that were killed: what nobody knows goes, and what is there gets counted.

Folder by folder, so that a million files cost neither memory nor the time of anybody else.
"""

import os
import time
from collections.abc import Collection, Iterator, Sequence

from blockcache.catalog import Catalog, Use
from blockcache.place import FOLDERS, Place
from blockcache.sparsefile import remove, stored_bytes
from blockcache.wholefile import is_whole
from obs import logs

log = logs.get("blockcache")

_PAGE = 10_000
_UNFINISHED_S = 60.0


def sweep(place: Place, places: Sequence[Place], catalog: Catalog) -> None:
    """Remove files of *place* that have no row or were never finished, and make the rows tell what is there.

    One that is in a nearer one of all *places* as well was about to be moved when its mover died.

    Raises:
        OSError: the medium does not answer. sqlite3.Error: nor does the catalog.
    """
    nearer, has_others = places[: place.index], len(places) > 1
    kept = removed = 0
    for number in range(FOLDERS):
        found = _stored(f"{place.blocks}/{number:02x}")
        known = catalog.known(found)
        double = {id for id in found for other in nearer if _is_there(other.stem(id))}
        unwanted = (found.keys() - known.keys()) | double
        for id in unwanted:
            remove(place.stem(id))
        # Of several tiers, the rows may name the wrong one.
        wrong = {id for id in known.keys() - double if has_others or known[id] != found[id]}
        _note(catalog, place, wrong)
        kept, removed = kept + len(found) - len(unwanted), removed + len(unwanted)
    lost = _forget_lost(place, catalog)
    log.info("cache.swept", path=place.tier.path, files=kept, removed=removed, lost=lost)


def _note(catalog: Catalog, place: Place, ids: Collection[int]) -> None:
    """Record what there is of *ids*, measured when no other process can write: one may be storing more just now."""
    if ids:
        catalog.note_use([], lambda: [Use(id, _cached_bytes(place.stem(id)), 0.0, place.index) for id in ids])


def _cached_bytes(stem: str) -> int:
    """What is cached of one file, whichever way it is kept."""
    return stored_bytes(f"{stem}.map") or (os.stat(stem).st_size if is_whole(stem) else 0)


def _stored(folder: str) -> dict[int, int]:
    """Bytes by id of what is in *folder*. Names that are not ours are left alone."""
    found: dict[int, int] = {}
    for entry, id, suffix in _entries(folder):
        try:
            found[id] = found.get(id, 0) + _size(entry, suffix)
        except FileNotFoundError:
            continue  # evicted or renamed meanwhile
    return found


def _entries(folder: str) -> Iterator[tuple[os.DirEntry[str], int, str]]:
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            number, dot, suffix = entry.name.partition(".")
            if number.isascii() and number.isdecimal():
                yield entry, int(number), dot + suffix


def _size(entry: os.DirEntry[str], suffix: str) -> int:
    """What counts for one name: a map speaks for its data file; a file without one needs the mark of a whole one."""
    if suffix == ".map":
        return stored_bytes(entry.path)
    if suffix or not entry.is_file(follow_symlinks=False):
        return 0
    if is_whole(entry.path):
        return entry.stat(follow_symlinks=False).st_size
    age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
    if not os.path.exists(f"{entry.path}.map") and not 0 <= age_s < _UNFINISHED_S:
        os.unlink(entry.path)  # nobody will finish it
    return 0


def _forget_lost(place: Place, catalog: Catalog) -> int:
    """Rows of files that went without us: a memory tier forgets with the machine. Returns how many."""
    after = lost = 0
    while page := catalog.cached_after(place.index, after, _PAGE):
        gone = [id for id in page if not _is_there(place.stem(id))]
        _note(catalog, place, gone)
        after, lost = page[-1], lost + len(gone)
    return lost


def _is_there(stem: str) -> bool:
    return os.path.exists(stem) or os.path.exists(f"{stem}.map")
