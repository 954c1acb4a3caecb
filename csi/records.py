"""What this node has staged and published, one small JSON file per runtime, written before anything is done.

The records say what to clean up and what kubelet asked for; what is really mounted only the broker knows. Losing
them loses no mount: unpublish and unstage do not need them.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from csi.values import AccessMode, Capability, CleanPolicy
from datamodel.errors import HeadraceError, OutOfSpace, Unavailable
from datamodel.names import RuntimeKey
from obs import logs

log = logs.get("csi")

VERSION = 1
_SUFFIX = ".json"


class StagedVolume(msgspec.Struct, frozen=True):
    """One NodeStage that has not been undone."""

    staging_path: str
    capability: Capability


class Publication(msgspec.Struct, frozen=True):
    """One NodePublish that has not been undone."""

    volume: str
    mode: AccessMode
    read_only: bool
    sub_path: str
    no_exec: bool = False


class RuntimeRecord(msgspec.Struct, frozen=True):
    """One runtime: its node label, who staged it (by volume id), where it is published (by target)."""

    key: str
    label_key: str
    clean_policy: CleanPolicy = CleanPolicy.ON_RUNTIME_DELETED
    staged: dict[str, StagedVolume] = {}
    published: dict[str, Publication] = {}
    version: int = VERSION

    @property
    def runtime(self) -> RuntimeKey:
        return RuntimeKey.parse(self.key)


Change = Callable[[RuntimeRecord], RuntimeRecord]


class Records:
    """The records below *folder*, kept in memory and written through. Thread-safe; each change is atomic on disk.

    Raises:
        OutOfSpace, Unavailable: from `put` and `change`, when the folder cannot be written; nothing changed then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records = _load(folder)

    def get(self, key: RuntimeKey) -> RuntimeRecord | None:
        with self._lock:
            return self._records.get(str(key))

    def all(self) -> list[RuntimeRecord]:
        with self._lock:
            return list(self._records.values())

    def of_volume(self, volume: str) -> RuntimeRecord | None:
        """The runtime that *volume* is staged for."""
        return next((record for record in self.all() if volume in record.staged), None)

    def put(self, record: RuntimeRecord) -> None:
        with self._lock:
            self._write(record)

    def change(self, key: RuntimeKey, change: Change) -> None:
        """Apply *change* to the record of *key*; nothing happens where there is none."""
        with self._lock:
            record = self._records.get(str(key))
            if record is not None and (changed := change(record)) != record:
                self._write(changed)

    def forget(self, key: RuntimeKey, change: Change) -> None:
        """As `change`, for what must succeed: with an unwritable folder the change holds until a restart."""
        try:
            self.change(key, change)
        except (OutOfSpace, Unavailable) as error:
            log.warning("record.unwritten", runtime=str(key), error=str(error))
            with self._lock:
                if (record := self._records.get(str(key))) is not None:
                    self._records[str(key)] = change(record)

    def remove(self, key: RuntimeKey) -> None:
        with self._lock:
            self._records.pop(str(key), None)
            try:
                self._path(str(key)).unlink(missing_ok=True)
            except OSError as error:
                raise Unavailable(f"record of {key}: {error.strerror}") from error

    def _write(self, record: RuntimeRecord) -> None:
        try:
            write_atomically(self._path(record.key), msgspec.json.encode(record))
        except OSError as error:
            message = f"record of {record.key} in {self._folder}: {error.strerror}"
            raise (OutOfSpace(message) if error.errno in _FULL else Unavailable(message)) from error
        self._records[record.key] = record

    def _path(self, key: str) -> Path:
        # Parts of a runtime key are DNS labels, so a dot cannot be part of one.
        return self._folder / (key.replace("/", ".") + _SUFFIX)


_FULL = frozenset({28, 122})  # ENOSPC, EDQUOT


def write_atomically(path: Path, content: bytes) -> None:
    """Put *content* at *path*, readable by us alone: a crash leaves the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _load(folder: Path) -> dict[str, RuntimeRecord]:
    records = {}
    for path in sorted(folder.glob(f"[!.]*{_SUFFIX}")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=RuntimeRecord)
            if record.version != VERSION:
                raise Unavailable(f"version {record.version} is not {VERSION}")
            records[str(record.runtime)] = record
        except (msgspec.MsgspecError, UnicodeDecodeError, HeadraceError) as error:
            # Kept for a look at it; a runtime staged again gets a fresh record.
            path.rename(path.with_suffix(".unreadable"))
            log.error("record.unreadable", path=str(path), error=str(error))
    return records
