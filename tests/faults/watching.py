"""What a mount says of itself, asked often: read where `headrace status` reads it, without a process for each look."""

from typing import Any

from fusemount.localcontrol import read_status
from tests.fusemount.mounts import Mounted


def status(mount: Mounted) -> dict[str, Any]:
    return read_status(mount.path)


def pids(mount: Mounted, role: str) -> list[int]:
    return [process["pid"] for process in status(mount)["processes"] if process["role"] == role]
