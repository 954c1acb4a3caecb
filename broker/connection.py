"""One FUSE connection: made, initialised and kept open by the broker, served by daemons that come and go.

The kernel sends INIT once per connection, so the broker answers it with the features we want, and daemons start from
a synthetic INIT of their own. The broker holds every device (clone) that it hands out: the kernel fails the requests
in flight on a device when its last file closes, and a daemon's death must not be the last close.
"""

import os
import select
import struct

from broker import kernel
from datamodel.errors import Unavailable

_INIT_OPCODE = 26
_RESEND = 7  # FUSE_NOTIFY_RESEND, Linux 6.9

# Feature bits of the 64-bit INIT flags (linux/fuse.h)
_ASYNC_READ, _ATOMIC_O_TRUNC, _BIG_WRITES, _DO_READDIRPLUS = 1 << 0, 1 << 3, 1 << 5, 1 << 13
_PARALLEL_DIROPS, _MAX_PAGES, _CACHE_SYMLINKS = 1 << 18, 1 << 22, 1 << 23
_INIT_EXT, _PASSTHROUGH, _HAS_RESEND = 1 << 30, 1 << 37, 1 << 39
_WANTED = (
    _ASYNC_READ | _ATOMIC_O_TRUNC | _BIG_WRITES | _DO_READDIRPLUS | _PARALLEL_DIROPS
    | _MAX_PAGES | _CACHE_SYMLINKS | _INIT_EXT | _PASSTHROUGH
)  # fmt: skip

_MAX_READAHEAD, _MAX_WRITE, _MAX_PAGES_COUNT = 16 << 20, 1 << 20, 256
_MAX_BACKGROUND, _CONGESTION = 64, 48
_INIT_TIMEOUT_S = 10


class Connection:
    """A FUSE file system mounted on *target*, initialised, with *source* as its name in the mount table.

    Raises:
        OSError: the mount was refused.
        Unavailable: the kernel sent no INIT.
    """

    def __init__(self, target: str, source: str) -> None:
        self.fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            options = "rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=1048576"
            flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount(source, target, "fuse.headrace", flags, f"fd={self.fuse_fd},{options}")
            self._features = self._answer_init()
        except BaseException:
            os.close(self.fuse_fd)
            raise
        self._devices = [self.fuse_fd]

    @property
    def has_passthrough(self) -> bool:
        """The kernel lets complete cache files be read without the daemon (Linux 6.9 and later)."""
        return bool(self._features & _PASSTHROUGH)

    @property
    def has_resend(self) -> bool:
        """The kernel can queue a dead daemon's requests again (Linux 6.9 and later)."""
        return bool(self._features & _HAS_RESEND)

    def new_device(self) -> int:
        """One more device for one more daemon process; the connection keeps it open."""
        fd = kernel.clone_fuse_device(self.fuse_fd)
        self._devices.append(fd)
        return fd

    def resend(self) -> None:
        """Have the kernel queue again what was read and not answered, on all devices."""
        if self.has_resend:
            os.write(self.fuse_fd, struct.pack("<IiQ", 16, _RESEND, 0))

    def close(self) -> None:
        """Close every device; if the mount still exists its users get ENOTCONN."""
        for fd in self._devices:
            os.close(fd)
        self._devices.clear()

    def _answer_init(self) -> int:
        if not select.select([self.fuse_fd], [], [], _INIT_TIMEOUT_S)[0]:
            raise Unavailable(f"the kernel sent no FUSE_INIT within {_INIT_TIMEOUT_S} s")
        request = os.read(self.fuse_fd, 1 << 17)
        _, opcode, unique = struct.unpack_from("<IIQ", request)
        if opcode != _INIT_OPCODE:
            raise Unavailable(f"the kernel's first FUSE request has opcode {opcode}, not INIT")
        minor, flags_low = struct.unpack_from("<I", request, 44)[0], struct.unpack_from("<I", request, 52)[0]
        flags_high = struct.unpack_from("<I", request, 56)[0] if flags_low & _INIT_EXT else 0
        offered = int(flags_low | flags_high << 32)
        wanted = offered & _WANTED
        reply = struct.pack(  # struct fuse_init_out, 64 bytes
            "<IIIIHHIIHHIIH11H",
            7, min(int(minor), 40), _MAX_READAHEAD, wanted & 0xFFFFFFFF, _MAX_BACKGROUND, _CONGESTION, _MAX_WRITE, 1,
            _MAX_PAGES_COUNT, 0, wanted >> 32, 1 if wanted & _PASSTHROUGH else 0, 0, *[0] * 11,
        )  # fmt: skip
        os.write(self.fuse_fd, struct.pack("<IiQ", 16 + len(reply), 0, unique) + reply)
        return wanted | offered & _HAS_RESEND
