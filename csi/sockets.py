"""Unix sockets in folders that others watch: never take one over that is in use, never remove a successor's.

gRPC binds and later unlinks a path without looking. So it gets a hidden name, and we rename that over the real one:
the socket appears whole, with its final mode, and what gRPC unlinks at the end is a name that is gone.
"""

import contextlib
import os
import socket
import stat
from pathlib import Path

import grpc

from datamodel.errors import Unavailable, UserError

_PATH_BYTES = 107
_PREFIX = "unix://"


def path_of_endpoint(endpoint: str) -> Path:
    """The path in `unix:///…/csi.sock`.

    Raises:
        UserError: another scheme, a relative path, or a name that does not end in .sock.
    """
    path = endpoint.removeprefix(_PREFIX)
    if path == endpoint or not path.startswith("/") or not path.endswith(".sock"):
        raise UserError(f"endpoint: {endpoint!r} is not unix:///<absolute path>.sock")
    return Path(path)


class BoundSocket:
    """*server*'s listening socket at *path*, with mode 0700, from construction to `remove()`.

    Raises:
        UserError: the path is too long, its folder is missing, or something else than a socket stands there.
        Unavailable: another process answers on it, or the socket cannot be made.
    """

    def __init__(self, server: grpc.Server, path: Path) -> None:
        hidden = path.with_name(f".{os.getpid()}.sock")
        if max(len(os.fsencode(hidden)), len(os.fsencode(path))) > _PATH_BYTES:
            raise UserError(f"socket {path}: the path is too long; {_PATH_BYTES} bytes are the kernel's limit")
        if not path.parent.is_dir():
            raise UserError(f"socket {path}: the folder {path.parent} does not exist")
        _check_free(path)
        mask = os.umask(0o077)
        try:
            server.add_insecure_port(f"unix:{hidden}")
            self._inode = hidden.lstat().st_ino
            hidden.rename(path)
        except (RuntimeError, OSError) as error:
            raise Unavailable(f"socket {path}: {error}") from error
        finally:
            os.umask(mask)
        self.path = path

    def remove(self) -> None:
        """Remove the socket file, unless somebody else's stands there by now."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()


def _check_free(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UserError(f"socket {path}: something else than a socket stands there; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # stale: nobody listens any more
        except OSError as error:
            raise Unavailable(f"socket {path}: {error}") from error
    raise Unavailable(f"socket {path}: another process answers on it; is the driver installed twice?")
