"""The reader program: built once from reader.c, and its answers."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("reader.c")


@dataclass(frozen=True, slots=True)
class Reading:
    """*count* is of reads, files or names."""

    seconds: float
    count: int
    bytes: int

    @property
    def mib_per_s(self) -> float:
        return self.bytes / self.seconds / 2**20

    @property
    def per_s(self) -> float:
        return self.count / self.seconds


class ReaderFailed(Exception):
    """The system under test gave an error, or no answer in time."""


class Reader:
    """*commands* keeps what was run, newest last."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "reader"
        self.commands: list[list[str]] = []
        subprocess.run(["gcc", "-O2", "-pthread", "-o", self._program, _SOURCE], check=True)

    def run(self, *words: str | Path | float, limit_s: float) -> Reading:
        """Run one mode of the program.

        Raises:
            ReaderFailed: says why.
        """
        command = [str(self._program), *map(str, words)]
        self.commands.append(command)
        with _ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as process:
            try:
                output, problem = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired as error:
                raise ReaderFailed(f"{' '.join(command)}: no end after {limit_s:.0f} s") from error
        if process.returncode:
            raise ReaderFailed(problem.strip())
        return Reading(**json.loads(output))


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    # No waiting after the kill: a reader inside a mount that hangs does not even die.
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
