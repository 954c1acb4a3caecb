"""The dataset's names as a SQLite file: rows are inodes, and row ids never change or come back.

Several processes of one mount share the file (WAL). A file whose content changes at the source gets a new row, so
bytes of two versions can never be cached under one id. Row 1 is the root of the dataset.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockcache import listing
from blockcache.database import Database
from blockcache.listing import COLUMNS, Listing, node_of
from blockcache.rows import ROOT_ID, Listed, Node, Use
from datamodel.errors import VersionChanged
from obs import logs

log = logs.get("blockcache")

__all__ = ["CATALOG_NAME", "ROOT_ID", "Catalog", "Changes", "Listed", "Listing", "Name", "Node", "Use"]

CATALOG_NAME = "catalog.sqlite"
"""Its file in the folder of the cache."""
_KEPT_CHANGES = 100_000
_REMEMBERED = 4096


Name = tuple[int, bytes, int, int, int, int, int, int, int]
"""Row, name, whether it is a directory, size in bytes, mtime in ns since 1970 (both 0 where unknown), incarnation,
number of links (1 for a directory whose children nobody counted), whether it is a symbolic link, whether executable."""
_NAME = """
    SELECT id, name, is_dir, coalesce(size, {unknown}), coalesce(mtime_ns, changed_ns, 0), incarnation,
        iif(is_dir AND listed_at IS NOT NULL, 2 + folders, 1), link_target IS NOT NULL, is_executable
    FROM node WHERE parent = ?
"""
_NAMES = _NAME.format(unknown="0") + "AND id > ? ORDER BY id LIMIT ?"
_ONE_NAME = _NAME.format(unknown="is_dir - 1") + "AND name = ?"


@dataclass(frozen=True, slots=True)
class Changes:
    """What other processes changed: names by directory. *is_all*: more than is remembered, so anything may have."""

    last: int
    names: dict[int, tuple[str, ...]]
    is_all: bool


class Catalog:
    """Thread-safe: each thread has its own connection. A damaged file is started afresh: it is a cache.

    Raises:
        Unavailable: the folder of *path* cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self._remembered: dict[int, Node] = {}
        self._remembered_as_of = self._database.generation
        self._writer = secrets.randbits(62)
        self._by_id = f"SELECT {COLUMNS} FROM node WHERE id = ?"
        self._by_name = f"SELECT {COLUMNS} FROM node WHERE parent = ? AND name = ?"
        columns = ", ".join(f"child.{column}" for column in COLUMNS.split(", "))
        self._in_parent = (
            f"SELECT {columns}, node.listed_at FROM node LEFT JOIN node AS child"
            " ON child.parent = node.id AND child.name = ? WHERE node.id = ?"
        )
        self._by_parent = f"SELECT {COLUMNS} FROM node WHERE parent = ? AND id > ? ORDER BY id LIMIT ?"

    def clock(self) -> float:
        """Seconds that go on whatever happens to the system's clock; the same for all processes, close to Unix time."""
        return self._database.clock()

    def get(self, id: int) -> Node | None:
        """The row *id*, out of memory where nobody has changed anything since it was read."""
        generation = self._database.generation
        if generation != self._remembered_as_of or len(self._remembered) >= _REMEMBERED:
            self._remembered, self._remembered_as_of = {}, generation
        remembered = self._remembered
        node = remembered.get(id)
        if node is None and (node := self._read(id)) is not None:
            remembered[id] = node
        return node

    def _read(self, id: int) -> Node | None:
        row = self._database.connection.execute(self._by_id, (id,)).fetchone()
        return None if row is None else node_of(row)

    def forget_rows(self) -> None:
        """Remember nothing; for once in a while, as a process may die between its change and telling of it."""
        self._remembered = {}

    def lookup(self, parent: int, name: str) -> Node | None:
        row = self._database.connection.execute(self._by_name, (parent, os.fsencode(name))).fetchone()
        return None if row is None else node_of(row)

    def find(self, parent: int, name: str) -> tuple[Node | None, float | None]:
        """The child *name* of directory *parent*, and when the directory was listed.

        Raises:
            VersionChanged: *parent* is gone.
        """
        row = self._database.connection.execute(self._in_parent, (os.fsencode(name), parent)).fetchone()
        if row is None:
            raise VersionChanged(f"node {parent}: the directory is gone from the source by now")
        return (None if row[0] is None else node_of(row)), row[-1]

    def children(self, parent: int, after: int = 0, limit: int = 1000) -> list[Node]:
        """Entries of a directory in a stable order (by id), from the first id above *after*."""
        return list(map(node_of, self._database.connection.execute(self._by_parent, (parent, after, limit))))

    def reserve(self) -> None:
        """Keep room for names and versions although the disk is full. Cheap where there is some.

        Raises:
            sqlite3.OperationalError: the disk is full already.
        """
        self._database.reserve()

    def name(self, parent: int, name: bytes) -> Name | None:
        """As `lookup`, but no more than its attributes take, and fast. A size that is not known yet is -1."""
        found: Name | None = self._database.connection.execute(_ONE_NAME, (parent, name)).fetchone()
        return found

    def names(self, parent: int, after: int, limit: int) -> list[Name]:
        """As `children`, but no more than a listing with attributes takes, and fast."""
        return self._database.connection.execute(_NAMES, (parent, after, limit)).fetchall()

    # ---- what sources say ---------------------------------------------------------------------------------------

    def begin_listing(self, parent: int) -> Listing:
        """A listing of directory *parent* that comes in pieces. Begin before the source is asked."""
        return Listing(self._database, parent, self._writer)

    def record_listing(self, parent: int, entries: Iterable[Listed], now: float) -> tuple[str, ...]:
        """Make the children of *parent* what the source lists: new rows, changed rows, and gone ones dropped.

        What was cached of dropped and changed files is told by `take_orphans`.

        Returns:
            Names below which readers see something else now.
        """
        begun = self.begin_listing(parent)
        changed = list(begun.add(entries))
        for names in begun.finish(now):
            changed += names
        return tuple(changed)

    def record(self, parent: int, entry: Listed) -> Node:
        """Make one child what the source says of it, and return its row (a new one if its content changed)."""
        return self.record_change(parent, entry)[0]

    def record_change(self, parent: int, entry: Listed) -> tuple[Node, bool]:
        """As `record`, and whether readers see something else now."""
        return listing.record(self._database, parent, entry, self._writer)

    def pin(self, found: Sequence[tuple[int, Listed]]) -> list[Node | None]:
        """Set the version of files whose content came along with it, all in one transaction.

        Their rows in the same order; None where the row is gone or stands for other content.
        """
        query = """
            UPDATE node SET size = ?1, mtime_ns = coalesce(?2, mtime_ns), version = ?3, checked_at = ?5
            WHERE id = ?4 AND is_dir = 0 AND version IN ('', ?3) AND (size IS NULL OR size = ?1)
        """
        rows: list[Node | None] = []
        with self._database.writing() as db:
            for id, entry in found:
                values = (entry.size, entry.mtime_ns, entry.version, id, self.clock())
                rows.append(self._read(id) if db.execute(query, values).rowcount else None)
        return rows

    def forget(self, id: int) -> tuple[int, str] | None:
        """Drop a row: the source has the name no more. Its (parent, name), None if it was gone already."""
        return listing.forget(self._database, id, self._writer)

    def turn_from(self, id: int, incarnation: int) -> None:
        """Give *id* its next incarnation if *incarnation* is still the present one: whoever is late turns nothing."""
        query = "UPDATE node SET incarnation = incarnation + 1 WHERE id = ? AND incarnation = ?"
        if self._database.connection.execute(query, (id, incarnation)).rowcount:
            self._database.note_shown()

    def turn(self, id: int, *, passthrough: bool) -> Node | None:
        """Give *id* its next incarnation if its mode is not the one asked for; the row as it is then."""
        parity = 1 if passthrough else 0
        query = "UPDATE node SET incarnation = incarnation + 1 WHERE id = ? AND incarnation % 2 != ?"
        if self._database.connection.execute(query, (id, parity)).rowcount:
            self._database.note_shown()
        return self.get(id)

    # ---- what the crawl has still to do -------------------------------------------------------------------------

    def unlisted(self, after: int, limit: int) -> list[int]:
        """Directories that were never listed and may be, from the first id above *after*: upper levels come first."""
        query = (
            "SELECT id FROM node WHERE is_dir = 1 AND is_left_out = 0 AND listed_at IS NULL AND id > ?"
            " ORDER BY id LIMIT ?"
        )
        return [int(id) for (id,) in self._database.connection.execute(query, (after, limit))]

    def listed_before(self, when: float, limit: int) -> list[int]:
        """Directories whose listing is older than *when* (seconds of `clock`), oldest first."""
        query = "SELECT id FROM node WHERE is_dir = 1 AND is_left_out = 0 AND listed_at < ? ORDER BY listed_at LIMIT ?"
        return [int(id) for (id,) in self._database.connection.execute(query, (when, limit))]

    def listed_folders(self, parent: int) -> list[int]:
        """Directories in *parent* that were listed."""
        query = "SELECT id FROM node WHERE parent = ? AND is_dir = 1 AND listed_at IS NOT NULL"
        return [int(id) for (id,) in self._database.connection.execute(query, (parent,))]

    def unvouched(self, parent: int) -> list[int]:
        """Files in *parent* whose version is known, but whose listing would not show that it changed."""
        query = "SELECT id FROM node WHERE parent = ? AND version != '' AND is_vouched = 0"
        return [int(id) for (id,) in self._database.connection.execute(query, (parent,))]

    def repeats(self, directory: int, above: int) -> bool:
        """Whether *directory* has the very names and sizes of *above*: a link up, shown as a directory."""
        query = """
            SELECT EXISTS (SELECT 1 FROM node WHERE parent = ?1) AND NOT EXISTS (
                SELECT 1 FROM node AS here WHERE here.parent = ?1 AND NOT EXISTS (
                    SELECT 1 FROM node AS there WHERE there.parent = ?2 AND there.name = here.name
                    AND there.is_dir = here.is_dir AND there.size IS here.size))
        """
        connection = self._database.connection
        pairs = ((directory, above), (above, directory))
        return all(connection.execute(query, pair).fetchone()[0] for pair in pairs)

    def leave_out(self, id: int, *, children: bool = False, for_now: bool = False) -> None:
        """Have directory *id*, or those in it, not crawled; each is still listed when somebody asks for it."""
        query = f"UPDATE node SET is_left_out = ? WHERE {'parent' if children else 'id'} = ? AND is_dir = 1"
        self._database.connection.execute(query, (1 if for_now else 2, id))

    def forgive(self) -> None:
        """Crawl again what was left out for now."""
        self._database.connection.execute("UPDATE node SET is_left_out = 0 WHERE is_dir = 1 AND is_left_out = 1")

    @property
    def is_complete(self) -> bool:
        """Whether every directory that can be listed was, so that `totals` are the dataset's."""
        return not self.unlisted(0, 1)

    # ---- news between processes ---------------------------------------------------------------------------------

    def request_refresh(self, path: str) -> int:
        """Have what was listed at and below *path* listed again; "" is all. By whichever process keeps the cache.

        Returns:
            A number for `is_refresh_pending`.
        """
        text = os.fsencode(path.strip("/"))
        row = self._database.connection.execute(
            "INSERT INTO refresh (path) VALUES (?) RETURNING id", (text,)
        ).fetchall()
        return int(row[0][0])

    def is_refresh_pending(self, request: int) -> bool:
        return bool(self._database.connection.execute("SELECT 1 FROM refresh WHERE id = ?", (request,)).fetchall())

    def refreshes(self) -> list[tuple[int, str]]:
        """(request, path) still to do, in the order they were asked for."""
        rows = self._database.connection.execute("SELECT id, path FROM refresh ORDER BY id").fetchall()
        return [(int(id), os.fsdecode(path)) for id, path in rows]

    def end_refresh(self, request: int) -> None:
        self._database.connection.execute("DELETE FROM refresh WHERE id = ?", (request,))

    @property
    def doubted_at(self) -> float:
        """Answers about single names that are older (in seconds of `clock`) are not believed any more."""
        return float(self._database.connection.execute("SELECT doubted_at FROM counter").fetchone()[0])

    def doubt_all(self) -> None:
        """Have every process ask again for the single names that it asked for before now."""
        with self._database.writing() as connection:
            connection.execute("UPDATE counter SET doubted_at = ?", (self.clock(),))
            listing.note_changes(connection, 0, [b""], self._writer)

    def last_change(self) -> int:
        """Where `changes` has to begin for what comes from now on."""
        query = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'change'), 0)"
        return int(self._database.connection.execute(query).fetchone()[0])

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """What other processes have changed since *after*, at most *limit* names of it: ask again until none is new."""
        query = "SELECT id, parent, name, writer FROM change WHERE id > ? ORDER BY id LIMIT ?"
        rows = self._database.connection.execute(query, (after, limit)).fetchall()
        if not rows:
            return Changes(after, {}, is_all=False)
        names: dict[int, list[str]] = {}
        for _, parent, name, writer in rows:
            if writer != self._writer:
                names.setdefault(parent, []).append(os.fsdecode(name))
        is_all = rows[0][0] > after + 1 or names.pop(0, None) is not None
        return Changes(rows[-1][0], {parent: tuple(found) for parent, found in names.items()}, is_all)

    def prune_changes(self) -> None:
        """Forget changes that every process has had the time to hear of."""
        self._database.connection.execute("DELETE FROM change WHERE id <= ?", (self.last_change() - _KEPT_CHANGES,))

    def adopt(self, identities: Mapping[str, str]) -> None:
        """Drop the names below each source that is another one, by *identities* (path: text), than the last time."""
        connection = self._database.connection
        known = dict(connection.execute("SELECT path, identity FROM source").fetchall())
        if known == dict(identities):
            return
        with self._database.writing():
            for path in (path for path, identity in known.items() if identity != identities.get(path)):
                log.info("source.replaced", path=path)
                condition, values = ("name = ?", (os.fsencode(path[1:]),)) if path != "/" else ("true", ())
                connection.execute(f"DELETE FROM node WHERE parent = {ROOT_ID} AND {condition}", values)
            connection.execute("UPDATE node SET listed_at = NULL WHERE id = ?", (ROOT_ID,))
            connection.execute("DELETE FROM source")
            connection.executemany("INSERT INTO source VALUES (?, ?)", list(identities.items()))
        listing.settle_dropped(self._database)

    # ---- what is cached -----------------------------------------------------------------------------------------

    def note_use(self, uses: Sequence[Use], measure: Callable[[], Sequence[Use]] = tuple) -> None:
        """Record what was used and stored of several files in one go.

        What else *measure* tells is asked for when no other process can write, so that the last measure is recorded.
        """
        with self._database.writing(is_shown=False) as db:
            uses = [*uses, *measure()]
            db.executemany(
                "UPDATE node SET used_at = max(used_at, ?) WHERE id = ?", [(use.used_at, use.id) for use in uses]
            )
            db.executemany(
                "UPDATE node SET cached_bytes = ?, tier = ? WHERE id = ?",
                [(use.cached_bytes, use.tier, use.id) for use in uses if use.cached_bytes is not None],
            )

    def cached_by_tier(self) -> dict[int, int]:
        """Cached bytes by index of the tier, of those that hold any."""
        query = "SELECT tier, bytes FROM tier_total WHERE bytes > 0"
        return {int(tier): int(size) for tier, size in self._database.connection.execute(query)}

    def least_used(self, tier: int, limit: int) -> list[tuple[int, int]]:
        """(id, cached bytes) of files cached in *tier*, least recently used first."""
        query = "SELECT id, cached_bytes FROM node WHERE cached_bytes > 0 AND tier = ? ORDER BY used_at LIMIT ?"
        return [(int(id), int(size)) for id, size in self._database.connection.execute(query, (tier, limit))]

    def cached_after(self, tier: int, after: int, limit: int) -> list[int]:
        """Files of which something is cached in *tier*, from the first id above *after*."""
        query = "SELECT id FROM node WHERE id > ? AND cached_bytes > 0 AND tier = ? ORDER BY id LIMIT ?"
        return [int(id) for (id,) in self._database.connection.execute(query, (after, tier, limit))]

    def note_evicted(self, id: int) -> int | None:
        """Nothing of *id* is cached any more; the incarnation it had until now, None if its row is gone."""
        return self.note_all_evicted([id]).get(id)

    def note_all_evicted(self, ids: Iterable[int]) -> dict[int, int]:
        """Nothing of *ids* is cached any more; the incarnations until now of those that have a row."""
        these, listed = "id IN (SELECT value FROM json_each(?))", json.dumps(list(ids))
        with self._database.writing() as db:
            before = db.execute(f"SELECT id, incarnation FROM node WHERE {these}", (listed,)).fetchall()
            query = f"UPDATE node SET cached_bytes = 0, incarnation = incarnation + incarnation % 2 WHERE {these}"
            db.execute(query, (listed,))
        return {int(id): int(incarnation) for id, incarnation in before}

    def known(self, ids: Iterable[int]) -> dict[int, int]:
        """Cached bytes, as recorded, of those of *ids* that have a row."""
        query = "SELECT id, cached_bytes FROM node WHERE id IN (SELECT value FROM json_each(?))"
        return {int(id): int(size) for id, size in self._database.connection.execute(query, (json.dumps(list(ids)),))}

    def take_orphans(self) -> list[tuple[int, int]]:
        """(id, incarnation) of files whose row went and of which something may be cached; each is told once."""
        rows = self._database.connection.execute("DELETE FROM orphan RETURNING id, incarnation")
        return [(int(id), int(incarnation)) for id, incarnation in rows]

    def sizes(self, limit: int) -> list[int]:
        """Known sizes of the files that were seen first, *limit* at most."""
        query = "SELECT size FROM node WHERE is_dir = 0 AND link_target IS NULL AND size IS NOT NULL LIMIT ?"
        return [int(size) for (size,) in self._database.connection.execute(query, (limit,))]

    def totals(self) -> tuple[int, int]:
        """(number of files, sum of their known sizes) seen so far."""
        row = self._database.connection.execute("SELECT files, bytes FROM counter").fetchone()
        return int(row[0]), int(row[1])
