"""Extended attributes of files and folders, `user.headrace.*`: where they come from, and how much of them is cached.

getfattr -d -m headrace FILE
"""

import os
from urllib.parse import quote

from blockcache.catalog import ROOT_ID, Node
from blockcache.dataset import CachedDataset
from datamodel.client import Source

_PREFIX = b"user.headrace."
_LOCAL_SCHEMES = ("local", "file")
_QUOTED_SCHEMES = ("http://", "https://")


def names(dataset: CachedDataset, node: Node) -> list[bytes]:
    """Names of the attributes that *node* has; a root that shows several sources as folders is from none of them."""
    if node.id == ROOT_ID and dataset.tree.is_split:
        return []
    found = ["url", "source"] if node.is_dir else ["url", "source", "version", "cached_percent"]
    return [_PREFIX + name.encode() for name in found]


def value(dataset: CachedDataset, node: Node, name: bytes) -> bytes | None:
    """The value of one attribute; None where *node* has none of that name."""
    if name not in names(dataset, node):
        return None
    what = name.removeprefix(_PREFIX)
    if what == b"version":
        return node.version.encode(errors="surrogateescape")
    if what == b"cached_percent":
        return b"%d" % cached_percent(dataset, node)
    origin, path = dataset.tree.where(node)
    source = next(source for source in dataset.config.sources if source.name == origin.name)
    return source.name.encode() if what == b"source" else os.fsencode(url_of(source, path))


def cached_percent(dataset: CachedDataset, node: Node) -> int:
    """Whole percent of the file's bytes that are cached; 100 only where all of them are."""
    if not node.size:
        return 100 if node.size == 0 else 0
    return 100 * min(dataset.cached_bytes(node.id), node.size) // node.size


def url_of(source: Source, path: str) -> str:
    """Where *path* of *source* is; without user, password and query, which may be secrets."""
    url = without_secrets(source.url)
    if url.startswith(_QUOTED_SCHEMES):
        path = quote(os.fsencode(path))
    if not path:
        return url
    return url + path if url.endswith("/") else f"{url}/{path}"


def without_secrets(url: str) -> str:
    """*url* without user and password, query and fragment; names of local folders may have such marks themselves."""
    scheme, mark, rest = url.partition("://")
    if scheme in _LOCAL_SCHEMES:
        return url
    authority, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"
