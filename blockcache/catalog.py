"""The dataset's names as a SQLite file: rows are inodes, and row ids never change or come back.

Several processes of one mount share the file (WAL). A file whose content changes at the source gets a new row, so
bytes of two versions can never be cached under one id. Row 1 is the root of the dataset.
"""

import fcntl
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodel.errors import Unavailable
from obs import logs

log = logs.get("blockcache")

ROOT_ID = 1
CATALOG_NAME = "catalog.sqlite"
"""Its file in the first tier."""
_SCHEMA_VERSION = 3
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS node (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    is_dir INTEGER NOT NULL,
    size INTEGER,              -- NULL: not known exactly yet
    mtime_ns INTEGER,
    version TEXT NOT NULL,     -- '' : not pinned yet
    incarnation INTEGER NOT NULL DEFAULT 0,
    listed_at REAL,            -- directories: when their listing was taken (Unix seconds)
    cached_bytes INTEGER NOT NULL DEFAULT 0,
    tier INTEGER NOT NULL DEFAULT 0,  -- which of the configured tiers holds them
    used_at REAL NOT NULL DEFAULT 0,
    UNIQUE (parent, name)
) STRICT;
CREATE INDEX IF NOT EXISTS by_parent ON node (parent);  -- with the id, in order: a page of a directory
CREATE INDEX IF NOT EXISTS by_use ON node (tier, used_at) WHERE cached_bytes > 0;
CREATE TABLE IF NOT EXISTS orphan (id INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS keep_orphan AFTER DELETE ON node WHEN old.is_dir = 0 AND old.version != ''
BEGIN INSERT OR IGNORE INTO orphan VALUES (old.id, old.incarnation); END;
CREATE TRIGGER IF NOT EXISTS drop_below AFTER DELETE ON node WHEN old.is_dir = 1
BEGIN DELETE FROM node WHERE parent = old.id; END;
INSERT OR IGNORE INTO node (id, parent, name, is_dir, version) VALUES ({ROOT_ID}, 0, x'', 1, '');
PRAGMA user_version = {_SCHEMA_VERSION};
"""
_COLUMNS = "id, parent, name, is_dir, size, mtime_ns, version, incarnation, listed_at"


@dataclass(frozen=True, slots=True)
class Node:
    """One row. *size* in bytes, None while unknown; *version* is empty until pinned; *listed_at* in Unix seconds.

    An odd *incarnation* means that the kernel reads the file by passthrough, an even one that the daemon serves it.
    """

    id: int
    parent: int
    name: str
    is_dir: bool
    size: int | None
    mtime_ns: int | None
    version: str
    incarnation: int
    listed_at: float | None


@dataclass(frozen=True, slots=True)
class Listed:
    """What a source says of one name."""

    name: str
    is_dir: bool
    size: int | None
    mtime_ns: int | None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """What happened to a cached file: when it was used (Unix seconds), and what *tier* holds of it by now.

    *cached_bytes* is None where that did not change; the tier is then of no interest.
    """

    id: int
    cached_bytes: int | None
    used_at: float
    tier: int = 0


class _Connection(sqlite3.Connection):
    """Of one thread. It ends with this, or with the catalog, whichever is first: nobody is left then to close it."""

    def __del__(self) -> None:
        self.close()


class Catalog:
    """Thread-safe: each thread has its own connection. A damaged file is started afresh: it is a cache.

    Raises:
        Unavailable: the folder of *path* cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open_or_renew()
        except (OSError, sqlite3.OperationalError) as error:
            raise Unavailable(f"tier {str(path.parent)!r}: {error}; its folder must be writable") from error

    def _open_or_renew(self) -> None:
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two processes must not both replace a damaged file
            try:
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, _SCHEMA_VERSION):
                    raise sqlite3.DatabaseError(f"schema {version}, not {_SCHEMA_VERSION}")
                self._db.executescript(_SCHEMA)
            except sqlite3.OperationalError:
                raise  # busy, or not to be opened: nothing is wrong with what is in it
            except sqlite3.DatabaseError as error:
                log.error("catalog.damaged", path=str(self._path), error=str(error))
                self._renew()

    def _renew(self) -> None:
        self._local.db = None
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._db.executescript(_SCHEMA)
        # Another process may still use the lost file: its ids must not name our cache files.
        self._db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'node'", (secrets.randbelow(1 << 40),))

    @property
    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(
                self._path, timeout=10, isolation_level=None, factory=_Connection, check_same_thread=False
            )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA mmap_size = 1073741824")
            db.execute("PRAGMA recursive_triggers = ON")  # a dropped folder takes all levels below along
            self._local.db = db
        return db

    def get(self, id: int) -> Node | None:
        return _node(self._db.execute(f"SELECT {_COLUMNS} FROM node WHERE id = ?", (id,)).fetchone())

    def lookup(self, parent: int, name: str) -> Node | None:
        query = f"SELECT {_COLUMNS} FROM node WHERE parent = ? AND name = ?"
        return _node(self._db.execute(query, (parent, os.fsencode(name))).fetchone())

    def children(self, parent: int, after: int = 0, limit: int = 1000) -> list[Node]:
        """Entries of a directory in a stable order (by id), from the first id above *after*."""
        query = f"SELECT {_COLUMNS} FROM node WHERE parent = ? AND id > ? ORDER BY id LIMIT ?"
        return [node for row in self._db.execute(query, (parent, after, limit)) if (node := _node(row))]

    def record_listing(self, parent: int, entries: Iterable[Listed], now: float) -> None:
        """Make the children of *parent* what the source lists: new rows, changed rows, and gone ones dropped.

        What was cached of dropped and changed files is told by `take_orphans`.
        """
        with self._db as db:
            db.execute("BEGIN IMMEDIATE")
            known = {node.name: node for node in self.children(parent, limit=-1)}
            for entry in entries:
                self._record(parent, known.pop(entry.name, None), entry)
            db.executemany("DELETE FROM node WHERE id = ?", [(node.id,) for node in known.values()])
            db.execute("UPDATE node SET listed_at = ? WHERE id = ?", (now, parent))

    def record(self, parent: int, entry: Listed) -> Node:
        """Make one child what the source says of it, and return its row (a new one if its content changed)."""
        with self._db as db:
            db.execute("BEGIN IMMEDIATE")
            self._record(parent, self.lookup(parent, entry.name), entry)
        node = self.lookup(parent, entry.name)
        assert node is not None
        return node

    def pin(self, found: Sequence[tuple[int, Listed]]) -> list[Node | None]:
        """Set the version of files whose content came along with it, all in one transaction.

        Their rows in the same order; None where the row is gone or stands for other content.
        """
        query = """
            UPDATE node SET size = ?1, mtime_ns = ?2, version = ?3
            WHERE id = ?4 AND is_dir = 0 AND version IN ('', ?3) AND (size IS NULL OR size = ?1)
        """
        rows: list[Node | None] = []
        with self._db as db:
            db.execute("BEGIN IMMEDIATE")
            for id, entry in found:
                values = (entry.size, entry.mtime_ns, entry.version, id)
                rows.append(self.get(id) if db.execute(query, values).rowcount else None)
        return rows

    def forget(self, id: int) -> None:
        """Drop a row: the source has the name no more."""
        self._db.execute("DELETE FROM node WHERE id = ? AND id != ?", (id, ROOT_ID))

    def _record(self, parent: int, known: Node | None, entry: Listed) -> None:
        values = (entry.is_dir, entry.size, entry.mtime_ns, entry.version)
        if known is not None and _is_other(known, entry):
            self._db.execute("DELETE FROM node WHERE id = ?", (known.id,))
            known = None
        if known is None:
            self._db.execute(
                "INSERT INTO node (parent, name, is_dir, size, mtime_ns, version) VALUES (?, ?, ?, ?, ?, ?)",
                (parent, os.fsencode(entry.name), *values),
            )
        elif not known.is_dir and not known.version and entry.size is not None:
            self._db.execute(
                "UPDATE node SET is_dir = ?, size = ?, mtime_ns = ?, version = ? WHERE id = ?", (*values, known.id)
            )

    def turn(self, id: int, *, passthrough: bool) -> Node | None:
        """Give *id* its next incarnation if its mode is not the one asked for; the row as it is then."""
        parity = 1 if passthrough else 0
        query = "UPDATE node SET incarnation = incarnation + 1 WHERE id = ? AND incarnation % 2 != ?"
        self._db.execute(query, (id, parity))
        return self.get(id)

    # ---- what is cached -----------------------------------------------------------------------------------------

    def note_use(self, uses: Sequence[Use]) -> None:
        """Record what was used and stored of several files in one go."""
        with self._db as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "UPDATE node SET used_at = max(used_at, ?) WHERE id = ?", [(use.used_at, use.id) for use in uses]
            )
            db.executemany(
                "UPDATE node SET cached_bytes = ?, tier = ? WHERE id = ?",
                [(use.cached_bytes, use.tier, use.id) for use in uses if use.cached_bytes is not None],
            )

    def cached_by_tier(self) -> dict[int, int]:
        """Cached bytes by index of the tier, of those that hold any."""
        query = "SELECT tier, sum(cached_bytes) FROM node WHERE cached_bytes > 0 GROUP BY tier"
        return {int(tier): int(size) for tier, size in self._db.execute(query)}

    def least_used(self, tier: int, limit: int) -> list[tuple[int, int]]:
        """(id, cached bytes) of files cached in *tier*, least recently used first."""
        query = "SELECT id, cached_bytes FROM node WHERE cached_bytes > 0 AND tier = ? ORDER BY used_at LIMIT ?"
        return [(int(id), int(size)) for id, size in self._db.execute(query, (tier, limit))]

    def note_evicted(self, id: int) -> int | None:
        """Nothing of *id* is cached any more; the incarnation it had until now, None if its row is gone."""
        node = self.get(id)
        self._db.execute("UPDATE node SET cached_bytes = 0 WHERE id = ?", (id,))
        self.turn(id, passthrough=False)
        return node.incarnation if node else None

    def known(self, ids: Iterable[int]) -> dict[int, int]:
        """Cached bytes, as recorded, of those of *ids* that have a row."""
        query = "SELECT id, cached_bytes FROM node WHERE id IN (SELECT value FROM json_each(?))"
        return {int(id): int(size) for id, size in self._db.execute(query, (json.dumps(list(ids)),))}

    def take_orphans(self) -> list[tuple[int, int]]:
        """(id, incarnation) of files whose row went and of which something may be cached; each is told once."""
        rows = self._db.execute("DELETE FROM orphan RETURNING id, incarnation")
        return [(int(id), int(incarnation)) for id, incarnation in rows]

    def totals(self) -> tuple[int, int]:
        """(number of files, sum of their known sizes) seen so far."""
        row = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM node WHERE is_dir = 0").fetchone()
        return int(row[0]), int(row[1])


def _is_other(known: Node, entry: Listed) -> bool:
    """Whether *entry* is other content than *known*: another kind, size or version. Unknown values prove nothing."""
    if known.is_dir != entry.is_dir:
        return True
    if entry.is_dir:
        return False
    if known.version and entry.version:
        return known.version != entry.version
    sizes_differ = known.size is not None and entry.size is not None and known.size != entry.size
    return sizes_differ or bool(
        known.version and entry.mtime_ns and known.mtime_ns and entry.mtime_ns != known.mtime_ns
    )


def _node(row: tuple[int, int, bytes, int, int | None, int | None, str, int, float | None] | None) -> Node | None:
    if row is None:
        return None
    id, parent, name, is_dir, size, mtime_ns, version, incarnation, listed_at = row
    return Node(id, parent, os.fsdecode(name), bool(is_dir), size, mtime_ns, version, incarnation, listed_at)
