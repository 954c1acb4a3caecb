"""Where an address leads: redirects, who gets the credentials, and whether a source is a directory or one file."""

import pytest

from datamodel.errors import Corrupt, NotFound, PermissionRefused, Unavailable, UserError
from tests.ufs.scripted_files import BODY, ETAG, SETTINGS, VERSION, honest, read, served
from tests.ufs.servers import Answer, Request, ScriptedServer, answer
from ufs.base import Entry
from ufs.http import HttpFileSystem, HttpSettings
from ufs.http_client import REDIRECT_LIMIT

# ---- redirects and credentials -------------------------------------------------------------------------------------


def test_redirects_are_followed_with_range_and_condition() -> None:
    def script(request: Request) -> Answer:
        return answer(302, Location="real") if request.target == "/file" else honest(request)

    with served(script) as (ufs, server):
        assert read(ufs) == BODY[:100]
        assert server.requests[1].target == "/real"
        assert server.requests[1].headers["if-match"] == ETAG


def test_redirect_loop_ends_with_an_error() -> None:
    with served(lambda _: answer(302, Location="/file")) as (ufs, server):
        with pytest.raises(UserError, match="redirects"):
            ufs.stat("file")
        assert len(server.requests) == REDIRECT_LIMIT + 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/", "http://[", "gopher://x/", "http://x:y/"])
def test_redirect_to_anything_but_http_is_refused(location: str) -> None:
    with served(lambda _: answer(302, Location=location)) as (ufs, _), pytest.raises(UserError, match="redirects to"):
        ufs.stat("file")


def test_redirect_with_raw_bytes_reaches_the_named_file() -> None:
    def script(request: Request) -> Answer:
        if request.target == "/file":
            return Answer("HTTP/1.1 302 x\r\nContent-Length: 0\r\nLocation: /Ü x\r\n\r\n".encode())
        return honest(request)

    with served(script) as (ufs, server):
        assert read(ufs) == BODY[:100]
        assert server.requests[1].target == "/%C3%9C%20x"


def test_credentials_go_to_their_own_server_only() -> None:
    with ScriptedServer(honest) as other:
        settings = HttpSettings(bearer_token="hidden", limits=SETTINGS.limits)
        with served(lambda _: answer(302, Location=other.url + "file"), settings=settings) as (ufs, server):
            assert read(ufs) == BODY[:100]

            assert server.requests[0].headers["authorization"] == "Bearer hidden"
            assert "authorization" not in other.requests[0].headers


def test_credentials_survive_a_redirect_on_the_same_server() -> None:
    def script(request: Request) -> Answer:
        return answer(302, Location="/real") if request.target == "/file" else honest(request)

    with served(script, settings=HttpSettings(username="u", password="p")) as (ufs, server):
        assert read(ufs) == BODY[:100]
        assert [request.headers["authorization"] for request in server.requests] == ["Basic dTpw", "Basic dTpw"]


def test_credentials_and_query_of_the_address_are_used_and_never_shown() -> None:
    with ScriptedServer(lambda _: answer(401, head=True)) as server:
        url = server.url.replace("://", "://user:pa%3Ass@") + "d/?signature=topsecret"
        ufs = HttpFileSystem(url, SETTINGS)
        with pytest.raises(PermissionRefused) as caught:
            ufs.stat("file")
        shown = f"{caught.value} {caught.value!r} {ufs!r} {HttpSettings(password='topsecret')!r}"

        assert server.requests[0].headers["authorization"] == "Basic dXNlcjpwYTpzcw=="
        assert server.requests[0].target == "/d/file?signature=topsecret"
        assert not any(secret in shown for secret in ("pa%3A", "pa:ss", "topsecret", "dXNlc"))


# ---- the root ------------------------------------------------------------------------------------------------------


def test_address_of_a_file_shows_that_file_alone() -> None:
    def script(request: Request) -> Answer:
        return honest(request) if request.target == "/pub/fi%20le?token=x" else answer(404, head=True)

    with served(script, "pub/fi%20le?token=x") as (ufs, _):
        assert ufs.stat("").is_dir
        assert list(ufs.list("")) == [Entry(name="fi le", is_dir=False, size=len(BODY), mtime_ns=None)]
        assert ufs.stat("fi le").version == VERSION
        room = bytearray(10)
        assert ufs.read_range("fi le", VERSION, 5, memoryview(room)) == 10
        assert room == BODY[5:15]
        for path in ("other", "fi le/below"):
            with pytest.raises(NotFound):
                ufs.stat(path)
            with pytest.raises(NotFound):
                ufs.list(path)
            with pytest.raises(NotFound):
                ufs.read_range(path, VERSION, 0, memoryview(room))


@pytest.mark.parametrize("knows_redirect", [True, False])
def test_address_of_a_directory_without_slash_is_a_directory(knows_redirect: bool) -> None:
    def script(request: Request) -> Answer:
        if request.target == "/data":
            # The port is wrong on purpose: servers behind a proxy often do not know their own.
            return answer(301, Location="http://127.0.0.1:1/data/") if knows_redirect else answer(404, head=True)
        return answer(200, b'<a href="x">x</a>', Content_Type="text/html", head=request.method == "HEAD")

    with served(script, "data") as (ufs, _):
        assert ufs.stat("").is_dir
        assert [entry.name for entry in ufs.list("")] == ["x"]


def test_source_that_was_down_at_first_is_asked_again() -> None:
    replies = iter([answer(503, head=True), answer(200, head=True, Content_Length="0", ETag=ETAG)])
    with served(lambda _: next(replies), "file") as (ufs, _):
        with pytest.raises(Unavailable):
            ufs.stat("")

        assert ufs.stat("").is_dir


def test_directory_that_answers_with_something_else_is_a_user_error() -> None:
    with (
        served(lambda _: answer(200, b"data", Content_Type="application/zip")) as (ufs, _),
        pytest.raises(UserError, match="application/zip"),
    ):
        ufs.list("")


def test_index_page_that_ends_early_is_corrupt() -> None:
    page = b'<a href="one">one</a>'
    with (
        served(lambda _: answer(200, page, Content_Type="text/html", Content_Length="999", then="close")) as (ufs, _),
        pytest.raises(Corrupt),
    ):
        ufs.list("")
