"""Takes a cache file from one tier to the next, so that what memory has no room for is still on the disk."""

from blockcache.cachefile import CacheFile
from blockcache.catalog import Node
from blockcache.place import Place
from blockcache.sparsefile import remove
from datamodel.errors import Corrupt
from obs import logs

log = logs.get("blockcache")


def copy_down(node: Node, near: Place, far: Place) -> CacheFile | None:
    """The cache file of *node* in *far*, with all blocks that it has in *near*, each compared with its checksum.

    None where *far* has no room for it or refuses it; nothing is left there then. The file in *near* stays as it is.
    """
    source = near.open(node)
    count = source.cached_bytes()
    if not count or not far.fits(count) or not far.reserve(count):
        return None
    try:
        copy = far.open(node)
        for block in range(copy.blocks):
            if source.has(block) and not copy.has(block):
                _copy_block(source, copy, block)
        copy.try_complete()
    except OSError as error:
        log.warning("tier.refused", path=far.tier.path, error=str(error))
        remove(far.stem(node.id))
        far.usage.release(count)
        return None
    far.usage.settle(count)
    return copy


def _copy_block(source: CacheFile, copy: CacheFile, block: int) -> None:
    try:
        data = source.read(block * source.block_bytes, source.length(block))
    except Corrupt:
        return  # logged and counted; it is fetched again when somebody wants it
    copy.write(block, memoryview(data))
