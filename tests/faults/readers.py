"""Readers of a mount that compare every byte, as processes of their own: a mount that hangs must not hang the test.

`Readers` starts them; run as a program, this is one reader, which needs nothing but the standard library. Each goes
through all files again and again, in pieces and in an order of its own; after each round it lets go of the page cache,
so that the mount is asked again.
"""

import contextlib
import errno
import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PIECE = 1 << 18
_FINISH_S = 40


def checksums(data: bytes) -> list[int]:
    return [zlib.crc32(data[start : start + PIECE]) for start in range(0, len(data), PIECE)]


class Readers:
    """*count* processes that read *files*, a map of name to content, below *root* until `finish`."""

    def __init__(self, root: Path, files: Mapping[str, bytes], count: int) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        for seed in range(count):
            self.start(str(seed), root, files)

    def start(self, way: str, root: Path, files: Mapping[str, bytes]) -> None:
        task = {"root": str(root), "files": {name: checksums(data) for name, data in files.items()}}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()

    def finish(self) -> list[str]:
        """Let each end its round and make one more; returns what went wrong, `path: why`.

        Raises:
            subprocess.TimeoutExpired: a reader hangs.
        """
        return sorted({problem for problems in self.results() for problem in problems})

    def results(self) -> Iterator[Any]:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None  # communicate() would flush it
        for process in self._processes:
            output, _ = process.communicate(timeout=_FINISH_S)
            assert process.returncode == 0
            yield json.loads(output)

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


def outcomes(root: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Read each of *files* once, all at the same time: "" where all bytes came, the name of the error where that came
    after nothing but right bytes, else what was wrong.

    Raises:
        subprocess.TimeoutExpired: a reader hangs.
    """
    with reading(root, {}, 0) as readers:
        for name, data in files.items():
            readers.start("once", root, {name: data})
        return {name: problem for each in readers.results() for name, problem in each.items()}


def _main() -> None:
    task = json.loads(sys.stdin.readline())
    if sys.argv[1] == "once":
        json.dump(
            {name: _outcome(os.path.join(task["root"], name), task["files"][name]) for name in task["files"]},
            sys.stdout,
        )
        return
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
            found = [f"{path}: piece {i} differs" for i in pieces if _checksum(fd, i) != wanted[i]]
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return found
        finally:
            os.close(fd)
    except OSError as error:
        return [f"{path}: {error.strerror}"]


def _outcome(path: str, wanted: list[int]) -> str:
    count = 0
    try:
        with Path(path).open("rb", buffering=0) as file:
            while data := _full_piece(file.fileno(), count * PIECE):
                if count == len(wanted) or zlib.crc32(data) != wanted[count]:
                    return f"piece {count} is wrong"
                count += 1
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "" if count == len(wanted) else f"ends after {count} of {len(wanted)} pieces"


def _full_piece(fd: int, offset: int) -> bytes:
    """To the end of the piece or of the file, whatever the kernel gives at a time."""
    data = b""
    while len(data) < PIECE and (more := os.pread(fd, PIECE - len(data), offset + len(data))):
        data += more
    return data


def _checksum(fd: int, piece: int) -> int:
    return zlib.crc32(_full_piece(fd, piece * PIECE))


if __name__ == "__main__":
    _main()
