"""The block server byte by byte, as curl and as somebody hostile would talk to it."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodel.errors import Unavailable
from tests.blockcache.datasets import content, source
from tests.blockcache.workers import TOKEN, RunningWorker, running_worker
from tests.fakes.ufs import MemoryFileSystem

DATA = content(3 << 20)
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def ufs() -> MemoryFileSystem:
    return source({"f": DATA, "empty": b"", "dir/a b%\u00fc": b"odd"})


@pytest.fixture
def worker(ufs: MemoryFileSystem, tmp_path: Path) -> Iterator[RunningWorker]:
    with running_worker(ufs, tmp_path, listing_ttl_s=300) as running:
        yield running


@pytest.fixture
def connection(worker: RunningWorker) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
    yield connection
    connection.close()


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers={**BEARER, **sent})
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_whole_file_is_sent_without_a_range(connection: http.client.HTTPConnection) -> None:
    status, body, headers = ask(connection, "/files/f")

    assert (status, headers["Content-Length"], headers["Accept-Ranges"]) == (200, str(len(DATA)), "bytes")
    assert body == DATA


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1048570-1048580", 1048570, 1048581),
        (f"bytes={len(DATA) - 1}-", len(DATA) - 1, len(DATA)),
        (f"bytes=5-{len(DATA) * 2}", 5, len(DATA)),
        ("bytes=-7", len(DATA) - 7, len(DATA)),
        ("bytes=-99999999", 0, len(DATA)),
    ],
)
def test_range_is_sent(connection: http.client.HTTPConnection, asked: str, start: int, end: int) -> None:
    status, body, headers = ask(connection, "/files/f", Range=asked)

    assert (status, headers["Content-Range"]) == (206, f"bytes {start}-{end - 1}/{len(DATA)}")
    assert body == DATA[start:end]


@pytest.mark.parametrize(
    "asked",
    [
        f"bytes={len(DATA)}-", "bytes=5-4", "bytes=-0", "bytes=-", "bytes=a-b", "bytes=0-1,5-6", "items=0-1", "0-1",
        "bytes=\u00b2-", "bytes=" + "9" * 5000 + "-", "bytes=--5",
    ],
    ids=lambda asked: asked[:20],
)  # fmt: skip
def test_range_that_cannot_be_had_is_416(connection: http.client.HTTPConnection, asked: str) -> None:
    status, _, _ = ask(connection, "/files/f", Range=asked)

    assert status == 416
    assert ask(connection, "/files/f", Range="bytes=0-2")[1] == DATA[:3]


def test_range_of_an_empty_file_is_416_and_the_file_itself_is_empty(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/files/empty", Range="bytes=0-")[0] == 416
    assert ask(connection, "/files/empty", Range="bytes=-5")[0] == 416
    assert ask(connection, "/files/empty")[:2] == (200, b"")


def test_head_tells_all_about_a_file_and_sends_no_byte(
    connection: http.client.HTTPConnection, ufs: MemoryFileSystem
) -> None:
    status, body, headers = ask(connection, "/files/f", "HEAD")

    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(DATA)))
    assert headers["X-Headrace-Version"] == ufs.files["f"].version
    assert headers["X-Headrace-Mtime-Ns"] == str(ufs.files["f"].mtime_ns)
    assert ufs.ranges == []


def test_head_of_a_folder_says_that_it_is_one(connection: http.client.HTTPConnection) -> None:
    status, _, headers = ask(connection, "/files/dir", "HEAD")

    assert (status, headers["Content-Type"]) == (200, "application/json")


def test_listing_is_json_with_encoded_names(connection: http.client.HTTPConnection, ufs: MemoryFileSystem) -> None:
    _, body, _ = ask(connection, "/files/dir/")

    (entry,) = json.loads(body)
    assert (entry["name"], entry["is_dir"], entry["size"]) == ("a%20b%25%C3%BC", False, 3)


def test_other_version_is_412(connection: http.client.HTTPConnection, ufs: MemoryFileSystem) -> None:
    version = ufs.files["f"].version

    assert ask(connection, "/files/f", If_Match='"another"', Range="bytes=0-2")[0] == 412
    assert ask(connection, "/files/f", If_Match='""', Range="bytes=0-2")[0] == 412
    assert ask(connection, "/files/f", If_Match=f'"{version}"', Range="bytes=0-2")[:2] == (206, DATA[:3])


def test_unknown_paths_are_404(connection: http.client.HTTPConnection) -> None:
    for path in ("/files/none", "/files/f/below", "/files/../f", "/files/%2e%2e/f", "/", "/metrics", "/files/f/"):
        assert ask(connection, path)[0] == 404


def test_other_methods_are_400(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/files/f", "DELETE")[0] == 400


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", f"bearer {TOKEN}", f"Bearer {TOKEN}x", "Basic abc"])
def test_wrong_token_is_401_and_tells_nothing(worker: RunningWorker, given: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
    statuses = []
    for path in ("/files/f", "/files/none"):
        connection.request("GET", path, headers={"Authorization": given})
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()

    assert statuses == [401, 401]


def test_source_that_is_away_is_503_for_what_is_not_cached(
    connection: http.client.HTTPConnection, ufs: MemoryFileSystem
) -> None:
    ask(connection, "/files/f")
    ufs.away = Unavailable("away", retry_after_s=100)

    assert ask(connection, "/files/f")[1] == DATA
    status, body, _ = ask(connection, "/files/dir/")
    assert (status, body) == (503, b"away\n")


def test_one_connection_carries_many_requests(worker: RunningWorker, connection: http.client.HTTPConnection) -> None:
    connection.connect()
    first = connection.sock

    for _ in range(50):
        assert ask(connection, "/files/f", Range="bytes=5-9")[1] == DATA[5:10]

    assert connection.sock is first


def test_request_with_a_body_is_answered_and_the_body_ignored(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/files/empty", body=b"x" * 100_000, headers=BEARER)

    assert connection.getresponse().read() == b""


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 100_000,
        b"A" * 200_000,
        b"\r\n" * 9,
    ],
    ids=["tls", "no version", "unknown version", "zeroes", "endless line", "empty lines"],
)
def test_garbage_ends_its_connection_only(worker: RunningWorker, garbage: bytes) -> None:
    # It may hang up before it has heard all.
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as raw, contextlib.suppress(OSError):
        raw.sendall(garbage)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            continue

    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
    assert ask(connection, "/files/f")[1] == DATA
    connection.close()


def test_client_that_leaves_in_the_middle_of_a_body_hurts_nobody(worker: RunningWorker) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as raw:
            raw.sendall(f"GET /files/f HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            assert raw.recv(100)

    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
    assert ask(connection, "/files/f")[1] == DATA
    connection.close()
