"""What goes over the broker's sockets, and what must not."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import structlog

from broker import wire
from broker.client import BrokerControl, BrokerSession
from broker.server import BrokerServer
from datamodel.errors import Conflict, Corrupt, NotFound, PermissionRefused, Unavailable, UserError
from datamodel.names import RuntimeKey
from tests.broker.conftest import KEY, SOON_S, TOKEN, Node
from tests.broker.daemons import small_daemon


@contextlib.contextmanager
def connected(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(SOON_S)
        peer.connect(path)
        yield peer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_request_arrives_with_its_files(pair: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = os.pipe()
    wire.send(pair[0], wire.OpenBacking(7), (writer,))

    received = wire.receive_request(pair[1])

    assert received is not None
    request, (fd,) = received
    assert request == wire.OpenBacking(7)
    os.write(fd, b"x")
    assert os.read(reader, 1) == b"x"
    for open_fd in (reader, writer, fd):
        os.close(open_fd)


def test_end_of_a_connection_is_no_request(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()

    assert wire.receive_request(pair[1]) is None


@pytest.mark.parametrize(
    "packet", [b"{", b"[]", b"\xff\xfe", b'{"type":"Explode"}', b'{"type":"Bind"}', b'{"type":"Bind","key":1}']
)
def test_packet_that_is_no_request_is_corrupt(pair: tuple[socket.socket, socket.socket], packet: bytes) -> None:
    pair[0].send(packet)

    with pytest.raises(Corrupt):
        wire.receive_request(pair[1])


def test_oversize_packet_is_corrupt_and_its_files_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = os.pipe()
    socket.send_fds(pair[0], [b"x" * (wire.PACKET_BYTES + 1)], [writer])
    os.close(writer)

    with pytest.raises(Corrupt, match="larger"):
        wire.receive_request(pair[1])

    assert os.read(reader, 1) == b""  # no writer is left
    os.close(reader)


def test_too_many_files_are_corrupt(pair: tuple[socket.socket, socket.socket]) -> None:
    socket.send_fds(pair[0], [b'{"type":"Ready"}'], [0] * 20)

    with pytest.raises(Corrupt):
        wire.receive_request(pair[1])


@pytest.mark.parametrize("error", [NotFound("a"), UserError("b"), Conflict("c"), PermissionRefused("d")], ids=str)
def test_error_comes_back_as_its_class(pair: tuple[socket.socket, socket.socket], error: Exception) -> None:
    wire.send(pair[0], wire.failure(error))  # type: ignore[arg-type]  # the parametrisation has the wider type

    with pytest.raises(type(error), match=str(error)):
        wire.receive_reply(pair[1])


def test_broker_that_hangs_up_is_unavailable(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()

    with pytest.raises(Unavailable):
        wire.receive_reply(pair[1])


def test_reply_that_is_none_is_corrupt(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].send(b'{"type":"Mystery"}')

    with pytest.raises(Corrupt):
        wire.receive_reply(pair[1])


def test_no_broker_is_unavailable(tmp_path: object) -> None:
    with pytest.raises(Unavailable, match="no mount broker"):
        BrokerControl(f"{tmp_path}/none.sock").runtimes(1)


@pytest.mark.root
@pytest.mark.parametrize("garbage", [b"{", b"\0" * 100, b"x" * 70_000], ids=["torn", "zeroes", "oversize"])
def test_garbage_gets_an_answer_and_ends_its_connection_only(node: Node, garbage: bytes) -> None:
    with connected(node.control_socket) as peer, structlog.testing.capture_logs() as lines:
        peer.send(garbage)
        with pytest.raises(Corrupt):
            wire.receive_reply(peer)
        assert peer.recv(10) == b""

    assert node.control.runtimes(SOON_S) == []
    assert [line["log_level"] for line in lines] == ["warning"]


@pytest.mark.root
def test_daemons_requests_on_the_control_socket_are_refused(node: Node) -> None:
    node.mount()
    for request in (wire.Attach(TOKEN), wire.Ready(), wire.CloseBacking(1)):
        with connected(node.control_socket) as peer:
            wire.send(peer, request)
            with pytest.raises(Corrupt, match="control socket"):
                wire.receive_reply(peer)


@pytest.mark.root
def test_control_requests_on_a_daemons_socket_are_refused(node: Node) -> None:
    node.mount()
    for request in (wire.Unmount(str(KEY)), wire.Bind(str(KEY), node.target(), "", False, 1.0), wire.Runtimes()):
        with connected(node.socket()) as peer:
            wire.send(peer, request)
            with pytest.raises(PermissionRefused, match="attach first"):
                wire.receive_reply(peer)
        with connected(node.socket()) as peer:
            wire.send(peer, wire.Attach(TOKEN))
            _, fds = wire.receive_reply(peer)
            os.close(fds[0])
            wire.send(peer, request)
            with pytest.raises(Corrupt, match="not for a runtime's socket"):
                wire.receive_reply(peer)

    assert [runtime.key for runtime in node.control.runtimes(SOON_S)] == [KEY]


@pytest.mark.root
@pytest.mark.parametrize("token", ["", "s3cre", "s3cret ", "S3CRET", "ü"])
def test_wrong_token_gets_no_device(node: Node, token: str) -> None:
    node.mount()

    with pytest.raises(PermissionRefused, match="wrong token"):
        BrokerSession(node.socket(), token, blocking=False, deadline_s=SOON_S)


@pytest.mark.root
def test_other_user_gets_no_device(node: Node) -> None:
    node.mount()
    os.chmod(node.socket(), 0o666)
    for folder in [node.runtime_root, *node.runtime_root.parents][:4]:
        folder.chmod(0o755)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # the peer's credentials are those at connect()
        os.setresuid(1234, 1234, 1234)
        try:
            BrokerSession(node.socket(), TOKEN, blocking=False, deadline_s=SOON_S)
        except BaseException as error:
            os.write(writer, f"{type(error).__name__} {error}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)

    with os.fdopen(reader) as told:
        assert "user 1234 is not the daemons' user 65534" in told.read()


@pytest.mark.root
def test_sockets_belong_to_who_may_use_them(node: Node) -> None:
    node.mount()

    control, daemons = os.stat(node.control_socket), os.stat(node.socket())

    assert (control.st_uid, control.st_mode & 0o777) == (0, 0o600)
    assert (daemons.st_uid, daemons.st_mode & 0o777) == (65534, 0o600)


@pytest.mark.root
def test_second_broker_on_one_socket_is_refused(node: Node) -> None:
    with pytest.raises(Unavailable, match="another broker answers"):
        BrokerServer(node.server._broker, node.control_socket)

    assert node.control.runtimes(SOON_S) == []


@pytest.mark.root
def test_socket_that_a_killed_broker_left_is_replaced(node: Node, tmp_path: object) -> None:
    path = f"{tmp_path}/left.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(path)

    server = BrokerServer(node.server._broker, path)

    assert BrokerControl(path).runtimes(SOON_S) == []
    server.close()


@pytest.mark.root
def test_socket_that_is_closed_leaves_no_thread(node: Node) -> None:
    node.mount()
    (listener,) = (thread for thread in threading.enumerate() if thread.name == f"listen {node.socket()}")

    node.control.unmount(KEY, SOON_S)
    listener.join(SOON_S)

    assert not listener.is_alive()


@pytest.mark.root
def test_closed_broker_is_unavailable(node: Node, tmp_path: object) -> None:
    path = f"{tmp_path}/closed.sock"
    BrokerServer(node.server._broker, path).close()

    with pytest.raises(Unavailable):
        BrokerControl(path).runtimes(SOON_S)


@pytest.mark.root
def test_longest_names_have_a_socket_too(node: Node) -> None:
    key = RuntimeKey("alluxio", "n" * 63, "d" * 63)
    node.mount(key)

    with small_daemon(node.socket(key), TOKEN):
        node.control.wait_served(key, SOON_S)
    node.control.unmount(key, SOON_S)


@pytest.mark.root
@pytest.mark.parametrize("key", ["", "a/b", "cache/default/demo/x", "cache/../demo", "cache/Default/demo", "//"])
def test_key_that_is_none_is_refused(node: Node, key: str) -> None:
    for request in (wire.Mount(key, "t", 0), wire.Unmount(key), wire.Bind(key, node.target(), "", True, 1)):
        with connected(node.control_socket) as peer:
            wire.send(peer, request)
            with pytest.raises(UserError):
                wire.receive_reply(peer)


def test_credentials_are_read_as_the_kernel_writes_them(pair: tuple[socket.socket, socket.socket]) -> None:
    assert wire.peer_uid(pair[0]) == os.getuid()
    assert struct.calcsize("iII") == 12
