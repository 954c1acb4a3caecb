"""Which way a server shows its directories, loops on it, and the pages of a bucket."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest

from datamodel.errors import NotFound, PermissionRefused, Unavailable, UserError
from tests.ufs.servers import Answer, Request, ScriptedServer, answer, nginx
from tests.ufs.web_servers import apache
from ufs.base import Entry, UnderFileSystem
from ufs.http import HttpFileSystem, HttpSettings
from ufs.http_loops import DEPTH_LIMIT

XML = "application/xml"


@contextmanager
def opened(url: str) -> Iterator[HttpFileSystem]:
    ufs = HttpFileSystem(url, HttpSettings())
    yield ufs
    ufs.close()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    root, run = tmp_path / "root", tmp_path / "run"
    for folder in (tmp_path.parent, tmp_path, root, run):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    return root, run


def walk(ufs: UnderFileSystem, path: str = "") -> Iterator[str]:
    for entry in ufs.list(path):
        below = f"{path}/{entry.name}" if path else entry.name
        yield below
        if entry.is_dir:
            yield from walk(ufs, below)


# ---- WebDAV --------------------------------------------------------------------------------------------------------


def test_webdav_is_used_where_the_index_rounds(folders: tuple[Path, Path]) -> None:
    root, run = folders
    (root / "big").write_bytes(bytes(5000))
    (root / "dir").mkdir()
    os.utime(root / "big", (1_700_000_000, 1_700_000_000))
    with apache(root, run, "IndexOptions FancyIndexing\nDAV On") as url, opened(url) as ufs:
        assert sorted(ufs.list(""), key=lambda entry: entry.name) == [
            Entry(name="big", is_dir=False, size=5000, mtime_ns=1_700_000_000_000_000_000),
            Entry(name="dir", is_dir=True, size=0, mtime_ns=None),
        ]


def test_webdav_is_asked_for_once_where_it_is_not_known() -> None:
    def script(request: Request) -> Answer:
        if request.method == "PROPFIND":
            return answer(405)
        return answer(200, b'<a href="file">file</a>', Content_Type="text/html")

    with ScriptedServer(script) as server, opened(server.url) as ufs:
        for _ in range(3):
            assert [entry.size for entry in ufs.list("")] == [None]

        assert [request.method for request in server.requests] == ["GET", "PROPFIND", "GET", "GET"]
        assert server.requests[1].headers["depth"] == "1"


def test_webdav_that_was_busy_at_first_is_asked_again() -> None:
    members = b"""<multistatus xmlns="DAV:"><response><href>/</href><propstat><prop><resourcetype><collection/>
        </resourcetype></prop></propstat></response></multistatus>"""
    replies = iter([answer(503), answer(207, members)])

    def script(request: Request) -> Answer:
        return next(replies) if request.method == "PROPFIND" else answer(403)

    with ScriptedServer(script) as server, opened(server.url) as ufs:
        with pytest.raises(PermissionRefused):
            ufs.list("")
        assert list(ufs.list("")) == []


def test_busy_index_is_no_reason_to_look_for_another_way() -> None:
    with ScriptedServer(lambda _: answer(503, Retry_After="7")) as server, opened(server.url) as ufs:
        with pytest.raises(Unavailable) as caught:
            ufs.list("")

        assert caught.value.retry_after_s == 7
        assert len(server.requests) == 1


# ---- names and loops -----------------------------------------------------------------------------------------------


def test_names_of_255_bytes_and_with_leading_dots_are_listed_and_read(folders: tuple[Path, Path]) -> None:
    root, run = folders
    names = ["x" * 255, "ü" * 127, ".hidden", "...", "-rf", "~user", "a?b=c&d", "%2e%2e", "%", "+", "&amp;", "0"]
    for name in names:
        (root / name).write_text(name)
    with nginx(root, run, "autoindex on;") as url, opened(url) as ufs:
        found = {entry.name: ufs.read_whole(entry.name, 1000)[1].decode() for entry in ufs.list("")}

    # nginx itself lists no name with a leading dot; they can be read all the same.
    assert found == {name: name for name in names if not name.startswith(".")}


def test_links_on_the_server_to_itself_end(folders: tuple[Path, Path]) -> None:
    root, run = folders
    (root / "dir").mkdir()
    (root / "dir" / "file").write_text("x")
    (root / "file").write_text("y")
    for link, target in (("one", "."), ("two", "."), ("dir/up", "..")):
        (root / link).symlink_to(target)
    with nginx(root, run, "autoindex on;") as url, opened(url) as ufs:
        found = list(walk(ufs))

    assert {"file", "dir/file", "one/file", "dir/up/file"} <= set(found)
    assert max(path.count("/") for path in found) < 12


def test_links_between_folders_without_files_end_too(folders: tuple[Path, Path]) -> None:
    root, run = folders
    (root / "empty").mkdir()
    (root / "loop").symlink_to(".")
    with nginx(root, run, "autoindex on;") as url, opened(url) as ufs:
        assert max(path.count("/") for path in walk(ufs)) < 12


def test_folders_of_equal_names_are_not_taken_for_loops(folders: tuple[Path, Path]) -> None:
    """As in trees that are split by the digits of a hash, and where every folder has a file of the same name."""
    root, run = folders
    (root / "0/0/0/0").mkdir(parents=True)
    (root / "0/0/0/0/file").write_text("x")
    (root / "a/a/a/a").mkdir(parents=True)
    for depth in range(1, 5):
        (root / "/".join("a" * depth) / "file").write_text("x" * depth)
    with nginx(root, run, "autoindex on;") as url, opened(url) as ufs:
        found = set(walk(ufs))

    assert {"0/0/0/0/file", "a/a/a/a/file"} <= found


def test_tree_without_end_is_cut_at_a_depth_that_no_real_one_has() -> None:
    """Each folder holds another one of a new name, so nothing repeats."""

    def script(request: Request) -> Answer:
        return answer(200, f'<a href="n{len(request.target)}/">x</a>'.encode(), Content_Type="text/html")

    with ScriptedServer(script) as server, opened(server.url) as ufs:
        assert len(list(walk(ufs))) == DEPTH_LIMIT + 1


# ---- buckets -------------------------------------------------------------------------------------------------------


class Bucket:
    """Answers as an S3 service does, with *page_size* keys a page, by *version* 1 or 2 of the listing."""

    def __init__(self, keys: dict[str, bytes], base: str, version: int = 2, page_size: int = 3) -> None:
        self._keys, self._base, self._version, self._page_size = keys, base, version, page_size

    def __call__(self, request: Request) -> Answer:
        parts = urlsplit(request.target)
        if parts.path == self._base:
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            return answer(200, self._list(asked), Content_Type=XML, x_amz_request_id="1")
        body = b"" if request.method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>"
        return answer(404, body, Content_Type=XML, x_amz_request_id="1")

    def _list(self, asked: dict[str, str]) -> bytes:
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token", asked.get("marker", ""))
        rows: dict[str, str] = {}
        for key in sorted(self._keys):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if "/" in rest and asked.get("delimiter"):
                folder = prefix + rest.partition("/")[0] + "/"
                rows[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            else:
                times = "<LastModified>2026-11-12T10:00:00.500Z</LastModified>"
                size = f"<Size>{len(self._keys[key])}</Size>"
                rows[key] = f"<Contents><Key>{escape(key)}</Key>{times}{size}</Contents>"
        names = [name for name in sorted(rows) if name > after]
        page = names[: min(self._page_size, int(asked.get("max-keys", "1000")))]
        more = "<IsTruncated>false</IsTruncated>"
        if len(page) < len(names):
            next_page = (
                f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if self._version == 2 else ""
            )
            more = f"<IsTruncated>true</IsTruncated>{next_page}"
        body = "".join(rows[name] for name in page)
        return f'<?xml version="1.0"?><ListBucketResult xmlns="urn:x">{more}{body}</ListBucketResult>'.encode()


KEYS = {
    "top & <one>": b"1",
    "data/": b"",
    "data/a": b"22",
    "data/b": b"22",
    "data/c": b"22",
    "data/d/e": b"333",
    "data/d": b"hidden by the directory",
    "data/f//g": b"4",
    "data/z": b"55",
    "two/x": b"6",
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("base", ["/", "/bucket/"])
def test_bucket_is_listed_page_by_page(base: str, version: int) -> None:
    with ScriptedServer(Bucket(KEYS, base, version)) as server, opened(server.url.rstrip("/") + base) as ufs:
        moment = 1_794_477_600_000_000_000

        assert list(ufs.list("")) == [
            Entry(name="data", is_dir=True, size=0, mtime_ns=None),
            Entry(name="top & <one>", is_dir=False, size=1, mtime_ns=moment),
            Entry(name="two", is_dir=True, size=0, mtime_ns=None),
        ]
        assert [(entry.name, entry.is_dir) for entry in ufs.list("data")] == [
            ("a", False),
            ("b", False),
            ("c", False),
            ("d", True),
            ("f", True),
            ("z", False),
        ]
        assert list(ufs.list("data/f")) == []
        with pytest.raises(NotFound):
            ufs.list("nothing")


def test_address_below_a_bucket_finds_the_bucket() -> None:
    with ScriptedServer(Bucket(KEYS, "/bucket/")) as server:
        with opened(server.url + "bucket/data/") as ufs:
            assert [entry.name for entry in ufs.list("d")] == ["e"]
        with opened(server.url + "bucket/data") as ufs:
            assert ufs.stat("").is_dir
            assert ufs.stat("d").is_dir
            with pytest.raises(NotFound):
                ufs.stat("nothing")


def test_listing_that_comes_back_to_the_same_page_is_refused() -> None:
    page = b"""<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>
        </ListBucketResult>"""
    with (
        ScriptedServer(lambda _: answer(200, page, Content_Type=XML)) as server,
        opened(server.url) as ufs,
        pytest.raises(UserError, match="same page"),
    ):
        ufs.list("")
