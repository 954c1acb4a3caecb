"""Extended attributes: where a file is from, and never a secret."""

from pathlib import Path

import pytest

from blockcache.catalog import ROOT_ID
from datamodel.client import Source
from fusemount import xattrs
from tests.blockcache.datasets import BLOCK, content, dataset_of, opened, source

DATA = content(4 * BLOCK)


@pytest.mark.parametrize(
    ("url", "path", "shown"),
    [
        ("http://host/data/", "a b/100%", "http://host/data/a%20b/100%25"),
        ("https://me:secret@host:8443/data?token=secret#x", "f", "https://host:8443/data/f"),
        ("http://host", "", "http://host"),
        ("http://host/x?sig=secret", "", "http://host/x"),
        ("s3://bucket/prefix", "a b", "s3://bucket/prefix/a b"),
        ("local:///odd?name#here", "f", "local:///odd?name#here/f"),
        ("sftp://me:secret@host/data", "f", "sftp://host/data/f"),
    ],
)
def test_url_of_a_file_has_no_secret_in_it(url: str, path: str, shown: str) -> None:
    assert xattrs.url_of(Source(name="s", url=url, path="/"), path) == shown


async def test_attributes_of_a_file_are_those_of_its_version(tmp_path: Path) -> None:
    ufs = source({"d/f": DATA})
    async with dataset_of(ufs, tmp_path) as dataset:
        node = await opened(dataset, "d/f")

        values = {name: xattrs.value(dataset, node, name) for name in xattrs.names(dataset, node)}

    assert values == {
        b"user.headrace.url": b"memory://d/f",
        b"user.headrace.source": b"source",
        b"user.headrace.version": ufs.files["d/f"].version.encode(),
        b"user.headrace.cached_percent": b"0",
    }


async def test_cached_percent_grows_to_a_hundred_with_the_last_byte_only(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA, "empty": b""}), tmp_path, block_bytes=BLOCK) as dataset:
        node, empty = await opened(dataset, "f"), await opened(dataset, "empty")
        assert xattrs.cached_percent(dataset, empty) == 100

        await dataset.read(node.id, 0, len(DATA))

        assert xattrs.cached_percent(dataset, node) == 100


async def test_folders_and_other_names_have_less(tmp_path: Path) -> None:
    async with dataset_of(source({"f": DATA}), tmp_path) as dataset:
        root = dataset.tree.node(ROOT_ID)

        assert xattrs.names(dataset, root) == [b"user.headrace.url", b"user.headrace.source"]
        assert xattrs.value(dataset, root, b"user.headrace.version") is None
        assert xattrs.value(dataset, root, b"user.other") is None
        assert xattrs.value(dataset, root, b"user.headrace.url") == b"memory://"
