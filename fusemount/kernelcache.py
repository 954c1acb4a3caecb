"""What a daemon tells the kernel unasked: names and folders that changed, and bytes that somebody will want to read.

Such a message can wait for a lock that a reader holds until this very process has answered it, so it is never sent
from where requests are answered: two threads do it, one per kind, off bounded queues. Their ends are not awaited for
long: a thread that the kernel holds ends with the process.
"""

import contextlib
import errno
import os
import struct
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path

from obs import logs
from obs.metrics import FUSE_STORED_BYTES

log = logs.get("fusemount")

_INVAL_INODE, _INVAL_ENTRY, _STORE = 2, 3, 4  # enum fuse_notify_code
_HEAD = struct.Struct("<IiQ")
_INODE = struct.Struct("<Qqq")
_ENTRY = struct.Struct("<Q2I")
_STORED = struct.Struct("<2Q2I")

_MOST_NAMES = 20_000
_MOST_BYTES_WAITING = 64 << 20
_SPARE_MEMORY = 0.15
_MEMORY_LOOK_S = 0.25
_STOP_GRACE_S = 0.5


class KernelCache:
    """Talks to the connection behind *device*, until `close()`. Every method may be called from any thread."""

    def __init__(self, device: int) -> None:
        self._device = os.dup(device)
        self._changed = threading.Condition()
        self._names: OrderedDict[tuple[int, bytes], None] = OrderedDict()
        self._folders: OrderedDict[int, None] = OrderedDict()
        self._contents: deque[tuple[int, memoryview]] = deque()
        self._bytes_waiting = 0
        self._is_closed = False
        self.stored_bytes = 0
        """Put into the page cache so far."""
        self._memory_looked_at, self._has_memory = 0.0, True
        self._threads = [
            threading.Thread(target=work, name=f"kernel's {what}", daemon=True)
            for what, work in (("names", self._drop_for_ever), ("pages", self._store_for_ever))
        ]
        for thread in self._threads:
            thread.start()

    def drop_name(self, folder: int, name: str) -> None:
        """The node id *folder* leads to something else, or to nothing, by *name*. Where too many names wait, the
        folder's listing is dropped in their place, and the names live on until their time is over."""
        with self._changed:
            if len(self._names) < _MOST_NAMES:
                self._names[folder, os.fsencode(name)] = None
            else:
                self._folders[folder] = None
            self._changed.notify_all()

    def drop_listing(self, folder: int) -> None:
        """The kernel's copy of the names in the node id *folder* is outdated, and so are its attributes."""
        with self._changed:
            self._folders[folder] = None
            self._changed.notify_all()

    def offer(self, node: int, content: memoryview) -> bool:
        """Put the whole *content* of a file into the page cache; False where there is no room for it now.

        The kernel takes it only if it knows *node*. *content* must stay as it is while anybody holds a view of it.
        """
        with self._changed:
            if self._bytes_waiting + len(content) > _MOST_BYTES_WAITING or self._is_closed:
                return False
            self._contents.append((node, content))
            self._bytes_waiting += len(content)
            self._changed.notify_all()
        return True

    def close(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_STOP_GRACE_S)
        if not any(thread.is_alive() for thread in self._threads):
            os.close(self._device)

    def _drop_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._names or self._folders)
                if self._is_closed:
                    return
                names, self._names = list(self._names), OrderedDict()
                folders, self._folders = list(self._folders), OrderedDict()
            for folder, name in names:
                self._send(_INVAL_ENTRY, [_ENTRY.pack(folder, len(name), 0), name + b"\0"])
            for folder in folders:
                self._send(_INVAL_INODE, [_INODE.pack(folder, 0, 0)])

    def _store_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._contents)
                if self._is_closed:
                    return
                node, content = self._contents.popleft()
            if self._can_spare_memory() and self._send(_STORE, [_STORED.pack(node, 0, len(content), 0), content]):
                FUSE_STORED_BYTES.inc(len(content))
                self.stored_bytes += len(content)
            with self._changed:
                self._bytes_waiting -= len(content)
            del content

    def _send(self, kind: int, parts: Sequence[bytes | memoryview]) -> bool:
        length = _HEAD.size + sum(len(part) for part in parts)
        try:
            os.writev(self._device, [_HEAD.pack(length, kind, 0), *parts])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EBADF):
                log.warning("notification.refused", kind=kind, error=str(error))
            return False  # not known to the kernel, or the mount has ended
        return True

    def _can_spare_memory(self) -> bool:
        """Whether the machine has memory that nobody misses; page cache that pushes out other pages helps nobody."""
        now = time.monotonic()
        if now - self._memory_looked_at > _MEMORY_LOOK_S:
            self._memory_looked_at = now
            with contextlib.suppress(OSError):
                self._has_memory = _available_share() > _SPARE_MEMORY
        return self._has_memory


def _available_share() -> float:
    """Of all memory, what could be had without swapping; format: proc(5), /proc/meminfo."""
    numbers = {}
    for line in Path("/proc/meminfo").read_text().splitlines()[:3]:
        name, _, value = line.partition(":")
        numbers[name] = int(value.split()[0])
    return numbers["MemAvailable"] / numbers["MemTotal"]


def own_device() -> int:
    """Descriptor of the FUSE connection that this process mounted itself.

    Raises:
        FileNotFoundError: there is none.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                return int(name)
    raise FileNotFoundError("/dev/fuse is not open in this process")
