"""Certificates: trusted by a file, or refused with a message that says so."""

import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from datamodel.client import Source
from datamodel.errors import UserError
from ufs.registry import open_source


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that refuses our certificate is what one of these tests is about."""


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate; apt-get install openssl")
    path = tmp_path / "both.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(path), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + (tmp_path / "cert.pem").read_text())
    return path


@pytest.fixture
def url(tmp_path: Path, certificate: Path) -> Iterator[str]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"abc")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with _Server(("127.0.0.1", 0), partial(_QuietHandler, directory=str(tmp_path / "tree"))) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"https://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_server_with_a_trusted_certificate_is_read(url: str, certificate: Path) -> None:
    ca_file = str(certificate.with_name("cert.pem"))
    ufs = open_source(Source(name="s", url=url, path="/s", options={"ca-file": ca_file}))
    room = bytearray(3)

    assert ufs.read_range("file", ufs.stat("file").version, 0, memoryview(room)) == 3
    assert room == b"abc"

    ufs.close()


def test_server_with_an_unknown_certificate_is_refused_with_the_reason(url: str) -> None:
    ufs = open_source(Source(name="s", url=url, path="/s"))

    with pytest.raises(UserError, match="certificate is not trusted"):
        ufs.stat("file")

    ufs.close()
