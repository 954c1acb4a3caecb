"""What the processes that use one cache at a time have in common, from the first that comes to the last that goes.

What was stored in this session needs no second look; what an earlier one stored does, unless that one ended well: each
session has a digest of its own, which cache files carry. One that ends well hands it on, within one boot of the
machine: what the kernel had not written back when the power went is never believed unseen.
"""

import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from blockcache.cachefile import digest
from blockcache.flightlocks import lock_range
from obs import logs

log = logs.get("blockcache")

_GATE, _ALIVE = 0, 1  # bytes of the lock file
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`session.json`."""

    boot: str
    name: str
    run: str
    is_continued: bool
    is_clean: bool = False


class Session:
    """Joined when made.

    Raises:
        OSError: *folder* cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "session.json"
        self._fd = os.open(folder / "session.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock_range(self._fd, fcntl.F_WRLCK, _GATE, 1, wait=True)
            is_first = lock_range(self._fd, fcntl.F_WRLCK, _ALIVE, 1)
            state = self._read()
            if is_first or state is None:
                state = self._begin(state)
            lock_range(self._fd, fcntl.F_RDLCK, _ALIVE, 1, wait=True)
            lock_range(self._fd, fcntl.F_UNLCK, _GATE, 1)
        except BaseException:
            os.close(self._fd)
            raise
        self.digest = digest(f"{state.boot} {state.name}")
        self.run = digest(state.run)
        """Of the processes from the first that came to the last that will go; never handed on."""
        self.is_continued = state.is_continued
        """The session before ended well and in this boot, so that what it stored is right, and is counted."""

    def close(self) -> None:
        """Leave; the last one notes that all went well."""
        try:
            lock_range(self._fd, fcntl.F_WRLCK, _GATE, 1, wait=True)
            if lock_range(self._fd, fcntl.F_WRLCK, _ALIVE, 1) and (state := self._read()) is not None:
                self._write(msgspec.structs.replace(state, is_clean=True))
        except OSError as error:
            log.warning("session.not_closed", error=str(error))  # the next one verifies what it reads
        finally:
            os.close(self._fd)

    def _begin(self, before: _State | None) -> _State:
        boot = _BOOT.read_text().strip()
        is_continued = before is not None and before.boot == boot and before.is_clean
        name = before.name if before is not None and is_continued else secrets.token_hex(8)
        state = _State(boot, name, secrets.token_hex(8), is_continued)
        self._write(state)
        return state

    def _read(self) -> _State | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_State)
        except (FileNotFoundError, msgspec.DecodeError):
            return None  # new, or torn by a power cut

    def _write(self, state: _State) -> None:
        new = self._path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(state))
        new.replace(self._path)
