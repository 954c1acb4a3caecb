"""Every implementation of the port, each against real files and, for HTTP, against real servers.

A server is started once and serves one folder per check.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.contract.check_under_file_system import CHECKS, NOT_UTF_8, TREE, Subject, plant
from tests.ufs.servers import nginx, python_server
from tests.ufs.web_servers import apache, caddy, lighttpd, rclone
from ufs.http import HttpFileSystem, HttpSettings
from ufs.local import LocalFileSystem

_CONTROL = "tab\tand\nnewline"


def _nginx(options: str) -> Callable[[Path, Path], AbstractContextManager[str]]:
    return lambda root, run: nginx(root, run, options)


def _apache(options: str) -> Callable[[Path, Path], AbstractContextManager[str]]:
    return lambda root, run: apache(root, run, options)


@dataclass(frozen=True)
class Kind:
    """One server in one configuration."""

    serve: Callable[[Path, Path], AbstractContextManager[str]]
    without: tuple[str, ...] = ()
    """Paths of `TREE` that this server shows under other names, or not at all."""
    knows_paths_below_files: bool = False


KINDS = {
    "local": Kind(lambda root, run: nullcontext("")),
    # http.server's pages name a file that is not UTF-8 by other bytes than its own.
    "python": Kind(lambda root, run: python_server(root), (NOT_UTF_8,)),
    "nginx": Kind(_nginx("autoindex on;")),
    "nginx-json": Kind(_nginx("autoindex on; autoindex_format json;")),
    "nginx-rounded": Kind(_nginx("autoindex on; autoindex_exact_size off; autoindex_localtime on;")),
    "nginx-without-etag": Kind(_nginx("autoindex on; etag off;")),
    "nginx-without-ranges": Kind(_nginx("autoindex on; max_ranges 0;")),
    "nginx-compressing": Kind(_nginx("autoindex on; gzip on; gzip_types *; gzip_min_length 1;")),
    "apache-list": Kind(_apache("")),
    "apache-columns": Kind(_apache("IndexOptions FancyIndexing NameWidth=20")),
    "apache-table": Kind(_apache("IndexOptions FancyIndexing HTMLTable SuppressDescription")),
    "apache-webdav": Kind(_apache("Options -Indexes\nDAV On")),
    # lighttpd refuses addresses with control characters or bytes that are not UTF-8.
    "lighttpd": Kind(lighttpd, (NOT_UTF_8, _CONTROL), knows_paths_below_files=True),
    "caddy": Kind(caddy),
    # rclone shows control characters and bytes that are not UTF-8 as other characters.
    "rclone-http": Kind(lambda root, run: rclone(root, run, "http"), (NOT_UTF_8, _CONTROL)),
    "rclone-webdav": Kind(lambda root, run: rclone(root, run, "webdav"), (NOT_UTF_8, _CONTROL)),
    # Each folder is a bucket, read by its plain address; in a bucket no empty folder exists.
    "rclone-s3": Kind(lambda root, run: rclone(root, run, "s3"), (NOT_UTF_8, _CONTROL, "empty-dir")),
}


@dataclass(frozen=True)
class Served:
    kind: str
    root: Path
    url: str
    numbers: Iterator[int]


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kind = str(request.param)
    base = tmp_path_factory.mktemp("served")
    for folder in (base.parent, base):
        folder.chmod(0o755)  # Apache serves as a user of its own
    root, run = base / "root", base / "run"
    root.mkdir()
    run.mkdir()
    run.chmod(0o777)
    with KINDS[kind].serve(root, run) as url:
        yield Served(kind, root, url, count())


@pytest.fixture
def subject(served: Served) -> Iterator[Subject]:
    name = f"case-{next(served.numbers)}"
    folder = served.root / name
    folder.mkdir()
    kind = KINDS[served.kind]
    tree = {path: content for path, content in TREE.items() if path not in kind.without}
    plant(folder, tree)
    ufs = HttpFileSystem(f"{served.url}{name}/", HttpSettings()) if served.url else LocalFileSystem(str(folder))
    yield Subject(ufs, folder, tree, kind.knows_paths_below_files)
    ufs.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_honours_the_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)
