"""Readers of a mount that compare every byte, as processes of their own: a mount that hangs must not hang the test.

`Readers` starts them; run as a program, this is one reader, which needs nothing but the standard library. Each goes
through all files again and again, in pieces and in an order of its own; after each round it lets go of the page cache,
so that the mount is asked again.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

PIECE = 1 << 18
_FINISH_S = 40


def checksums(data: bytes) -> list[int]:
    return [zlib.crc32(data[start : start + PIECE]) for start in range(0, len(data), PIECE)]


class Readers:
    """*count* processes that read *files*, a map of name to content, below *root* until `finish`."""

    def __init__(self, root: Path, files: Mapping[str, bytes], count: int) -> None:
        task = json.dumps({"root": str(root), "files": {name: checksums(data) for name, data in files.items()}})
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(count)
        ]
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(task + "\n")
            process.stdin.flush()

    def finish(self) -> list[str]:
        """Let each end its round and make one more; returns what went wrong, `path: why`.

        Raises:
            subprocess.TimeoutExpired: a reader hangs.
        """
        problems: list[str] = []
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None  # communicate() would flush it
        for process in self._processes:
            output, _ = process.communicate(timeout=_FINISH_S)
            assert process.returncode == 0
            problems += json.loads(output)
        return sorted(set(problems))

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def reading(root: Path, files: Mapping[str, bytes], count: int) -> Iterator[Readers]:
    readers = Readers(root, files, count)
    try:
        yield readers
    finally:
        readers.kill()


def _main() -> None:
    task = json.loads(sys.stdin.readline())
    order = random.Random(int(sys.argv[1]))
    watched = _Input()
    problems: list[str] = []
    is_last = False
    while True:
        for name in order.sample(sorted(task["files"]), len(task["files"])):
            problems += _read(os.path.join(task["root"], name), task["files"][name], order)
        if is_last:
            break
        is_last = watched.has_ended()
    json.dump(problems[:20], sys.stdout)


class _Input:
    def __init__(self) -> None:
        os.set_blocking(0, False)

    def has_ended(self) -> bool:
        try:
            return os.read(0, 1) == b""
        except BlockingIOError:
            return False


def _read(path: str, wanted: list[int], order: random.Random) -> list[str]:
    """All of *path*, every other time from front to back; what differs from *wanted*."""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if -(-size // PIECE) != len(wanted):
                return [f"{path}: {size} bytes"]
            pieces = list(range(len(wanted)))
            if order.random() < 0.5:
                order.shuffle(pieces)
            found = [f"{path}: piece {i} differs" for i in pieces if _checksum(fd, i, size) != wanted[i]]
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return found
        finally:
            os.close(fd)
    except OSError as error:
        return [f"{path}: {error.strerror}"]


def _checksum(fd: int, piece: int, size: int) -> int:
    data = os.pread(fd, min(PIECE, size - piece * PIECE), piece * PIECE)
    return zlib.crc32(data)


if __name__ == "__main__":
    _main()
