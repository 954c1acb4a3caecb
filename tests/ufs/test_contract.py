"""Every implementation of the port, each against real files and, for HTTP, against real servers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.check_under_file_system import CHECKS, NOT_UTF_8, TREE, Subject, plant
from tests.ufs.servers import nginx, python_server
from ufs.http import HttpFileSystem, HttpSettings
from ufs.local import LocalFileSystem

# http.server's pages name a file that is not UTF-8 by other bytes than its own; one path then shows under another name.
_PYTHON_TREE = {path: content for path, content in TREE.items() if path != NOT_UTF_8}
_NGINX_OPTIONS = {
    "nginx": "autoindex on;",
    "nginx-json": "autoindex on; autoindex_format json;",
    "nginx-rounded": "autoindex on; autoindex_exact_size off; autoindex_localtime on;",
    "nginx-without-etag": "autoindex on; etag off;",
    "nginx-without-ranges": "autoindex on; max_ranges 0;",
    "nginx-compressing": "autoindex on; gzip on; gzip_types *; gzip_min_length 1;",
}


@pytest.fixture(params=["local", "python", *_NGINX_OPTIONS])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    folder, run = tmp_path / "tree", tmp_path / "run"
    folder.mkdir()
    run.mkdir()
    kind = str(request.param)
    tree = _PYTHON_TREE if kind == "python" else TREE
    plant(folder, tree)
    if kind == "local":
        yield Subject(LocalFileSystem(str(folder)), folder, tree)
        return
    server = python_server(folder) if kind == "python" else nginx(folder, run, _NGINX_OPTIONS[kind])
    with server as url:
        ufs = HttpFileSystem(url, HttpSettings())
        yield Subject(ufs, folder, tree)
        ufs.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_honours_the_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)
