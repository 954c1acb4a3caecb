"""What each file system call means for a cached dataset, in plain values: no pyfuse3 here, so tests need no mount.

Most calls come twice: `…_now` answers where that needs neither a question to a source nor waiting for a medium, and
says None otherwise; the coroutine beside it does the rest. Node ids say everything about an inode (`nodes.py`), so
nothing is held per open file, and a process that starts after another one died knows them all.

Without open messages (*no_open*) the kernel opens files by itself: it asks only for names, whose age the source's
listing bounds then, and for bytes that are not in its page cache; versions are pinned by the first read.
"""

import mmap
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from blockcache.catalog import Name, Node
from blockcache.dataset import Buffer, CachedDataset
from datamodel.errors import DeadlineExceeded, NotFound, Unavailable, UserError, VersionChanged
from fusemount import packed, xattrs
from fusemount.givenup import GivenUp
from fusemount.nodes import is_current, is_passthrough, row_of
from fusemount.packed import Attributes, Look
from fusemount.pages import Pages
from fusemount.shown import Shown
from obs import logs

log = logs.get("fusemount")
V = TypeVar("V")

_PASSING_TTL_S = 1.0
_SECOND_LOOK_S = 0.5
_ABSENT_TTL_S = 5.0
_LISTED_BELIEVED_S = 1.0
_REMEMBERED = 65536
_LARGEST_READ_BYTES = 1 << 20  # of one request: 256 pages
_FOLDER_FLAGS = packed.CACHE_DIR | packed.NOFLUSH
_FILE_FLAGS = packed.KEEP_CACHE | packed.NOFLUSH

OpenBacking = Callable[[int, int], int]
"""(node id, file descriptor) -> passthrough id."""


class FileSystem:
    """Read-only view of *dataset*. *open_backing* is None where passthrough is not to be had.

    *can_invalidate*: the kernel is told of changes, so it may keep also what a completed file will change.
    """

    def __init__(
        self,
        dataset: CachedDataset,
        open_backing: OpenBacking | None,
        *,
        no_open: bool = False,
        can_invalidate: bool = False,
    ) -> None:
        self._dataset, self._open_backing, self._no_open = dataset, open_backing, no_open
        self._given_up = GivenUp(Path(dataset.config.catalog_folder))
        self._scratch = memoryview(mmap.mmap(-1, _LARGEST_READ_BYTES))
        self._listed: OrderedDict[int, float] = OrderedDict()
        self._backings: OrderedDict[int, int] = OrderedDict()
        self._shown = Shown(Path(dataset.config.catalog_folder))
        config = dataset.config
        self._ttl_s = min(config.attribute_ttl_s, config.listing_ttl_s) if no_open else config.attribute_ttl_s
        can_change = open_backing is not None and not no_open and not can_invalidate
        passing_ttl_s = min(_PASSING_TTL_S, self._ttl_s)
        self._look = Look(
            config.owner_uid,
            config.owner_gid,
            config.file_mode,
            config.folder_mode,
            settled_ttl_s=self._ttl_s,
            incomplete_ttl_s=passing_ttl_s if can_change else self._ttl_s,
            unlisted_ttl_s=passing_ttl_s,
        )
        self._pages = Pages(packed.fastest_pack_names(), self._look)
        self.passthrough_problem = ""

    # ---- names ----------------------------------------------------------------------------------------------------

    def entry_now(self, parent: int, name: bytes) -> bytes | None:
        """As `lookup`, packed. Raises NotFound where the listing is fresh and does not have *name*."""
        folder = row_of(parent)
        if not self._is_listed_now(folder):
            return None
        found = self._dataset.catalog.name(folder, name)
        if found is None:
            raise NotFound(f"{os.fsdecode(name)!r}: no such file or folder")
        return self._pages.entry(found) if found[3] >= 0 else None

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """Raises NotFound, Unavailable."""
        return self._attributes(await self._dataset.tree.lookup(row_of(parent), os.fsdecode(name)))

    @property
    def absent_ttl_s(self) -> float:
        """How long the kernel may believe that a name does not exist."""
        return min(_ABSENT_TTL_S, self._ttl_s)

    def attributes_now(self, node_id: int) -> Attributes | None:
        """As `attributes`."""
        node = self._dataset.catalog.get(row_of(node_id))
        return None if node is None or _is_of_unknown_size(node) else self._attributes(node, node_id)

    async def attributes(self, node_id: int) -> Attributes:
        """Attributes of an inode that the kernel knows; VersionChanged where its row is gone.

        The incarnation is the kernel's own: only a lookup may lead it to another one.
        """
        node = self._dataset.tree.node(row_of(node_id))
        if _is_of_unknown_size(node):
            node = await self._dataset.tree.pin(node.id)
        return self._attributes(node, node_id)

    def link_target(self, node_id: int) -> bytes:
        """Where a symbolic link leads, as the source has it."""
        node = self._dataset.tree.node(row_of(node_id))
        if node.link_target is None:
            raise UserError(f"{node.name!r}: not a symbolic link")
        return os.fsencode(node.link_target)

    def open_folder(self, node_id: int) -> int:
        """Flags to open a folder with: the kernel may keep its names, and goes on with those it has already if they are
        of the latest listing."""
        row = row_of(node_id)
        node = self._dataset.catalog.get(row)
        if node is None or node.listed_at is None or not self._is_listed_now(row):
            return _FOLDER_FLAGS
        if self._shown.is_latest(row, node.listed_at):
            return _FOLDER_FLAGS | packed.KEEP_CACHE
        # The kernel drops what it has with this answer.
        self._shown.note(row, node.listed_at)
        return _FOLDER_FLAGS

    def page_now(self, node_id: int, after: int, size: int) -> bytes | None:
        """As `page`."""
        row = row_of(node_id)
        if not self._is_listed_now(row):
            return None
        return self._page(row, after, size)

    async def page(self, node_id: int, after: int, size: int) -> bytes:
        """As many of a directory's entries after offset *after* as *size* bytes of the kernel's format hold."""
        row = row_of(node_id)
        if not after:  # who has begun goes on with the listing that he has begun
            await self._dataset.tree.ensure_listed(row)
        return self._page(row, after, size)

    async def entries(self, node_id: int, after: int, limit: int) -> list[tuple[bytes, Attributes, int]]:
        """(name, attributes, offset to go on from) of a directory's entries after offset *after*."""
        row = row_of(node_id)
        if not after:
            await self._dataset.tree.ensure_listed(row)
        self._note_shown(row, after)
        names = self._dataset.catalog.names(row, after, limit)
        return [(name[1], self._look.attributes(name), name[0]) for name in names]

    # ---- bytes ----------------------------------------------------------------------------------------------------

    def open_now(self, node_id: int) -> tuple[int, int] | None:
        """As `open`."""
        node = self._dataset.catalog.get(row_of(node_id))
        if node is None or not node.version or not node.is_vouched or not self._is_listed_now(node.parent):
            return None
        if not is_passthrough(node_id):
            return _FILE_FLAGS, 0
        backing_id = self._backings.get(node_id, 0) if is_current(node_id, node) else 0
        return (packed.PASSTHROUGH | packed.NOFLUSH, backing_id) if backing_id else None

    async def open(self, node_id: int) -> tuple[int, int]:
        """Flags and passthrough id to open a file with. VersionChanged: the kernel has to look the name up again."""
        node = await self._dataset.open(row_of(node_id))
        if not is_passthrough(node_id):
            return _FILE_FLAGS, 0
        file = None
        if not is_current(node_id, node):
            raise VersionChanged(f"{node.name!r}: read in another way by now")
        if self._open_backing is not None:
            file = await self._dataset.prepare(node.id)
        if file is None or self._open_backing is None:
            self._dataset.catalog.turn_from(node.id, node.incarnation)
            raise VersionChanged(f"{node.name!r}: no longer read by passthrough")
        try:
            backing_id = self._open_backing(node_id, file.fd)
        except Unavailable as error:
            log.warning("passthrough.refused", error=str(error))
            self.passthrough_problem, self._open_backing = str(error), None
            self._dataset.catalog.turn_from(node.id, node.incarnation)
            raise VersionChanged(f"{node.name!r}: no passthrough here") from error
        _remember(self._backings, node_id, backing_id)
        return packed.PASSTHROUGH | packed.NOFLUSH, backing_id

    def read_now(self, node_id: int, offset: int, size: int) -> Buffer | None:
        """As `read`."""
        return self._dataset.read_now(row_of(node_id), offset, size, self._scratch)

    async def read(self, node_id: int, offset: int, size: int) -> Buffer:
        """The bytes hold until the next read only: the caller has to pass them on before it awaits anything.

        Raises:
            DeadlineExceeded: the source stayed away. VersionChanged: it has another version.
        """
        row = row_of(node_id)
        if not self._given_up.has(row, time.monotonic()):
            try:
                return await self._read(row, offset, size)
            except DeadlineExceeded:
                self._given_up.note(row, time.monotonic())
                raise
        with trio.move_on_after(_SECOND_LOOK_S):
            return await self._read(row, offset, size)
        raise DeadlineExceeded(f"node {row}: its source was given up a moment ago")

    async def _read(self, row: int, offset: int, size: int) -> Buffer:
        if self._no_open and not self._dataset.is_open(row) and not self._dataset.tree.node(row).version:
            await self._dataset.open(row)  # nobody opened it, so nobody asked for its version
        return await self._dataset.read(row, offset, size, self._scratch)

    # ---- what others have to tell ---------------------------------------------------------------------------------

    def note_changed(self, folder: int) -> None:
        """The names below the row *folder* changed."""
        self._listed.pop(folder, None)
        self._shown.forget(folder)
        self._pages.forget(folder)

    def note_evicted(self, node_id: int) -> None:
        self._backings.pop(node_id, None)

    # ---- about all of it ------------------------------------------------------------------------------------------

    def extended_attributes(self, node_id: int) -> list[bytes]:
        """Names of the inode's extended attributes."""
        return xattrs.names(self._dataset, self._dataset.tree.node(row_of(node_id)))

    def extended_attribute(self, node_id: int, name: bytes) -> bytes | None:
        """The value of one extended attribute; None where the inode does not have it."""
        return xattrs.value(self._dataset, self._dataset.tree.node(row_of(node_id)), name)

    def statistics(self) -> tuple[int, int, int]:
        """(bytes of the dataset seen so far, bytes cached, files)."""
        files, total = self._dataset.catalog.totals()
        return total, self._dataset.tiers.cached_bytes, files

    @property
    def has_passthrough(self) -> bool:
        return self._open_backing is not None and not self._no_open

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _page(self, row: int, after: int, size: int) -> bytes:
        self._note_shown(row, after)
        return self._pages.page(row, after, size, lambda limit: self._dataset.catalog.names(row, after, limit))

    def _note_shown(self, row: int, after: int) -> None:
        if not after:  # the kernel asks from the start when it has nothing to go on with
            listed_at = self._dataset.tree.node(row).listed_at
            if listed_at is not None:
                self._shown.note(row, listed_at)

    def _is_listed_now(self, folder: int) -> bool:
        """Whether the names of the row *folder* are known and young enough. What was found out holds for a second."""
        now = time.monotonic()
        if self._listed.get(folder, 0.0) > now:
            return True
        node = self._dataset.catalog.get(folder)
        if node is None or not self._is_young(node.listed_at):
            return False
        _remember(self._listed, folder, now + min(_LISTED_BELIEVED_S, self._dataset.config.listing_ttl_s))
        return True

    def _is_young(self, listed_at: float | None) -> bool:
        ttl_s = self._dataset.config.listing_ttl_s
        return listed_at is not None and 0 <= self._dataset.catalog.clock() - listed_at < ttl_s

    def _attributes(self, node: Node, shown_id: int | None = None) -> Attributes:
        links = 1 if not node.is_dir or node.listed_at is None else 2 + node.folders
        name: Name = (
            node.id, b"", node.is_dir, node.size or 0, node.mtime_ns or 0, node.incarnation, links,
            node.link_target is not None, node.is_executable,
        )  # fmt: skip
        found = self._look.attributes(name)
        return found if shown_id is None else found._replace(node_id=shown_id)


def _is_of_unknown_size(node: Node) -> bool:
    return not node.is_dir and node.size is None


def _remember(memory: OrderedDict[int, V], key: int, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
