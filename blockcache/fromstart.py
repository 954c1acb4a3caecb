"""Files of a source that cannot give a part of one: read once, front to back, and all of it cached on the way."""

from collections.abc import Callable

from blockcache.buffers import Buffers
from blockcache.cachefile import CacheFile
from datamodel.errors import Corrupt
from ufs.base import Sink


def block_sink(file: CacheFile, buffers: Buffers, on_block: Callable[[int, memoryview], None]) -> Sink:
    """A sink that cuts the bytes of *file*, given in order from offset 0, into blocks, and hands on each."""
    block, filled = 0, 0
    data = buffers.take(file.length(0))

    def take(offset: int, piece: memoryview) -> bool:
        nonlocal block, filled, data
        if offset != block * file.block_bytes + filled:
            raise Corrupt(f"cache file {file.stem.name}: bytes at {offset} came out of turn")
        while piece:
            count = min(len(piece), len(data) - filled)
            data[filled : filled + count] = piece[:count]
            filled, piece = filled + count, piece[count:]
            if filled < len(data):
                return True
            on_block(block, data)
            block, filled = block + 1, 0
            if block == file.blocks:
                return False
            data = buffers.take(file.length(block))
        return True

    return take
