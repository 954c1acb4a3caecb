"""How far a load is: a bar on a terminal, else a line now and then. The texts are pure."""

import os
import sys
import time
from types import TracebackType
from typing import Protocol

from datamodel.quantity import show_bytes
from headrace.load.reader import Count

_LINE_EVERY_S = 5.0
_COLUMNS = 80


class Progress(Protocol):
    """Shows counts while a load runs; use as a context manager."""

    def __enter__(self) -> "Progress": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def show(self, count: Count, total_files: int, total_bytes: int, elapsed_s: float) -> None:
        """*total_files* and *total_bytes* are 0 while nobody knows them."""

    def tell(self, line: str) -> None:
        """Print *line* to the user, whatever else is shown."""


class Quiet:
    """Shows nothing, tells everything."""

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def show(self, count: Count, total_files: int, total_bytes: int, elapsed_s: float) -> None:
        """Quiet it is."""

    def tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Lines(Quiet):
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LINE_EVERY_S

    def show(self, count: Count, total_files: int, total_bytes: int, elapsed_s: float) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            self.tell(text(count, total_files, total_bytes, elapsed_s))


class Bar(Quiet):
    """One line of a terminal, drawn again and again."""

    def __enter__(self) -> "Bar":
        from tqdm import tqdm

        self._bar = tqdm(
            total=1,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
            leave=False,
            file=sys.stderr,
            ncols=_COLUMNS,
            nrows=2,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def show(self, count: Count, total_files: int, total_bytes: int, elapsed_s: float) -> None:
        self._bar.total = max(total_bytes, count.done_bytes, 1)
        self._bar.n = count.done_bytes
        # A terminal that does not know its width says 0, which tqdm takes at its word.
        self._bar.ncols = os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
        self._bar.set_description_str(text(count, total_files, total_bytes, elapsed_s))

    def tell(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)


def text(count: Count, total_files: int, total_bytes: int, elapsed_s: float) -> str:
    """E.g. `1,200 of 20,000 files, 1.20GiB of 3.40GiB, 120.00MiB/s, 0:18 left, 2 failed`."""
    files = f"{count.done_files:,} of {total_files:,}" if total_files else f"{count.done_files:,}"
    size = show_bytes(count.done_bytes) + (f" of {show_bytes(total_bytes)}" if total_bytes else "")
    rate = count.loaded_bytes / elapsed_s if elapsed_s > 0 else 0.0
    parts = [f"{files} files", size, f"{show_bytes(round(rate))}/s"]
    if total_bytes and rate:
        parts.append(f"{show_time(max(0, total_bytes - count.done_bytes) / rate)} left")
    if count.failed:
        parts.append(f"{count.failed:,} failed")
    return ", ".join(parts)


def show_time(seconds: float) -> str:
    """E.g. `0:07`, `12:30`, `3:00:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
