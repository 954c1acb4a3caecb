"""What a daemon gives up before it serves. It needs no capability; only reading a local source as root takes one."""

import ctypes
import os
import struct
import sys
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 2


def drop(*, keep_reading: bool) -> None:
    """Give up every capability for good, but with *keep_reading* that of reading any file, if we have it.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = 1 << _CAP_DAC_READ_SEARCH if keep_reading and os.geteuid() == 0 else 0
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("<IIIIII", kept, kept, 0, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if libc.capset(header, data) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


def can_run_as(uid: int) -> bool:
    """Whether user *uid*, owner of nothing here, may run this interpreter and import this code."""
    needed = [Path(sys.executable).resolve(), Path(sys.executable), Path(__file__)]
    folders = {folder for path in needed for folder in path.parents}
    return uid == 0 or all(folder.stat().st_mode & 0o001 or folder.stat().st_uid == uid for folder in folders)
