"""The catalog's SQLite file: its schema, one connection per thread, and a clock that survives restarts.

A file that is damaged or of another schema is started afresh: it is a cache. Everything here that sums rows up does so
by triggers, so that no question ever reads a million rows to be answered.
"""

import fcntl
import mmap
import os
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blockcache.rows import ROOT_ID
from datamodel.errors import Unavailable
from obs import logs

log = logs.get("blockcache")

_SCHEMA_VERSION = 4
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS node (
    id INTEGER PRIMARY KEY,    -- from counter.next_id: never given twice
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    is_dir INTEGER NOT NULL,
    size INTEGER,              -- NULL: not known exactly yet
    mtime_ns INTEGER,          -- as the source says
    version TEXT NOT NULL,     -- '' : not pinned yet
    link_target BLOB,          -- symbolic links only
    is_executable INTEGER NOT NULL DEFAULT 0,
    is_vouched INTEGER NOT NULL DEFAULT 0,
    incarnation INTEGER NOT NULL DEFAULT 0,
    checked_at REAL,           -- when the source was asked for this name alone, by the catalog's clock
    listed_at REAL,            -- directories: when their listing was taken, by the catalog's clock
    changed_ns INTEGER,        -- directories: when their names last changed (Unix time)
    folders INTEGER NOT NULL DEFAULT 0,
    is_left_out INTEGER NOT NULL DEFAULT 0,  -- directories not to be crawled: 1 for now, 2 for good
    cached_bytes INTEGER NOT NULL DEFAULT 0,
    tier INTEGER NOT NULL DEFAULT 0,  -- which of the configured tiers holds them
    used_at REAL NOT NULL DEFAULT 0,
    UNIQUE (parent, name)
) STRICT;
CREATE INDEX IF NOT EXISTS by_parent ON node (parent);  -- with the id, in order: a page of a directory
CREATE INDEX IF NOT EXISTS by_use ON node (tier, used_at) WHERE cached_bytes > 0;
CREATE INDEX IF NOT EXISTS by_listing ON node (is_left_out, listed_at) WHERE is_dir = 1;
CREATE TABLE IF NOT EXISTS counter (
    id INTEGER PRIMARY KEY CHECK (id = 1), next_id INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
    doubted_at REAL NOT NULL   -- what was asked before, by the catalog's clock, is not believed any more
) STRICT;
CREATE TABLE IF NOT EXISTS tier_total (tier INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS orphan (id INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS dropped (id INTEGER PRIMARY KEY) STRICT;  -- folders whose rows below are still to go
CREATE TABLE IF NOT EXISTS change (
    id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, name BLOB NOT NULL, writer INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS refresh (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS reserve (id INTEGER PRIMARY KEY, room BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS source (path TEXT PRIMARY KEY, identity TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS clock (boot TEXT PRIMARY KEY, offset_s REAL NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS count_file AFTER INSERT ON node WHEN new.is_dir = 0 AND new.link_target IS NULL
BEGIN UPDATE counter SET files = files + 1, bytes = bytes + coalesce(new.size, 0); END;
CREATE TRIGGER IF NOT EXISTS count_size AFTER UPDATE OF size ON node
WHEN new.is_dir = 0 AND new.link_target IS NULL AND new.size IS NOT old.size
BEGIN UPDATE counter SET bytes = bytes + coalesce(new.size, 0) - coalesce(old.size, 0); END;
CREATE TRIGGER IF NOT EXISTS uncount_file AFTER DELETE ON node WHEN old.is_dir = 0 AND old.link_target IS NULL
BEGIN UPDATE counter SET files = files - 1, bytes = bytes - coalesce(old.size, 0); END;
CREATE TRIGGER IF NOT EXISTS count_folder AFTER INSERT ON node WHEN new.is_dir = 1
BEGIN UPDATE node SET folders = folders + 1 WHERE id = new.parent; END;
CREATE TRIGGER IF NOT EXISTS drop_folder AFTER DELETE ON node WHEN old.is_dir = 1
BEGIN
    UPDATE node SET folders = folders - 1 WHERE id = old.parent;
    INSERT OR IGNORE INTO dropped VALUES (old.id);
END;
CREATE TRIGGER IF NOT EXISTS count_cached AFTER UPDATE OF cached_bytes, tier ON node
WHEN new.cached_bytes != old.cached_bytes OR new.tier != old.tier
BEGIN
    UPDATE tier_total SET bytes = bytes - old.cached_bytes WHERE tier = old.tier;
    INSERT INTO tier_total VALUES (new.tier, new.cached_bytes)
    ON CONFLICT (tier) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER IF NOT EXISTS uncount_cached AFTER DELETE ON node WHEN old.cached_bytes > 0
BEGIN UPDATE tier_total SET bytes = bytes - old.cached_bytes WHERE tier = old.tier; END;
CREATE TRIGGER IF NOT EXISTS keep_orphan AFTER DELETE ON node WHEN old.version != ''
BEGIN INSERT OR IGNORE INTO orphan VALUES (old.id, old.incarnation); END;
INSERT OR IGNORE INTO counter VALUES (1, {ROOT_ID + 1}, 0, 0, 0);
INSERT OR IGNORE INTO node (id, parent, name, is_dir, version, changed_ns)
VALUES ({ROOT_ID}, 0, x'', 1, '', CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000000);
PRAGMA user_version = {_SCHEMA_VERSION};
"""
_BUSY_S = 10.0
_CACHE_KIB = 2048
"""Of each connection's pages, and there is one per thread. What is not in them is in the kernel's page cache."""
_CHECKPOINT_PAGES = 1000
_RESERVE_BYTES = 4 << 20
"""Room that the files keep for when their disk is full: about fifty thousand names."""
_GENERATION_BYTES = 8
_PAGES = ("freelist_count", "page_size")


class _Connection(sqlite3.Connection):
    """Of one thread. It ends with this, or with the catalog, whichever is first: nobody is left then to close it."""

    def __del__(self) -> None:
        self.close()


class Database:
    """Thread-safe: each thread has its own connection.

    Raises:
        Unavailable: the folder of *path* cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._generation = _map_generation(path.with_suffix(".generation"))
            self._open_or_renew()
            self._hand_over()
            self._offset_s = self._read_offset()
        except (OSError, sqlite3.OperationalError) as error:
            raise Unavailable(f"tier {str(path.parent)!r}: {error}; its folder must be writable") from error

    def clock(self) -> float:
        """Seconds that only ever go on, also over restarts of the machine as far as its clock was right then.

        Close to Unix time. Within one boot it does not care how the system's clock is set.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self._offset_s

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's, in autocommit mode."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self._path, timeout=_BUSY_S, isolation_level=None, factory=_Connection, check_same_thread=False
            )
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = NORMAL")
            # Mapped pages would count as this process's memory, and there are several processes.
            found.execute("PRAGMA mmap_size = 0")
            found.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            found.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            self._local.connection = found
        return found

    @property
    def generation(self) -> int:
        """Another number after each transaction of any process that changed what `Node` shows of a row."""
        return self._generation[0]

    @contextmanager
    def writing(self, *, is_shown: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; other writers wait. *is_shown*: it may change what `Node` shows of a row."""
        try:
            with self.connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        finally:
            if is_shown:
                self.note_shown()

    def note_shown(self) -> None:
        """What was committed changed what `Node` shows of a row."""
        self._generation[0] = random.getrandbits(64)

    def reserve(self) -> None:
        """See to room inside the files, which nobody else on a full disk can take: pages to reuse, and a log as long as
        it gets between two checkpoints.

        Raises:
            sqlite3.OperationalError: the disk is full already.
        """
        connection = self.connection
        (pages,), (page_bytes,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in _PAGES)
        log_bytes = self._path.with_name(self._path.name + "-wal").stat().st_size
        if pages * page_bytes >= _RESERVE_BYTES // 2 and log_bytes >= _RESERVE_BYTES:
            return
        with self.writing(is_shown=False):
            connection.execute("INSERT OR REPLACE INTO reserve VALUES (1, zeroblob(?))", (_RESERVE_BYTES,))
        connection.execute("PRAGMA wal_checkpoint")  # so that the pages exist on the disk
        with self.writing(is_shown=False):
            connection.execute("DELETE FROM reserve")

    def _open_or_renew(self) -> None:
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two processes must not both replace a damaged file
            try:
                version = self.connection.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, _SCHEMA_VERSION):
                    raise sqlite3.DatabaseError(f"schema {version}, not {_SCHEMA_VERSION}")
                self.connection.executescript(_SCHEMA)
            except sqlite3.OperationalError:
                raise  # busy, or not to be opened: nothing is wrong with what is in it
            except sqlite3.DatabaseError as error:
                log.error("catalog.damaged", path=str(self._path), error=str(error))
                self._renew()

    def _renew(self) -> None:
        self._local.connection = None
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self.connection.executescript(_SCHEMA)
        # Another process may still use the lost file: its ids must not name our cache files.
        self.connection.execute("UPDATE counter SET next_id = ?", (ROOT_ID + 1 + secrets.randbelow(1 << 40),))

    def _hand_over(self) -> None:
        """Root may look into a catalog, or mend it, before the user whose folder it is does so."""
        owner = self._path.parent.stat()
        if os.geteuid() or not owner.st_uid:
            return
        for path in self._path.parent.glob(f"{self._path.stem}.*"):
            os.chown(path, owner.st_uid, owner.st_gid)

    def _read_offset(self) -> float:
        """What to add to the time since boot: the same for every process until the next boot."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        with self.writing() as connection:
            connection.execute("DELETE FROM clock WHERE boot != ?", (boot,))
            connection.execute("INSERT OR IGNORE INTO clock VALUES (?, ?)", (boot, offset_s))
            (found,) = connection.execute("SELECT offset_s FROM clock").fetchone()
        return float(found)


def _map_generation(path: Path) -> memoryview:
    """One number in memory that all processes share."""
    with path.open("a+b") as file:
        os.ftruncate(file.fileno(), _GENERATION_BYTES)
        return memoryview(mmap.mmap(file.fileno(), _GENERATION_BYTES)).cast("Q")
