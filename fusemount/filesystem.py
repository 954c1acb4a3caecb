"""What each file system call means for a cached dataset, in plain values: no pyfuse3 here, so tests need no mount."""

import mmap
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from blockcache.catalog import Node
from blockcache.dataset import Buffer, CachedDataset
from datamodel.errors import DeadlineExceeded, Unavailable, VersionChanged
from fusemount.givenup import GivenUp
from fusemount.nodes import is_current, is_passthrough, node_id, row_of
from obs import logs

log = logs.get("fusemount")

_INCOMPLETE_TTL_S = 1.0
_SECOND_LOOK_S = 0.5
_LARGEST_READ_BYTES = 1 << 20  # of one request: 256 pages

OpenBacking = Callable[[int, int], int]
"""(node id, file descriptor) -> passthrough id."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of one inode. *mode* as in stat(2); *mtime_ns* since the epoch; *ttl_s* how long the kernel may keep them."""

    node_id: int
    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Opened:
    """*backing_id* > 0: the kernel reads the file by itself."""

    backing_id: int = 0


class FileSystem:
    """Read-only view of *dataset*. *open_backing* is None where passthrough is not to be had."""

    def __init__(self, dataset: CachedDataset, open_backing: OpenBacking | None) -> None:
        self._dataset, self._open_backing = dataset, open_backing
        self._started_ns = time.time_ns()
        self._given_up = GivenUp(Path(dataset.config.catalog_folder))
        self._scratch = memoryview(mmap.mmap(-1, _LARGEST_READ_BYTES))

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """Raises NotFound, Unavailable."""
        return self._attributes(await self._dataset.tree.lookup(row_of(parent), os.fsdecode(name)))

    async def attributes(self, node_id: int) -> Attributes:
        """Attributes of an inode that the kernel knows; VersionChanged where its row is gone.

        The incarnation is the kernel's own: only a lookup may lead it to another one.
        """
        node = self._dataset.tree.node(row_of(node_id))
        if not node.is_dir and node.size is None:
            node = await self._dataset.tree.pin(node.id)
        return self._attributes(node, node_id)

    async def open(self, node_id: int) -> Opened:
        """Raises VersionChanged where the kernel has to look the name up again."""
        node = await self._dataset.open(row_of(node_id))
        if not is_passthrough(node_id):
            self._dataset.target(node.id)
            return Opened()
        file = None
        if self._open_backing is not None and is_current(node_id, node):
            file = await self._dataset.prepare(node.id)
        if file is None or self._open_backing is None:
            self._dataset.catalog.turn(node.id, passthrough=False)
            raise VersionChanged(f"{node.name!r}: no longer read by passthrough")
        try:
            return Opened(self._open_backing(node_id, file.fd))
        except Unavailable as error:
            log.warning("passthrough.refused", error=str(error))
            self._open_backing = None
            self._dataset.catalog.turn(node.id, passthrough=False)
            raise VersionChanged(f"{node.name!r}: no passthrough here") from error

    async def read(self, node_id: int, offset: int, size: int) -> Buffer:
        """The bytes hold until the next read only: the caller has to pass them on before it awaits anything.

        Raises:
            DeadlineExceeded: the source stayed away. VersionChanged: it has another version.
        """
        row = row_of(node_id)
        if not self._given_up.has(row, time.monotonic()):
            try:
                return await self._dataset.read(row, offset, size, self._scratch)
            except DeadlineExceeded:
                self._given_up.note(row, time.monotonic())
                raise
        with trio.move_on_after(_SECOND_LOOK_S):
            return await self._dataset.read(row, offset, size, self._scratch)
        raise DeadlineExceeded(f"node {row}: its source was given up a moment ago")

    async def entries(self, node_id: int, after: int, limit: int) -> list[tuple[bytes, Attributes, int]]:
        """(name, attributes, offset to go on from) of a directory's entries after offset *after*."""
        row = row_of(node_id)
        await self._dataset.tree.ensure_listed(row)
        nodes = self._dataset.catalog.children(row, after, limit)
        return [(os.fsencode(node.name), self._attributes(node), node.id) for node in nodes]

    def statistics(self) -> tuple[int, int, int]:
        """(bytes of the dataset seen so far, bytes cached, files)."""
        files, total = self._dataset.catalog.totals()
        return total, self._dataset.tiers.cached_bytes, files

    def _attributes(self, node: Node, shown_id: int | None = None) -> Attributes:
        config = self._dataset.config
        is_settled = node.is_dir or node.incarnation % 2 == 1
        return Attributes(
            node_id=node_id(node) if shown_id is None else shown_id,
            mode=stat.S_IFDIR | 0o555 if node.is_dir else stat.S_IFREG | 0o444,
            size=node.size or 0,
            mtime_ns=self._started_ns if node.mtime_ns is None else node.mtime_ns,
            uid=config.owner_uid,
            gid=config.owner_gid,
            ttl_s=config.attribute_ttl_s if is_settled else min(_INCOMPLETE_TTL_S, config.attribute_ttl_s),
        )
