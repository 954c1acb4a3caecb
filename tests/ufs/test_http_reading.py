"""Whole files, files from front to back, and how a source shows whether it knows ranges."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datamodel.errors import Corrupt, NotFound, Precondition, Unavailable, UserError, VersionChanged
from tests.ufs.servers import Answer, Request, ScriptedServer, answer, nginx
from ufs.http import HttpFileSystem, HttpSettings
from ufs.http_socket import Limits

BODY = bytes(range(256)) * 16384
ETAG = '"v1"'
VERSION = f"etag:{ETAG};size:{len(BODY)}"
SETTINGS = HttpSettings(limits=Limits(connect_timeout_s=5, read_timeout_s=0.3))


@contextmanager
def served(script: Callable[[Request], Answer]) -> Iterator[tuple[HttpFileSystem, ScriptedServer]]:
    with ScriptedServer(script) as server:
        ufs = HttpFileSystem(server.url, SETTINGS)
        yield ufs, server
        ufs.close()


def without_ranges(request: Request) -> Answer:
    """As Python's own server does: every answer is the whole file."""
    return answer(200, BODY, ETag=ETAG, head=request.method == "HEAD")


def stream(ufs: HttpFileSystem, version: str = VERSION) -> bytes:
    got = bytearray()

    def sink(offset: int, piece: memoryview) -> bool:
        assert offset == len(got)
        got.extend(piece)
        return True

    ufs.read_from_start("file", version, sink)
    return bytes(got)


# ---- whole files ---------------------------------------------------------------------------------------------------


def test_whole_file_is_one_request_and_pins_what_it_brought() -> None:
    with served(lambda _: answer(200, BODY, ETag=ETAG, Last_Modified="Thu, 12 Nov 2026 10:00:00 GMT")) as (ufs, server):
        stat, content = ufs.read_whole("file", len(BODY))

        assert content == BODY
        assert (stat.version, stat.size, stat.mtime_ns) == (VERSION, len(BODY), 1_794_477_600_000_000_000)
        assert [(request.method, request.target) for request in server.requests] == [("GET", "/file")]
        assert "range" not in server.requests[0].headers


def test_whole_file_in_chunks_has_the_size_that_came() -> None:
    raw = f"HTTP/1.1 200 x\r\nETag: {ETAG}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with served(lambda _: Answer(raw + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")) as (ufs, _):
        stat, content = ufs.read_whole("file", 100)

        assert (stat.version, content) == (f"etag:{ETAG};size:5", b"abcde")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(200, BODY[:40], Content_Length="100", then="close"), Corrupt),
        (answer(200, BODY[:40], Content_Length="100", then="stall"), Unavailable),
        (answer(200, BODY[:40], Content_Encoding="gzip"), Corrupt),
        (answer(200, BODY), Precondition),
        (answer(404), NotFound),
        (answer(405), NotFound),
        (answer(301, Location="/file/"), NotFound),
        (answer(503), Unavailable),
        (Answer(b"HTTP/1.1 200 x\r\n\r\nabc", "close"), UserError),
    ],
    ids=["short", "stall", "gzip", "long", "missing", "no-get", "directory", "busy", "no-length"],
)
def test_whole_file_is_right_or_an_error(reply: Answer, error: type[Exception]) -> None:
    with served(lambda _: reply) as (ufs, _), pytest.raises(error):
        ufs.read_whole("file", 1000)


def test_small_files_share_a_connection() -> None:
    with served(lambda _: answer(200, b"abc", ETag=ETAG)) as (ufs, server):
        assert [ufs.read_whole(f"{number}", 10)[1] for number in range(50)] == [b"abc"] * 50
        assert server.connection_count == 1


# ---- from front to back --------------------------------------------------------------------------------------------


def test_stream_is_one_request_with_the_condition() -> None:
    with served(without_ranges) as (ufs, server):
        assert stream(ufs) == BODY
        assert len(server.requests) == 1
        assert server.requests[0].headers["if-match"] == ETAG
        assert "range" not in server.requests[0].headers


def test_stream_that_is_broken_off_costs_a_connection_and_nothing_else() -> None:
    with served(without_ranges) as (ufs, server):
        ufs.read_from_start("file", VERSION, lambda offset, piece: False)

        assert stream(ufs) == BODY
        assert server.connection_count == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(200, BODY[:-1], ETag=ETAG, Content_Length=str(len(BODY)), then="close"), Corrupt),
        (answer(200, BODY[:-1], ETag=ETAG, Content_Length=str(len(BODY)), then="stall"), Unavailable),
        (answer(200, BODY, ETag=ETAG, Content_Encoding="br"), Corrupt),
        (answer(200, BODY, ETag='"v2"'), VersionChanged),
        (answer(200, BODY + b"x", ETag=ETAG), VersionChanged),
        (answer(412), VersionChanged),
        (answer(301, Location="/file/"), VersionChanged),
        (answer(404), NotFound),
    ],
    ids=["short", "stall", "br", "other", "longer", "412", "directory", "missing"],
)
def test_stream_is_of_the_pinned_version_or_an_error(reply: Answer, error: type[Exception]) -> None:
    with served(lambda _: reply) as (ufs, _), pytest.raises(error):
        stream(ufs)


# ---- whether ranges work -------------------------------------------------------------------------------------------


def test_source_without_ranges_is_known_by_the_first_stat() -> None:
    with served(without_ranges) as (ufs, server):
        assert not ufs.stat("file").has_ranges
        assert not ufs.stat("other").has_ranges
        assert [request.method for request in server.requests] == ["HEAD", "GET", "HEAD"], "asked once for all files"


def test_source_that_says_so_is_believed() -> None:
    def script(request: Request) -> Answer:
        kind = "none" if request.target == "/without" else "bytes"
        return answer(200, head=True, Content_Length="9", ETag=ETAG, Accept_Ranges=kind)

    with served(script) as (ufs, server):
        assert not ufs.stat("without").has_ranges
        assert ufs.stat("with").has_ranges
        assert [request.method for request in server.requests] == ["HEAD", "HEAD"]


def test_promise_that_was_broken_is_checked_until_it_is_kept() -> None:
    is_broken = True

    def script(request: Request) -> Answer:
        if request.method == "HEAD" or is_broken:
            return answer(200, BODY, ETag=ETAG, Accept_Ranges="bytes", head=request.method == "HEAD")
        return answer(206, BODY[:1], Content_Range=f"bytes 0-0/{len(BODY)}", ETag=ETAG)

    with served(script) as (ufs, _):
        assert ufs.stat("file").has_ranges
        assert ufs.read_range("file", VERSION, 1000, memoryview(bytearray(10))) == 10
        assert not ufs.stat("file").has_ranges

        is_broken = False

        assert ufs.stat("file").has_ranges


def test_range_that_is_called_200_is_taken_for_what_it_is() -> None:
    """As gofakes3 answers, the server within `rclone serve s3`."""
    reply = answer(200, BODY[7:17], Content_Range=f"bytes 7-16/{len(BODY)}", ETag=ETAG)
    with served(lambda _: reply) as (ufs, _):
        room = bytearray(10)

        assert ufs.read_range("file", VERSION, 7, memoryview(room)) == 10
        assert room == BODY[7:17]


def test_directory_that_is_known_only_by_its_slash_is_found(tmp_path: Path) -> None:
    """As with rclone: 404 for `/dir`, an index page for `/dir/`; nothing else may become a directory by that."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "run").mkdir()
    options = "location = /dir { return 404; } location = /dir/ { return 200 index; }"
    with nginx(tmp_path / "tree", tmp_path / "run", options) as url:
        ufs = HttpFileSystem(url, SETTINGS)
        try:
            assert ufs.stat("dir").is_dir
            with pytest.raises(NotFound):
                ufs.stat("other")
        finally:
            ufs.close()
