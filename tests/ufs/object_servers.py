"""Real S3 services for tests, on loopback and free ports: `rclone serve s3` (from PyPI) and versitygw."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ufs.s3_signing import Credentials

KEY = Credentials("AKIDHEADRACETEST", "a-secret-that-is-only-for-tests")
BUCKET = "bucket"


@contextmanager
def rclone_s3(folder: Path) -> Iterator[str]:
    """Serve each folder in *folder* as a bucket, by its files as they are now; yields the endpoint."""
    variables = {"RCLONE_AUTH_KEY": f'"{KEY.access_key_id},{KEY.secret_access_key}"'}
    with served(rclone("s3"), "--addr", folder, variables) as address:
        yield f"http://{address}"


@contextmanager
def versitygw(folder: Path, *options: str) -> Iterator[str]:
    """Serve each folder in *folder* as a bucket; yields the endpoint."""
    program = versitygw_program()
    assert program is not None
    command = [program, "--quiet", "--keep-alive", *options]
    variables = {"ROOT_ACCESS_KEY": KEY.access_key_id, "ROOT_SECRET_KEY": KEY.secret_access_key}
    with served(command, "--port", folder, variables, "posix") as address:
        yield f"http://{address}"


def versitygw_program() -> str | None:
    """Where `scripts/e2e-tools` puts it; None where nobody built it."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = (os.environ.get("HEADRACE_TOOLS", ""), "/var/cache/headrace-tools", f"{home}/headrace-tools")
    return shutil.which("versitygw", path=os.pathsep.join(place for place in places if place))


def rclone(protocol: str) -> list[str]:
    """The command that serves a folder by *protocol*, without what it caches by itself; it comes from PyPI."""
    program = str(Path(sys.executable).parent / "rclone")
    options = ["--config=", "--dir-cache-time=0s", "--vfs-cache-mode=off", "--log-level=CRITICAL"]
    return [program, "serve", protocol, *options]


@contextmanager
def served(command: list[str], flag: str, folder: Path, variables: Mapping[str, str], *words: str) -> Iterator[str]:
    address = f"127.0.0.1:{_free_port()}"
    process = subprocess.Popen(
        [*command, f"{flag}={address}", *words, str(folder)],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_until_served(address, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_served(address: str, process: "subprocess.Popen[bytes]") -> None:
    host, _, port = address.partition(":")
    while True:
        try:
            socket.create_connection((host, int(port))).close()
            return
        except ConnectionRefusedError:
            assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
            time.sleep(0.005)  # neither server tells when it listens; pytest's timeout ends an endless wait
