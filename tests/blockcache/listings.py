"""What sources say of names, for tests of the catalog, and what it makes of that."""

from blockcache.catalog import ROOT_ID, Catalog, Listed, Node


def file(name: str, size: int | None = 10, mtime_ns: int | None = 5, version: str = "", **more: bool) -> Listed:
    return Listed(name, False, size, mtime_ns, version, **more)


def folder(name: str, mtime_ns: int | None = None) -> Listed:
    return Listed(name, True, None, mtime_ns)


def link(name: str, target: str) -> Listed:
    return Listed(name, False, None, 5, link_target=target)


def children(catalog: Catalog, parent: int = ROOT_ID) -> dict[str, Node]:
    return {node.name: node for node in catalog.children(parent, limit=-1)}


def root(catalog: Catalog) -> Node:
    node = catalog.get(ROOT_ID)
    assert node is not None
    return node
