"""The environment's proxies: when they are asked, and that through them everything works as without."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datamodel.errors import PermissionRefused, Unavailable, UserError
from tests.ufs.servers import ScriptedServer, answer, python_server
from ufs.http import HttpFileSystem, HttpSettings
from ufs.http_proxy import Origin, proxy_for

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


class TunnelProxy:
    """A proxy that opens tunnels (CONNECT) to one address, whichever host is asked for."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self.heads: list[bytes] = []
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # shut down
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.heads.append(head)
            with socket.create_connection(self._target) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pump, args=(server, client))
                back.start()
                _pump(client, server)
                back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one side has closed


@contextmanager
def opened(url: str, **settings: str) -> Iterator[HttpFileSystem]:
    ufs = HttpFileSystem(url, HttpSettings(**settings))  # type: ignore[arg-type]  # all of these are texts
    yield ufs
    ufs.close()


def test_plain_requests_go_to_the_proxy_by_their_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda _: answer(200, b"abc", ETag='"v"')) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://us%40er:pw@"))
        with opened("http://origin.test/data/", username="u", password="p") as ufs:
            assert ufs.read_whole("a file", 10)[1] == b"abc"

        (request,) = proxy.requests

    assert request.target == "http://origin.test/data/a%20file"
    assert request.headers["host"] == "origin.test"
    assert request.headers["proxy-authorization"] == "Basic dXNAZXI6cHc="
    assert request.headers["authorization"] == "Basic dTpw"


def test_proxy_that_wants_credentials_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda _: answer(407, head=True)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with opened("http://origin.test/") as ufs, pytest.raises(PermissionRefused, match="proxy"):
            ufs.stat("file")


def test_tls_goes_through_a_tunnel_to_the_named_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = tmp_path / "cert.pem"
    names = ["-subj", "/CN=origin.test", "-addext", "subjectAltName=DNS:origin.test"]
    key = str(tmp_path / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", key, "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"abc")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with python_server(tmp_path / "tree", context) as url:
        host, port = url.removeprefix("https://").rstrip("/").split(":")
        proxy = TunnelProxy((host, int(port)))
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pw@{proxy.address}")
        with opened("https://origin.test/", ca_file=str(certificate)) as ufs:
            assert ufs.read_whole("file", 10)[1] == b"abc"
        proxy.close()

    assert proxy.heads[0].startswith(b"CONNECT origin.test:443 HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic dXNlcjpwdw==\r\n" in proxy.heads[0]


@pytest.mark.parametrize(("status", "error"), [(407, UserError), (403, Unavailable)])
def test_tunnel_that_is_refused_is_an_error(
    status: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(lambda _: answer(status)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with opened("https://origin.test/") as ufs, pytest.raises(error, match="proxy"):
            ufs.stat("file")


@pytest.mark.parametrize(
    ("host", "no_proxy", "is_direct"),
    [
        ("origin.test", "", False),
        ("origin.test", "origin.test", True),
        ("origin.test", "ORIGIN.test", True),
        ("sub.origin.test", "origin.test", True),
        ("sub.origin.test", ".origin.test", True),
        ("sub.origin.test", "*.origin.test", True),
        ("myorigin.test", "origin.test", False),
        ("origin.test", "origin.test:80", True),
        ("origin.test", "origin.test:81", False),
        ("origin.test", "a, origin.test ,b", True),
        ("origin.test", "*", True),
        ("origin.test", "10.0.0.0/8", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("fd00::5", "fd00::/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "nonsense/99", False),
        ("localhost", "", True),
        ("127.0.0.1", "", True),
        ("::1", "", True),
    ],
)
def test_no_proxy_names_what_is_reached_directly(
    host: str, no_proxy: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)

    proxy = proxy_for(Origin("http", host, 80))

    assert (proxy is None) == is_direct
    assert proxy is None or (proxy.host, proxy.port) == ("proxy.test", 3128)


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "https://proxy:443", "http://proxy:port", "http://"])
def test_proxy_of_another_kind_is_refused_with_the_name_of_the_variable(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)

    with pytest.raises(UserError, match="HTTP_PROXY"):
        proxy_for(Origin("http", "origin.test", 80))


def test_proxy_credentials_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy.test:1")

    assert "secret" not in repr(proxy_for(Origin("http", "origin.test", 80)))
