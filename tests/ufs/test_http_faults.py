"""What HTTP servers do wrong, one fault at a time, byte for byte."""

import tracemalloc

import pytest

from datamodel.errors import (
    Corrupt,
    HeadraceError,
    NotFound,
    PermissionRefused,
    Unavailable,
    UserError,
    VersionChanged,
)
from tests.ufs.scripted_files import BODY, ETAG, SETTINGS, VERSION, honest, part, read, served
from tests.ufs.servers import Answer, Request, ScriptedServer, answer
from ufs.http import HttpFileSystem

# ---- the length and the version of what comes ----------------------------------------------------------------------


def test_honest_server_is_read_over_one_connection() -> None:
    with served(honest) as (ufs, server):
        assert ufs.stat("file").version == VERSION
        assert read(ufs) == BODY[:100]
        assert read(ufs, 1000, 10_000) == BODY[1000:]

        assert server.connection_count == 1
        assert server.requests[1].headers["range"] == "bytes=0-99"
        assert server.requests[1].headers["if-match"] == ETAG
        assert server.requests[1].headers["accept-encoding"] == "identity"


def test_body_shorter_than_its_length_is_corrupt() -> None:
    with (
        served(lambda _: part(0, 99, body=BODY[:40], Content_Length="100", then="close")) as (ufs, _),
        pytest.raises(Corrupt, match="promised 100 bytes"),
    ):
        read(ufs)


def test_full_body_that_ends_early_is_corrupt() -> None:
    with (
        served(lambda _: answer(200, BODY[:40], Content_Length=str(len(BODY)), ETag=ETAG, then="close")) as (ufs, _),
        pytest.raises(Corrupt, match="promised 100 bytes"),
    ):
        read(ufs, offset=20)


def test_full_body_that_ends_before_the_offset_is_corrupt() -> None:
    with (
        served(lambda _: answer(200, BODY[:40], Content_Length=str(len(BODY)), ETag=ETAG, then="close")) as (ufs, _),
        pytest.raises(Corrupt),
    ):
        read(ufs, offset=1000)


def test_broken_chunks_are_corrupt() -> None:
    raw = f"HTTP/1.1 206 x\r\nETag: {ETAG}\r\nContent-Range: bytes 0-99/4096\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        served(lambda _: Answer(raw.encode() + b"40\r\nonly this", "close")) as (ufs, _),
        pytest.raises(Corrupt),
    ):
        read(ufs)


def test_sound_chunks_are_read_to_their_end() -> None:
    raw = f"HTTP/1.1 206 x\r\nETag: {ETAG}\r\nContent-Range: bytes 0-99/4096\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"1e\r\n" + BODY[:30] + b"\r\n46\r\n" + BODY[30:100] + b"\r\n0\r\n\r\n"
    with served(lambda _: Answer(raw.encode() + chunks)) as (ufs, server):
        assert read(ufs) == read(ufs) == BODY[:100]
        assert server.connection_count == 1


def test_less_than_the_range_is_completed_by_another_request() -> None:
    def script(request: Request) -> Answer:
        first = int(request.headers["range"].removeprefix("bytes=").split("-")[0])
        return part(first, first + 29)

    with served(script) as (ufs, server):
        assert read(ufs) == BODY[:100]
        assert [request.headers["range"] for request in server.requests] == [
            "bytes=0-99",
            "bytes=30-99",
            "bytes=60-99",
            "bytes=90-99",
        ]


@pytest.mark.parametrize("content_range", ["bytes 5-104/4096", "bytes 0-/4096", "bytes */4096", "", "items 0-99/4096"])
def test_partial_body_of_another_range_is_corrupt(content_range: str) -> None:
    with (
        served(lambda _: part(0, 99, Content_Range=content_range)) as (ufs, _),
        pytest.raises(Corrupt),
    ):
        read(ufs)


@pytest.mark.parametrize(
    "reply",
    [
        part(0, 99, ETag='"v2"'),
        part(0, 99, ETag=""),
        part(0, 99, ETag='W/"v1"'),
        part(0, 99, total=5000),
        answer(200, BODY, ETag='"v2"'),
        answer(200, BODY[:1000], ETag=ETAG),
        answer(412, b"precondition"),
        answer(416, Content_Range="bytes */50"),
    ],
    ids=["other-etag", "no-etag", "weak-etag", "other-total", "full-other", "full-shorter", "412", "416"],
)
def test_another_version_is_never_delivered(reply: Answer) -> None:
    with served(lambda _: reply) as (ufs, _), pytest.raises(VersionChanged):
        read(ufs)


def test_connection_is_not_used_again_after_a_refused_condition() -> None:
    """nginx says keep-alive with status 412 and closes; a request sent meanwhile would fail for no reason."""
    replies = iter([answer(412, b"precondition"), part(0, 99)])
    with served(lambda _: next(replies)) as (ufs, server):
        with pytest.raises(VersionChanged):
            read(ufs)

        assert read(ufs) == BODY[:100]
        assert server.connection_count == 2


def test_etag_that_changes_between_two_pieces_is_noticed() -> None:
    replies = iter([part(0, 29), part(30, 99, ETag='"v2"')])
    with served(lambda _: next(replies)) as (ufs, _), pytest.raises(VersionChanged):
        read(ufs)


def test_file_that_became_a_directory_is_another_version() -> None:
    with served(lambda _: answer(301, Location="/file/")) as (ufs, _), pytest.raises(VersionChanged):
        read(ufs)


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({"Last_Modified": "Thu, 12 Nov 2026 10:00:00 GMT"}, ("if-unmodified-since", "Thu, 12 Nov 2026 10:00:00 GMT")),
        ({"ETag": 'W/"w"'}, None),
        ({"ETag": "unquoted"}, None),
        ({}, None),
    ],
)
def test_weaker_validators_pin_a_version_too(headers: dict[str, str], condition: tuple[str, str] | None) -> None:
    sizes = iter([100, 100, 100, 101])

    def script(request: Request) -> Answer:
        size = next(sizes)
        if request.method == "HEAD":
            return answer(200, head=True, Content_Length=str(size), Accept_Ranges="bytes", headers=headers)
        return answer(206, BODY[:50], Content_Range=f"bytes 0-49/{size}", headers=headers)

    with served(script) as (ufs, server):
        version = ufs.stat("file").version
        assert ufs.stat("file").version == version
        assert read(ufs, length=50, version=version) == BODY[:50]
        with pytest.raises(VersionChanged):
            read(ufs, length=50, version=version)

        sent = {name: value for name, value in server.requests[2].headers.items() if name.startswith("if-")}
        assert sent == (dict([condition]) if condition else {})


# ---- compression ---------------------------------------------------------------------------------------------------


def test_compressed_on_the_way_is_detected_and_never_a_size() -> None:
    with (
        served(lambda _: answer(200, head=True, Content_Length="77", Content_Encoding="gzip")) as (ufs, _),
        pytest.raises(Corrupt, match="Content-Encoding 'gzip'"),
    ):
        ufs.stat("file")


def test_compressed_body_is_never_delivered() -> None:
    with served(lambda _: part(0, 99, Content_Encoding="br")) as (ufs, _), pytest.raises(Corrupt, match="br"):
        read(ufs)


def test_file_that_is_itself_compressed_is_delivered_as_it_is() -> None:
    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return answer(200, head=True, Content_Length="4096", ETag=ETAG, Content_Encoding="x-gzip")
        return part(0, 99, Content_Encoding="x-gzip")

    with served(script) as (ufs, _):
        room = bytearray(100)

        assert ufs.stat("a.tar.gz").size == 4096
        assert ufs.read_range("a.tar.gz", VERSION, 0, memoryview(room)) == 100
        assert room == BODY[:100]


# ---- stat ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 405, 501])
def test_server_without_head_is_asked_for_one_byte(status: int) -> None:
    def script(request: Request) -> Answer:
        return answer(status, head=True) if request.method == "HEAD" else part(0, 0)

    with served(script) as (ufs, server):
        assert ufs.stat("file").version == VERSION
        assert server.requests[1].headers["range"] == "bytes=0-0"


def test_empty_file_without_head_has_size_zero() -> None:
    def script(request: Request) -> Answer:
        return answer(405, head=True) if request.method == "HEAD" else answer(416, Content_Range="bytes */0")

    with served(script) as (ufs, _):
        assert ufs.stat("file").size == 0


def test_head_without_length_is_answered_by_a_range() -> None:
    def script(request: Request) -> Answer:
        return (
            Answer(b"HTTP/1.1 200 x\r\nConnection: close\r\n\r\n", "close") if request.method == "HEAD" else part(0, 0)
        )

    with served(script) as (ufs, _):
        assert ufs.stat("file").size == len(BODY)


def test_source_that_never_tells_a_size_is_refused() -> None:
    with (
        served(lambda _: Answer(b"HTTP/1.1 200 x\r\nConnection: close\r\n\r\n", "close")) as (ufs, _),
        pytest.raises(UserError, match="size"),
    ):
        ufs.stat("file")


def test_time_that_cannot_be_read_is_zero() -> None:
    with served(lambda _: answer(200, Last_Modified="yesterday", head=True)) as (ufs, _):
        assert ufs.stat("file").mtime_ns == 0


# ---- statuses and transport ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UserError),
        (401, PermissionRefused),
        (403, PermissionRefused),
        (404, NotFound),
        (410, NotFound),
        (429, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
    ],
)
def test_status_becomes_the_error_of_who_has_to_act(status: int, error: type[HeadraceError]) -> None:
    with served(lambda request: answer(status, b"sorry", head=request.method == "HEAD")) as (ufs, server):
        for call in (lambda: ufs.stat("file"), lambda: list(ufs.list("dir")), lambda: read(ufs)):
            with pytest.raises(error, match=str(status)) as caught:
                call()
            assert type(caught.value) is error

        assert server.connection_count == 1, "an error answer must not cost the connection"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("soon", None), ("-5", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_retry_after_is_passed_on(header: str, seconds: float | None) -> None:
    with served(lambda _: answer(503, Retry_After=header)) as (ufs, _), pytest.raises(Unavailable) as caught:
        read(ufs)

    assert caught.value.retry_after_s == seconds


def test_stall_before_the_answer_is_unavailable() -> None:
    with served(lambda _: Answer(b"", "stall")) as (ufs, _), pytest.raises(Unavailable, match="in time"):
        read(ufs)


def test_stall_inside_the_body_is_unavailable_and_the_next_read_works() -> None:
    replies = iter([part(0, 99, body=BODY[:40], Content_Length="100", then="stall"), part(0, 99)])
    with served(lambda _: next(replies)) as (ufs, server):
        with pytest.raises(Unavailable, match="in time"):
            read(ufs)

        assert read(ufs) == BODY[:100]
        assert server.connection_count == 2


@pytest.mark.parametrize("raw", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200\r\n" + b"a: b\r\n" * 20_000])
def test_connection_that_speaks_no_http_is_unavailable(raw: bytes) -> None:
    with served(lambda _: Answer(raw, "close")) as (ufs, _), pytest.raises(Unavailable):
        read(ufs)


def test_refused_connection_is_unavailable() -> None:
    with ScriptedServer(honest) as server:
        url = server.url
    ufs = HttpFileSystem(url, SETTINGS)

    with pytest.raises(Unavailable):
        ufs.stat("file")


def test_name_that_does_not_resolve_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        HttpFileSystem("http://no-such-host.invalid/", SETTINGS).stat("file")


def test_more_failures_than_connections_do_not_use_up_the_pool() -> None:
    with served(lambda _: part(0, 99, body=b"x", Content_Length="100", then="close")) as (ufs, _):
        for _ in range(40):
            with pytest.raises(Corrupt):
                read(ufs)


def test_unread_rest_of_a_long_body_costs_the_connection_and_nothing_else() -> None:
    long = BODY * 1000
    version = f"etag:{ETAG};size:{len(long)}"
    with served(lambda _: answer(200, long, ETag=ETAG)) as (ufs, _):
        for _ in range(40):
            assert read(ufs, version=version) == BODY[:100]


def test_body_goes_straight_into_the_callers_memory() -> None:
    """The fast path reads below urllib3; this fails if an upgrade of urllib3 takes it away."""
    size = 8 << 20
    body = bytes(size)
    version = f"etag:{ETAG};size:{size}"
    reply = answer(206, body, Content_Range=f"bytes 0-{size - 1}/{size}", ETag=ETAG)
    with served(lambda _: reply) as (ufs, _):
        room = bytearray(size)
        read(ufs, version=version)
        tracemalloc.start()
        ufs.read_range("file", version, 0, memoryview(room))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < size // 8
