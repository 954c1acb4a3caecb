"""Node ids: arithmetic that a successor repeats without knowing anything."""

from hypothesis import given
from hypothesis import strategies as some

from blockcache.catalog import ROOT_ID, Node
from fusemount import nodes

rows = some.integers(min_value=2, max_value=1 << 40)
incarnations = some.integers(min_value=0, max_value=1 << 30)


def node(row: int, incarnation: int = 0, *, is_dir: bool = False) -> Node:
    return Node(row, ROOT_ID, "n", is_dir, 1, 1, "v", incarnation, None)


@given(rows, incarnations)
def test_row_is_found_again_in_every_incarnation(row: int, incarnation: int) -> None:
    assert nodes.row_of(nodes.node_id(node(row, incarnation))) == row


@given(rows, incarnations)
def test_parity_tells_who_reads(row: int, incarnation: int) -> None:
    assert nodes.is_passthrough(nodes.node_id(node(row, incarnation))) == bool(incarnation % 2)


@given(rows, incarnations)
def test_next_incarnation_is_another_inode_and_no_longer_current(row: int, incarnation: int) -> None:
    before, after = node(row, incarnation), node(row, incarnation + 1)

    assert nodes.node_id(before) != nodes.node_id(after)
    assert nodes.is_current(nodes.node_id(after), after)
    assert not nodes.is_current(nodes.node_id(before), after)


@given(rows, incarnations)
def test_number_fits_what_the_kernel_takes(row: int, incarnation: int) -> None:
    assert 0 < nodes.number(row, incarnation) < 1 << 63


def test_root_is_the_kernels_root_and_never_passthrough() -> None:
    root = node(ROOT_ID, is_dir=True)

    assert nodes.node_id(root) == 1
    assert nodes.row_of(1) == ROOT_ID
    assert not nodes.is_passthrough(1)


def test_folder_has_one_number_for_ever() -> None:
    assert nodes.node_id(node(7, 5, is_dir=True)) == nodes.node_id(node(7, 0, is_dir=True))
