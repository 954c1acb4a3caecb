"""FTP and SFTP for tests, on loopback and free ports, by `rclone serve`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko

from tests.ufs.object_servers import rclone, served

USER, PASSWORD = "reader", "a-password-that-is-only-for-tests"


@contextmanager
def rclone_ftp(folder: Path) -> Iterator[str]:
    """Serve *folder* by its files as they are now; yields the source's address."""
    with served([*rclone("ftp"), f"--user={USER}"], "--addr", folder, {"RCLONE_PASS": PASSWORD}) as address:
        yield f"ftp://{address}/"


@contextmanager
def rclone_sftp(folder: Path, run: Path) -> Iterator[tuple[str, Path]]:
    """Serve *folder*; yields the source's address and a file with the host's key, both in *run*."""
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(run / "host-key"))
    command = [*rclone("sftp"), f"--user={USER}", f"--key={run / 'host-key'}"]
    with served(command, "--addr", folder, {"RCLONE_PASS": PASSWORD}) as address:
        host, _, port = address.partition(":")
        known = run / "known-hosts"
        known.write_text(f"[{host}]:{port} {key.get_name()} {key.get_base64()}\n")
        yield f"sftp://{address}/", known
