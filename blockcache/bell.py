"""How any process of a cache wakes the keeper: a named pipe, so that nobody looks at a count all the time."""

import contextlib
import os
import stat
from pathlib import Path

import trio

_MUCH = 4096


class Bell:
    """Every process may ring; the keeper waits for `fd` to become readable, and then calls `silence`.

    Raises:
        OSError: the pipe cannot be made.
    """

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Open for both, so that it neither waits for a reader nor is at its end without a writer.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISFIFO(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise FileExistsError(f"{str(path)!r} is in the way of a pipe; remove it")

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it has rung often enough
            os.write(self.fd, b"!")

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, _MUCH)

    async def wait_ringing(self, is_keeper: bool) -> None:
        """Until somebody rings; for ever where it is not ours to hear."""
        if is_keeper:
            await trio.lowlevel.wait_readable(self.fd)
            return
        await trio.sleep_forever()

    def close(self) -> None:
        os.close(self.fd)
