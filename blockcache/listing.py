"""Writing what sources say into the catalog: one name, or a directory's whole listing in pieces.

Transactions are bounded, so that no other process waits long for its turn. A listing that breaks off has added names
and brought changed ones up to date, but dropped none: `Listing.finish` alone does that.
"""

import os
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence

from blockcache.database import Database
from blockcache.rows import ROOT_ID, Listed, Node, Verdict, compare
from datamodel.errors import VersionChanged
from obs import logs

log = logs.get("blockcache")

COLUMNS = (
    "id, parent, name, is_dir, size, mtime_ns, version, incarnation, listed_at, link_target, is_executable, folders,"
    " is_vouched, checked_at, changed_ns"
)
_NAMES_AT_ONCE = 1000
_ROWS_AT_ONCE = 5000
_LONGEST_NAME_BYTES = 255

Row = tuple[
    int,
    int,
    bytes,
    int,
    int | None,
    int | None,
    str,
    int,
    float | None,
    bytes | None,
    int,
    int,
    int,
    float | None,
    int | None,
]


def node_of(row: Row) -> Node:
    """The value of a row of `COLUMNS`."""
    is_dir, mtime_ns, link_target = row[3] == 1, row[5], row[9]
    return Node(
        row[0],
        row[1],
        os.fsdecode(row[2]),
        is_dir,
        row[4],
        row[14] if mtime_ns is None else mtime_ns,
        row[6],
        row[7],
        row[8],
        None if link_target is None else os.fsdecode(link_target),
        row[10] == 1,
        0 if row[8] is None else row[11],
        row[12] == 1,
        row[13],
    )


class Listing:
    """The listing of directory *parent* on its way into the catalog. `add` pieces, then `finish`; from any thread."""

    def __init__(self, database: Database, parent: int, writer: int) -> None:
        self._database, self._parent, self._writer = database, parent, writer
        connection = database.connection
        (self._first_new_id,) = connection.execute("SELECT next_id FROM counter").fetchone()
        found = connection.execute("SELECT listed_at FROM node WHERE id = ?", (parent,)).fetchone()
        self._is_first = found is None or found[0] is None
        self._seen = array("q")
        """Rows from before this listing that it confirmed. Eight bytes each, where names would be a hundred."""
        self._has_changed = False

    def add(self, entries: Iterable[Listed]) -> tuple[str, ...]:
        """Record *entries*; the names below which readers would see something else now."""
        changed: list[str] = []
        wanted = {os.fsencode(entry.name): entry for entry in entries}
        refused = [name for name in wanted if not _is_possible(name)]
        for name in refused:
            del wanted[name]
        if refused:
            log.warning("names.refused", names=len(refused), first=os.fsdecode(refused[0]))
        names = list(wanted)
        for start in range(0, len(names), _NAMES_AT_ONCE):
            changed += self._add({name: wanted[name] for name in names[start : start + _NAMES_AT_ONCE]})
        return tuple(changed)

    def _add(self, wanted: dict[bytes, Listed]) -> list[str]:
        with self._database.writing() as connection:
            _check_parent(connection, self._parent)
            changed: list[bytes] = []
            for known in _known(connection, self._parent, list(wanted)):
                name = os.fsencode(known.name)
                verdict, merged = compare(known, wanted[name], is_listing=True)
                if verdict is Verdict.OTHER:
                    connection.execute("DELETE FROM node WHERE id = ?", (known.id,))
                else:
                    del wanted[name]
                    if known.id < self._first_new_id:
                        self._seen.append(known.id)
                if verdict is Verdict.SHOWN or verdict is Verdict.SILENT:
                    update(connection, merged)
                if verdict is Verdict.SHOWN or verdict is Verdict.OTHER:
                    changed.append(name)
            if wanted:
                insert(connection, self._parent, wanted, is_listing=True)
            if not self._is_first:
                changed = [*dict.fromkeys([*changed, *wanted])]
                self._has_changed = self._has_changed or bool(wanted)
            note_changes(connection, self._parent, changed, self._writer)
        settle_dropped(self._database)
        return [os.fsdecode(name) for name in changed]

    def finish(self, now: float) -> Iterable[tuple[str, ...]]:
        """Drop what was not added, and note that the directory was listed at *now*; the dropped names, in pieces."""
        seen = sorted(self._seen)
        after = position = 0
        while page := self._page(after):
            after = page[-1][0]
            gone: list[tuple[int, bytes]] = []
            for id, name in page:
                while position < len(seen) and seen[position] < id:
                    position += 1
                if position == len(seen) or seen[position] != id:
                    gone.append((id, name))
            if gone:
                self._drop(gone)
                yield tuple(os.fsdecode(name) for _, name in gone)
        with self._database.writing() as connection:
            # The root has no time yet: no listing of its own put it there.
            query = "UPDATE node SET listed_at = ?, is_left_out = 0, changed_ns = coalesce(changed_ns, ?) WHERE id = ?"
            connection.execute(query, (now, time.time_ns(), self._parent))
            if self._has_changed:
                stamp(connection, self._parent)

    def _page(self, after: int) -> list[tuple[int, bytes]]:
        query = "SELECT id, name FROM node WHERE parent = ? AND id > ? AND id < ? ORDER BY id LIMIT ?"
        values = (self._parent, after, self._first_new_id, _ROWS_AT_ONCE)
        return self._database.connection.execute(query, values).fetchall()

    def _drop(self, gone: Sequence[tuple[int, bytes]]) -> None:
        with self._database.writing() as connection:
            connection.executemany("DELETE FROM node WHERE id = ?", [(id,) for id, _ in gone])
            note_changes(connection, self._parent, [name for _, name in gone], self._writer)
        self._has_changed = True
        settle_dropped(self._database)


def record(database: Database, parent: int, entry: Listed, writer: int) -> tuple[Node, bool]:
    """Make one child what the source says of it now; its row, and whether readers see something else now.

    Raises:
        VersionChanged: *parent* is gone.
    """
    name = os.fsencode(entry.name)
    with database.writing() as connection:
        _check_parent(connection, parent)
        known = next(_known(connection, parent, [name]), None)
        verdict, merged = (Verdict.OTHER, known) if known is None else compare(known, entry, is_listing=False)
        if verdict is Verdict.OTHER:
            if known is not None:
                connection.execute("DELETE FROM node WHERE id = ?", (known.id,))
            insert(connection, parent, {name: entry}, is_listing=False)
            stamp(connection, parent)
        elif verdict is not Verdict.SAME and merged is not None:
            update(connection, merged)
        query = "UPDATE node SET checked_at = ? WHERE parent = ? AND name = ?"
        connection.execute(query, (database.clock(), parent, name))
        is_shown = verdict in (Verdict.OTHER, Verdict.SHOWN)
        if is_shown:
            note_changes(connection, parent, [name], writer)
        node = next(_known(connection, parent, [name]))
    settle_dropped(database)
    return node, is_shown


def forget(database: Database, id: int, writer: int) -> tuple[int, str] | None:
    """Drop a row; the (parent, name) that it had, None where it was gone already."""
    with database.writing() as connection:
        query = "DELETE FROM node WHERE id = ? AND id != ? RETURNING parent, name"
        found = connection.execute(query, (id, ROOT_ID)).fetchall()
        for parent, name in found:
            stamp(connection, parent)
            note_changes(connection, parent, [name], writer)
    settle_dropped(database)
    return (int(found[0][0]), os.fsdecode(found[0][1])) if found else None


def insert(connection: sqlite3.Connection, parent: int, entries: dict[bytes, Listed], *, is_listing: bool) -> None:
    """New rows; *is_listing*: a listing will tell when one of them is outdated, if it tells enough."""
    query = "UPDATE counter SET next_id = next_id + ? RETURNING next_id - ?"
    ((first,),) = connection.execute(query, (len(entries), len(entries))).fetchall()
    now_ns = time.time_ns()
    connection.executemany(
        "INSERT INTO node (id, parent, name, is_dir, size, mtime_ns, version, link_target, is_executable, is_vouched,"
        " changed_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            _values(first + index, parent, name, entry, is_listing, now_ns)
            for index, (name, entry) in enumerate(entries.items())
        ),
    )


def _values(id: int, parent: int, name: bytes, entry: Listed, is_listing: bool, now_ns: int) -> tuple[object, ...]:
    if entry.is_dir:
        return id, parent, name, 1, None, entry.mtime_ns, "", None, 0, 0, now_ns
    is_executable, is_vouched = int(entry.is_executable), int(is_listing and entry.is_telling)
    if entry.link_target is not None:
        target = os.fsencode(entry.link_target)
        return id, parent, name, 0, len(target), entry.mtime_ns, "", target, 0, is_vouched, None
    return id, parent, name, 0, entry.size, entry.mtime_ns, entry.version, None, is_executable, is_vouched, None


def update(connection: sqlite3.Connection, node: Node) -> None:
    """Write what `compare` merged."""
    connection.execute(
        "UPDATE node SET size = ?, mtime_ns = ?, version = ?, is_executable = ?, is_vouched = ? WHERE id = ?",
        (node.size, node.mtime_ns, node.version, node.is_executable, node.is_vouched, node.id),
    )


def stamp(connection: sqlite3.Connection, directory: int) -> None:
    """The names of *directory* are others now. Before its first listing that is no news to anybody."""
    query = "UPDATE node SET changed_ns = max(?, coalesce(changed_ns, 0) + 1) WHERE id = ? AND listed_at IS NOT NULL"
    connection.execute(query, (time.time_ns(), directory))


def note_changes(connection: sqlite3.Connection, parent: int, names: Sequence[bytes], writer: int) -> None:
    """Tell the other processes."""
    rows = [(parent, name, writer) for name in names]
    connection.executemany("INSERT INTO change (parent, name, writer) VALUES (?, ?, ?)", rows)


def settle_dropped(database: Database) -> None:
    """Drop what is below dropped directories, a bounded number of rows per transaction."""
    while (found := database.connection.execute("SELECT id FROM dropped LIMIT 1").fetchone()) is not None:
        with database.writing() as connection:
            query = "DELETE FROM node WHERE id IN (SELECT id FROM node WHERE parent = ? LIMIT ?)"
            if connection.execute(query, (found[0], _ROWS_AT_ONCE)).rowcount < _ROWS_AT_ONCE:
                connection.execute("DELETE FROM dropped WHERE id = ?", found)


def _known(connection: sqlite3.Connection, parent: int, names: Sequence[bytes]) -> Iterator[Node]:
    query = f"SELECT {COLUMNS} FROM node WHERE parent = ? AND name IN ({','.join('?' * len(names))})"
    return map(node_of, connection.execute(query, (parent, *names)).fetchall())


def _check_parent(connection: sqlite3.Connection, parent: int) -> None:
    if connection.execute("SELECT 1 FROM node WHERE id = ?", (parent,)).fetchone() is None:
        raise VersionChanged(f"node {parent}: the directory is gone from the source by now")


def _is_possible(name: bytes) -> bool:
    """Whether a directory can have an entry of that name."""
    return 0 < len(name) <= _LONGEST_NAME_BYTES and name not in (b".", b"..") and b"/" not in name and b"\0" not in name
