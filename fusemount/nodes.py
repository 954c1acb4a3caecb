"""Node ids: what the kernel calls an inode, made of a catalog row and its incarnation, and of nothing in memory.

A daemon that starts after another one died understands every node id and file handle (they are the same number) the
kernel still holds. The incarnation's parity is the I/O mode: the kernel lets an inode be open through its page cache
or by passthrough, never both, so a file gets a new node id when its mode changes.
"""

from blockcache.catalog import ROOT_ID, Node

INCARNATION_BITS = 20
_MASK = (1 << INCARNATION_BITS) - 1


def node_id(node: Node) -> int:
    """The kernel's number of *node*. Directories have one incarnation only."""
    return number(node.id, 0 if node.is_dir else node.incarnation)


def number(row: int, incarnation: int) -> int:
    """The kernel's number of a catalog row in one incarnation."""
    return ROOT_ID if row == ROOT_ID else row << INCARNATION_BITS | incarnation & _MASK


def row_of(node_id: int) -> int:
    """The catalog row behind a kernel's number."""
    return node_id if node_id == ROOT_ID else node_id >> INCARNATION_BITS


def is_passthrough(node_id: int) -> bool:
    return node_id != ROOT_ID and bool(node_id & 1)


def is_current(node_id: int, node: Node) -> bool:
    """Whether *node_id* is the incarnation that a lookup would give now."""
    return node_id & _MASK == node.incarnation & _MASK
