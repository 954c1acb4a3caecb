"""pyfuse3's Operations over FileSystem: unwrap, call, translate errors.

Any exception that is not FUSEError would end the mount, so every call is guarded.
"""

import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from datamodel.errors import HeadraceError, NotFound, VersionChanged
from fusemount import packed
from fusemount.filesystem import FileSystem
from fusemount.packed import Attributes
from obs import logs
from obs.metrics import FUSE_ERRORS, FUSE_REQUESTS

log = logs.get("fusemount")

_PAGE_NAMES = 256
_PAGE_BYTES = 4096  # no request for names has room for less

P = ParamSpec("P")
R = TypeVar("R")


def _guarded(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    op = handler.__name__
    requests, failures = FUSE_REQUESTS.labels(op), FUSE_ERRORS.labels(op)

    @wraps(handler)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        requests.inc()
        try:
            return await handler(*args, **kwargs)
        except HeadraceError as error:
            if not isinstance(error, NotFound | VersionChanged):
                failures.inc()
                log.error("request.failed", op=op, error=str(error))
            raise pyfuse3.FUSEError(error.errno) from error
        except OSError as error:
            failures.inc()
            log.error("request.failed", op=op, error=str(error))
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except pyfuse3.FUSEError:
            raise
        except Exception as error:  # a task's top: the mount must outlive a bug in one call
            failures.inc()
            log.exception("request.broken", op=op)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return call


class Adapter(pyfuse3.Operations):
    """*on_init* runs when libfuse has taken its INIT; *shim* is None where the shim was not built."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, filesystem: FileSystem, shim: ModuleType | None, on_init: Callable[[], None]) -> None:
        super().__init__()
        self._filesystem, self._shim, self._on_init = filesystem, shim, on_init

    def init(self) -> None:
        self._on_init()

    @_guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        try:
            return _entry(await self._filesystem.lookup(parent_inode, name))
        except NotFound:
            return _absent(self._filesystem.absent_ttl_s)

    @_guarded
    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        return _entry(await self._filesystem.attributes(inode))

    @_guarded
    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return self._filesystem.link_target(inode)

    @_guarded
    async def opendir(self, inode: int, ctx: Any) -> int:
        self._answer_open(inode, self._filesystem.open_folder(inode), 0)
        return inode

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        if self._shim is None:
            await self._readdir_by_name(fh, start_id, token)
        elif page := await self._filesystem.page(fh, start_id, _PAGE_BYTES):
            self._shim.answer_next_entry(page)
            pyfuse3.readdir_reply(token, b"", pyfuse3.EntryAttributes(), 0)

    async def _readdir_by_name(self, fh: int, start_id: int, token: Any) -> None:
        while page := await self._filesystem.entries(fh, start_id, _PAGE_NAMES):
            for name, attributes, next_offset in page:
                if not pyfuse3.readdir_reply(token, name, _entry(attributes), next_offset):
                    return
                start_id = next_offset

    @_guarded
    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        open_flags, backing_id = await self._filesystem.open(inode)
        self._answer_open(inode, open_flags, backing_id)
        return pyfuse3.FileInfo(fh=inode, keep_cache=not backing_id)

    @_guarded
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # pyfuse3 takes any contiguous buffer, whatever its annotation says.
        return await self._filesystem.read(fh, off, size)  # type: ignore[return-value]

    @_guarded
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        value = self._filesystem.extended_attribute(inode, name)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    @_guarded
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return self._filesystem.extended_attributes(inode)

    @_guarded
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        total, _, files = self._filesystem.statistics()
        numbers = pyfuse3.StatvfsData()
        numbers.f_bsize = numbers.f_frsize = packed.BLOCK_BYTES
        numbers.f_blocks = -(-total // packed.BLOCK_BYTES)
        numbers.f_bfree = numbers.f_bavail = 0
        numbers.f_files, numbers.f_ffree, numbers.f_favail = files, 0, 0
        numbers.f_namemax = 255
        return numbers

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Node ids depend on no memory of ours, so there is nothing to forget."""

    async def release(self, fh: int) -> None:
        """File handles are node ids; nothing is held per handle."""

    async def releasedir(self, fh: int) -> None:
        """As release."""

    def _answer_open(self, inode: int, flags: int, backing_id: int) -> None:
        if self._shim is not None:
            # The reply is written before any other task runs, so the shim needs to remember one answer only.
            self._shim.answer_next_open(inode, flags, backing_id)


def _entry(attributes: Attributes) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = attributes.node_id
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.links
    entry.st_size = attributes.size
    entry.st_blksize = packed.BLOCK_BYTES
    entry.st_blocks = -(-attributes.size // 512)
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attributes.mtime_ns
    entry.st_uid, entry.st_gid = attributes.uid, attributes.gid
    entry.attr_timeout = entry.entry_timeout = attributes.ttl_s
    return entry


def _absent(ttl_s: float) -> pyfuse3.EntryAttributes:
    """What the kernel takes for "no such name, and do not ask again for *ttl_s*"."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino, entry.entry_timeout = 0, ttl_s
    return entry
