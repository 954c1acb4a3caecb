"""Apache, lighttpd, Caddy and rclone for tests: each started by a configuration of our own, on a free loopback port."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

_APACHE = """
ServerName localhost
ServerRoot {run}
PidFile {run}/pid
Listen 127.0.0.1:{port}
User {user}
ErrorLog /dev/stderr
LogLevel notice
StartServers 1
ServerLimit 2
ThreadsPerChild 32
MaxRequestWorkers 64
{modules}
DocumentRoot {root}
DAVLockDB {run}/locks
<Directory {root}>
    Require all granted
    Options +Indexes
    {options}
</Directory>
"""
_APACHE_MODULES = ("mpm_event", "authz_core", "autoindex", "dir", "dav", "dav_fs")
_LIGHTTPD = """
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
server.modules = ("mod_dirlisting")
server.max-keep-alive-requests = 10000
server.stat-cache-engine = "disable"
dir-listing.activate = "enable"
mimetype.assign = ("" => "application/octet-stream")
{options}
"""
_CADDY = """{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    root * {root}
    file_server browse
    {options}
}}
"""


def _program(name: str, package: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:{Path(sys.executable).parent}")
    if path is None:
        pytest.skip(f"needs {name}; apt-get install {package}")
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _started(command: Sequence[str], ready: bytes, run: Path) -> Iterator[None]:
    """Run *command* until the end of the block, which begins when its error output says *ready*."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(run), "XDG_DATA_HOME": str(run)}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, cwd=run)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if ready in line:
            break
    else:
        process.wait()
        raise RuntimeError(f"{command[0]} did not start: {b''.join(said).decode(errors='replace')}")
    drain = threading.Thread(target=_drain, args=(process.stderr,))
    drain.start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        drain.join()
        process.stderr.close()


def _drain(stream: IO[bytes]) -> None:
    while stream.read(4096):
        """A full pipe would stop the server."""


@contextmanager
def apache(root: Path, run: Path, options: str = "") -> Iterator[str]:
    """Serve *root* by mod_autoindex or, with `DAV On`, by mod_dav; yields the address with a slash at its end."""
    program, port = _program("apache2", "apache2-bin"), _free_port()
    modules = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _APACHE_MODULES)
    user = "www-data" if os.geteuid() == 0 else f"#{os.geteuid()}"
    (run / "apache.conf").write_text(
        _APACHE.format(run=run, root=root, port=port, user=user, options=options, modules=modules)
    )
    with _started([program, "-DFOREGROUND", "-f", str(run / "apache.conf")], b"AH00489", run):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def lighttpd(root: Path, run: Path, options: str = "") -> Iterator[str]:
    """Serve *root* by mod_dirlisting; yields the address with a slash at its end."""
    program, port = _program("lighttpd", "lighttpd"), _free_port()
    (run / "lighttpd.conf").write_text(_LIGHTTPD.format(root=root, port=port, options=options))
    with _started([program, "-D", "-f", str(run / "lighttpd.conf")], b"server started", run):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def caddy(root: Path, run: Path, options: str = "") -> Iterator[str]:
    """Serve *root* by file_server browse; yields the address with a slash at its end."""
    program, port = _program("caddy", "caddy"), _free_port()
    (run / "Caddyfile").write_text(_CADDY.format(root=root, port=port, options=options))
    with _started([program, "run", "--config", str(run / "Caddyfile")], b"serving initial configuration", run):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def rclone(root: Path, run: Path, protocol: str) -> Iterator[str]:
    """Serve *root* by `rclone serve http`, `webdav` or `s3`, whose buckets are the folders in *root*; yields the
    address with a slash at its end.
    """
    program, port = _program("rclone", "rclone"), _free_port()
    command = [
        program,
        "serve",
        protocol,
        str(root),
        "--addr",
        f"127.0.0.1:{port}",
        "--read-only",
        "--dir-cache-time",
        "0s",
    ]
    with _started(command, b"://127.0.0.1:", run):
        yield f"http://127.0.0.1:{port}/"
