"""Workers as a client sees them: the contract of every under file system, and what is theirs alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockcache.peer import PeerFileSystem, ranked
from datamodel.client import Workers
from datamodel.errors import Corrupt, NotFound, PermissionRefused, Unavailable, VersionChanged
from tests.blockcache.datasets import content, source
from tests.blockcache.workers import TOKEN, peer_of, running_worker
from tests.contract.check_under_file_system import CHECKS, TREE, Subject, plant
from tests.ufs.servers import Answer, Request, ScriptedServer, answer


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    folder = tmp_path / "tree"
    folder.mkdir()
    plant(folder, TREE)
    with running_worker(folder, tmp_path / "cache") as worker, peer_of(worker) as peer:
        yield Subject(peer, folder, TREE)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_honours_the_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


def test_prefix_leads_to_the_part_of_the_dataset(tmp_path: Path) -> None:
    with running_worker(source({"train/a b": b"abc"}), tmp_path) as worker, peer_of(worker, prefix="/train") as peer:
        assert peer.stat("a b").size == 3
        assert [entry.name for entry in peer.list("")] == ["a b"]


def test_worker_reads_the_source_once_for_all_its_clients(tmp_path: Path) -> None:
    data = content(3 << 20)
    ufs = source({"f": data})
    with running_worker(ufs, tmp_path, listing_ttl_s=300) as worker:
        for _ in range(3):
            with peer_of(worker) as peer:
                room = bytearray(len(data))
                assert peer.read_range("f", ufs.files["f"].version, 0, memoryview(room)) == len(data)
                assert room == data
    assert sum(length for _, _, length in ufs.ranges) == len(data)


def test_worker_whose_quota_is_full_delivers_the_right_bytes(tmp_path: Path) -> None:
    data = content(20 << 20)
    ufs = source({"f": data})
    with running_worker(ufs, tmp_path, quota_bytes=100) as worker, peer_of(worker) as peer:
        room = bytearray(len(data) - 5)

        assert peer.read_range("f", ufs.files["f"].version, 5, memoryview(room)) == len(room)
        assert room == data[5:]


def test_wrong_token_is_refused(tmp_path: Path) -> None:
    with running_worker(source({"f": b"abc"}), tmp_path) as worker:
        for token in ("", "wrong", TOKEN + "x", TOKEN[:-1]):
            with peer_of(worker, token) as peer, pytest.raises(PermissionRefused):
                peer.stat("f")


def test_source_that_is_away_makes_its_worker_unavailable(tmp_path: Path) -> None:
    ufs = source({"f": b"abc"})
    ufs.away = Unavailable("away")
    with running_worker(ufs, tmp_path) as worker, peer_of(worker) as peer, pytest.raises(Unavailable, match="away"):
        read_three(peer)


def test_connection_serves_again_after_a_long_error(tmp_path: Path) -> None:
    with running_worker(source({"f": b"abc"}), tmp_path) as worker, peer_of(worker) as peer:
        with pytest.raises(NotFound):
            list(peer.list("\U0001f600" * 60 + "/" + "\x01" * 250))

        assert peer.stat("f").size == 3


def test_dead_worker_is_passed_over_for_the_next_in_order() -> None:
    with ScriptedServer(lambda _: answer(206, b"abc")) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        # Of three addresses of loopback, 127.0.0.1 has a worker.
        peer = PeerFileSystem(Workers(replicas=3, host_pattern="127.0.0.{i}", port=port), TOKEN, "/")
        for name in "abcdefgh":
            assert peer.read_range(name, "v", 0, memoryview(bytearray(3))) == 3
        peer.close()

    assert {ranked(3, f"{name}\0000")[0] for name in "abcdefgh"} == {0, 1, 2}


def test_no_worker_is_unavailable_and_asked_only_once(tmp_path: Path) -> None:
    with running_worker(source({"f": b"abc"}), tmp_path) as worker:
        port = worker.port
    peer = PeerFileSystem(Workers(replicas=1, host_pattern="127.0.0.1", port=port), TOKEN, "/")

    for _ in range(2):
        with pytest.raises(Unavailable, match="no worker answers"):
            peer.stat("f")
    peer.close()


def scripted(reply: Answer) -> Iterator[PeerFileSystem]:
    with ScriptedServer(lambda _: reply) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        peer = PeerFileSystem(Workers(replicas=1, host_pattern="127.0.0.1", port=port), TOKEN, "/")
        yield peer
        peer.close()


def read_three(peer: PeerFileSystem) -> bytes:
    room = bytearray(3)
    count = peer.read_range("f", "v", 0, memoryview(room))
    return bytes(room[:count])


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(500, b"broken"), Unavailable),
        (answer(503, b"x" * 5000), Unavailable),
        (answer(404, b"no"), NotFound),
        (answer(401, b"no"), PermissionRefused),
        (answer(412, b"no"), VersionChanged),
        (Answer(b"HTTP/1.1 206 Partial\r\nContent-Length: 3\r\n\r\na", then="close"), Unavailable),
        (Answer(b"\x00\x01garbage\r\n\r\n", then="close"), Unavailable),
        (Answer(b"", then="close"), Unavailable),
        (answer(200, b"the whole file"), Corrupt),
    ],
    ids=["500", "long 503", "404", "401", "412", "torn", "garbage", "nothing", "range ignored"],
)
def test_bad_answer_is_an_error_of_ours(reply: Answer, error: type[Exception]) -> None:
    for peer in scripted(reply):
        with pytest.raises(error):
            read_three(peer)


def test_listing_that_is_no_json_is_corrupt() -> None:
    for peer in scripted(answer(200, b"<html>", Content_Type="application/json")):
        with pytest.raises(Corrupt):
            list(peer.list("dir"))


def test_token_is_sent_and_the_version_asked_for() -> None:
    seen: list[Request] = []

    def script(request: Request) -> Answer:
        seen.append(request)
        return answer(206, b"abc")

    with ScriptedServer(script) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        peer = PeerFileSystem(Workers(replicas=1, host_pattern="127.0.0.1", port=port), TOKEN, "/")
        room = bytearray(3)
        peer.read_range("a b", 'v "1"', 10, memoryview(room))
        peer.close()

    assert seen[0].target == "/files/a%20b"
    assert seen[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert seen[0].headers["range"] == "bytes=10-12"
    assert seen[0].headers["if-match"] == '"v%20%221%22"'
