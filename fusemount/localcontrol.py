"""What `headrace status`, `umount`, `load` and `refresh` find out about mounts, and do to them, from outside.

Nothing here touches a mount itself: dead or stuck ones must not make the caller hang.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from blockcache.assemble import read_config
from blockcache.catalog import CATALOG_NAME, Catalog
from broker import mountinfo
from datamodel.client import ClientConfig
from datamodel.errors import Conflict, DeadlineExceeded, NotFound, PermissionRefused, Unavailable
from fusemount import localstate
from fusemount.localstate import KIND, Described, described, holder, state_of

_STATUS_DEADLINE_S = 5.0
_MOST_USERS_TOLD = 10


@dataclass(frozen=True, slots=True)
class KnownMount:
    """A mount of this user; *pid* is None where its process is gone."""

    mountpoint: Path
    pid: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a mount of Headrace: *inside* is relative to *mountpoint*, "" for its root."""

    mountpoint: Path
    inside: str


def mounts() -> list[KnownMount]:
    """This user's mounts, also those whose process was killed."""
    found = []
    for state in localstate.states():
        if about := described(state):
            found.append(KnownMount(Path(about.mountpoint), holder(state)))
    return found


def place_of(text: str) -> Place:
    """Where *text* lies.

    Raises:
        NotFound: it is in no mount of Headrace.
    """
    # As it is first: resolving links would ask the mount, which may be stuck.
    place = _place_of(Path(os.path.abspath(text))) or _place_of(Path(os.path.realpath(text)))
    if place is None:
        raise NotFound(f"{text}: not in a mount of headrace; `headrace status` lists them")
    return place


def _place_of(path: Path) -> Place | None:
    table = mountinfo.read()
    for folder in (path, *path.parents):
        if layers := mountinfo.at(table, str(folder)):
            inside = path.relative_to(folder)
            return Place(folder, "" if inside == Path() else str(inside)) if layers[-1].kind == KIND else None
    return None


def unmount(mountpoint: Path, *, lazy: bool, deadline_s: float) -> None:
    """End the mount at *mountpoint*: ask its process, or clean up after one that was killed.

    Raises:
        NotFound: Headrace has nothing mounted there.
        PermissionRefused: it is another user's.
        Conflict: it is in use and *lazy* is not set; the message says by whom.
    """
    state = state_of(mountpoint)
    if not localstate.layers(state, mountpoint) and not state.exists():
        raise _nothing_there(mountpoint)
    if not lazy and (users := _users_of(mountpoint)):
        told = ", ".join(users[:_MOST_USERS_TOLD])
        more = f" and {len(users) - _MOST_USERS_TOLD} more" if len(users) > _MOST_USERS_TOLD else ""
        raise Conflict(f"{mountpoint} is in use by {told}{more}; end them, or use --lazy: their reads will fail")
    if (pid := holder(state)) is None:
        localstate.remove(state, mountpoint)
        return
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + deadline_s
    while holder(state) is not None:
        if time.monotonic() > end:
            raise DeadlineExceeded(f"{mountpoint}: process {pid} did not unmount within {deadline_s:.0f} s")
        time.sleep(0.05)


def read_status(mountpoint: Path) -> dict[str, Any]:
    """The last status that the mount at *mountpoint* wrote, with what `mount.json` says.

    Raises:
        NotFound: nothing of Headrace is mounted there, or its process is gone.
    """
    state, about, pid = _living(mountpoint)
    end = time.monotonic() + _STATUS_DEADLINE_S
    while True:
        try:
            status: dict[str, Any] = json.loads((state / "status.json").read_text())
            status |= msgspec.to_builtins(about)
            return status | {"pid": pid}
        except (FileNotFoundError, json.JSONDecodeError) as error:
            if time.monotonic() > end:
                raise Unavailable(f"{mountpoint}: no status yet; is it still starting?") from error
            time.sleep(0.1)


def read_mount_config(mountpoint: Path) -> ClientConfig:
    """What the daemons of the mount at *mountpoint* were told.

    Raises:
        NotFound: nothing of Headrace is mounted there, or its process is gone.
    """
    state, _, _ = _living(mountpoint)
    return read_config(str(state / "client.json"))


def request_refresh(place: Place) -> Callable[[], bool]:
    """Have the daemons ask the sources again for all that was listed below *place*; tells whether they still do.

    Raises:
        NotFound: nothing of Headrace is mounted there, or its process is gone.
    """
    config = read_mount_config(place.mountpoint)
    catalog = Catalog(Path(config.catalog_folder, CATALOG_NAME))
    request = catalog.request_refresh(place.inside)
    return lambda: catalog.is_refresh_pending(request)


def _living(mountpoint: Path) -> tuple[Path, Described, int]:
    state = state_of(mountpoint)
    pid, about = holder(state), described(state)
    if pid is None and (about or localstate.layers(state, mountpoint)):
        raise NotFound(
            f"{mountpoint}: its process is gone; "
            "repeat the `headrace mount` to go on with its cache, or run `headrace umount`"
        )
    if pid is None:
        raise _nothing_there(mountpoint)
    if about is None:
        raise Unavailable(f"{mountpoint}: process {pid} is still starting")
    return state, about, pid


def _nothing_there(mountpoint: Path) -> NotFound | PermissionRefused:
    """Why there is nothing for us to do at *mountpoint*."""
    layers = [layer for layer in mountinfo.at(mountinfo.read(), str(mountpoint)) if layer.kind == KIND]
    if not layers:
        return NotFound(f"{mountpoint}: not a mount of headrace; `headrace status` lists them")
    return PermissionRefused(f"{mountpoint}: mounted by another user, or by a cluster's node plugin: ask as that user")


def _users_of(mountpoint: Path) -> list[str]:
    """Processes with an open or mapped file, working directory or root below *mountpoint*, as far as we may see."""
    users = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _uses(process.pid, str(mountpoint)):
                users.append(f"{process.name()} (pid {process.pid})")
    return users


def _uses(pid: int, folder: str) -> bool:
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root", f"/proc/{pid}/exe"]
    links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    if any(f"{_link(link)}/".startswith(f"{folder}/") for link in links):
        return True
    return f" {folder}/".encode() in Path(f"/proc/{pid}/maps").read_bytes()


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
