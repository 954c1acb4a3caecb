"""HTTP/1.1 on the wire: where a body ends, which connections are used again, and what is not HTTP."""

from pathlib import Path

import pytest

from datamodel.errors import Corrupt, Precondition, Unavailable, UserError
from tests.ufs.servers import Answer, Request, ScriptedServer, answer, nginx
from ufs.http_client import HttpClient, check_status
from ufs.http_socket import POOL_SIZE, Limits

LIMITS = Limits(connect_timeout_s=5, read_timeout_s=0.3)


def get(server: ScriptedServer, client: HttpClient | None = None, method: str = "GET") -> bytes:
    used = client or HttpClient(server.url, None, LIMITS)
    with used.exchange(method, server.url) as reply:
        body = reply.read_all(1 << 20)
    if client is None:
        used.close()
    return body


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200\r\ncontent-length:3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 204 None\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0003 \r\nabc\r\n0\r\nTrailer: x\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    ],
)
def test_body_ends_where_it_says_and_the_connection_is_used_again(raw: bytes, body: bytes) -> None:
    with ScriptedServer(lambda _: Answer(raw)) as server:
        client = HttpClient(server.url, None, LIMITS)

        assert [get(server, client) for _ in range(3)] == [body] * 3
        assert server.connection_count == 1

        client.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ],
    ids=["close", "http-1.0", "two-lengths"],
)
def test_connection_that_may_not_go_on_is_closed(raw: bytes) -> None:
    with ScriptedServer(lambda _: Answer(raw)) as server:
        client = HttpClient(server.url, None, LIMITS)

        assert [get(server, client) for _ in range(2)] == [b"abc"] * 2
        assert server.connection_count == 2

        client.close()


def test_body_without_a_length_ends_with_the_connection() -> None:
    with ScriptedServer(lambda _: Answer(b"HTTP/1.1 200 OK\r\n\r\nabc", "close")) as server:
        assert get(server) == b"abc"


@pytest.mark.parametrize(
    "body", [b"xyz\r\nabc\r\n0\r\n\r\n", b"3\r\nab", b"-3\r\nabc\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc\r\n"]
)
def test_broken_chunks_are_corrupt(body: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    with ScriptedServer(lambda _: Answer(raw, "close")) as server, pytest.raises(Corrupt):
        get(server)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"x" * 100_000,
    ],
)
def test_what_is_not_http_is_unavailable(raw: bytes) -> None:
    with ScriptedServer(lambda _: Answer(raw, "close")) as server, pytest.raises(Unavailable):
        get(server)


def test_request_is_sent_again_where_the_kept_connection_had_ended() -> None:
    """The server answers the first request, and ends the connection when the second comes."""
    replies = iter([answer(200, b"one"), Answer(b"", "close"), answer(200, b"two")])
    with ScriptedServer(lambda _: next(replies)) as server:
        client = HttpClient(server.url, None, LIMITS)

        assert get(server, client) == b"one"
        assert get(server, client) == b"two"
        assert server.connection_count == 2

        client.close()


def test_request_on_a_new_connection_is_sent_once() -> None:
    with ScriptedServer(lambda _: Answer(b"", "close")) as server:
        with pytest.raises(Unavailable):
            get(server)

        assert len(server.requests) == 1


def test_answer_that_nobody_asked_for_is_not_taken_for_the_next() -> None:
    """Some servers say 408 to an idle connection before they close it."""
    late = b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"
    replies = iter([Answer(answer(200, b"one").raw + late), answer(200, b"two")])
    with ScriptedServer(lambda _: next(replies)) as server:
        client = HttpClient(server.url, None, LIMITS)

        assert get(server, client) == b"one"
        assert get(server, client) == b"two"
        assert server.connection_count == 2

        client.close()


def test_head_has_no_body_whatever_its_length_says() -> None:
    with ScriptedServer(lambda _: answer(200, head=True, Content_Length="999")) as server:
        client = HttpClient(server.url, None, LIMITS)

        assert [get(server, client, "HEAD") for _ in range(2)] == [b"", b""]
        assert server.connection_count == 1

        client.close()


def test_more_requests_than_connections_wait_and_then_say_so() -> None:
    with ScriptedServer(lambda _: answer(200, b"abc")) as server:
        client = HttpClient(server.url, None, LIMITS)
        busy = [client.exchange("GET", server.url) for _ in range(POOL_SIZE)]
        for exchange in busy:
            exchange.__enter__()

        with pytest.raises(Unavailable, match="in time"):
            get(server, client)

        for exchange in busy:
            exchange.__exit__(None, None, None)
        assert get(server, client) == b"abc"

        client.close()


def test_whole_body_without_length_must_come_in_chunks_and_within_the_limit() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with ScriptedServer(lambda request: Answer(chunked)) as server:
        client = HttpClient(server.url, None, LIMITS)
        with client.exchange("GET", server.url) as reply:
            assert reply.read_chunks(3) == b"abc"
        with pytest.raises(Precondition), client.exchange("GET", server.url) as reply:
            reply.read_chunks(2)
        client.close()
    with ScriptedServer(lambda _: Answer(b"HTTP/1.1 200 OK\r\n\r\nabc", "close")) as server:
        client = HttpClient(server.url, None, LIMITS)
        with pytest.raises(UserError, match="Content-Length"), client.exchange("GET", server.url) as reply:
            reply.read_chunks(100)
        client.close()


def test_credentials_are_not_sent_to_another_real_server(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"abc")
    for name in ("run-far", "run-near"):
        (tmp_path / name).mkdir()
    refuse = "if ($http_authorization) { return 418; }"
    with nginx(tmp_path / "far", tmp_path / "run-far", refuse) as far:
        options = f'if ($http_authorization = "") {{ return 401; }} location / {{ return 302 {far}file; }}'
        with nginx(tmp_path / "far", tmp_path / "run-near", options) as near:
            client = HttpClient(near, "Basic dTpw", LIMITS)
            with client.exchange("GET", f"{near}file") as reply:
                check_status(reply)
                found = (reply.url, reply.read_all(100))
            client.close()

    assert found == (f"{far}file", b"abc")


def test_credentials_for_tls_are_not_sent_without_it() -> None:
    with ScriptedServer(lambda _: answer(200, b"abc")) as server:
        client = HttpClient(server.url.replace("http:", "https:"), "Basic dTpw", LIMITS)

        assert get(server, client) == b"abc"
        assert "authorization" not in server.requests[0].headers

        client.close()


def test_many_hosts_that_a_source_redirects_to_do_not_pile_up_connections() -> None:
    servers = [ScriptedServer(lambda _: answer(200, b"abc")) for _ in range(12)]
    targets = iter([server.url for server in servers] * 2)

    def script(request: Request) -> Answer:
        return answer(302, Location=next(targets))

    with ScriptedServer(script) as server:
        client = HttpClient(server.url, None, LIMITS)
        for _ in range(24):
            assert get(server, client) == b"abc"
        client.close()
    for other in servers:
        other.__exit__()
