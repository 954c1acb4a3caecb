"""The machine a benchmark runs on: its description, its page cache, and what processes cost it."""

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_RESET_PEAK_RSS = "5"


def describe() -> dict[str, str]:
    """What a reader of the figures must know."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    release = platform.freedesktop_os_release()
    return {
        "processor": f"{os.cpu_count()} × {model.group(1) if model else platform.machine()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "system": release["PRETTY_NAME"],
    }


def file_system_of(folder: Path) -> str:
    return subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", folder],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


def drop_page_cache() -> None:
    """Everything the kernel holds of files, names included; written back first, or it would stay."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def drop_names() -> None:
    """Names and attributes, not file content."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of a group of processes, and the sum of their resident memory at its highest."""

    cpu_s: float = 0.0
    peak_rss_bytes: int = 0


class Meter:
    """What the processes *roots* and all their descendants use, from here to `read`.

    Raises:
        psutil.NoSuchProcess: one of *roots* is gone; descendants may come and go.
    """

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in roots]
        for process in self._family():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                Path(f"/proc/{process.pid}/clear_refs").write_text(_RESET_PEAK_RSS)
        self._before = self._cpu_s()

    def read(self) -> Cost:
        peak = sum(_peak_rss_bytes(process.pid) for process in self._family())
        return Cost(self._cpu_s() - self._before, peak)

    def _family(self) -> list[psutil.Process]:
        return [*self._roots, *(child for root in self._roots for child in root.children(recursive=True))]

    def _cpu_s(self) -> float:
        # Children that ended count with the parent that waited for them.
        total = sum(_cpu_s(root) for root in self._roots)
        for process in self._family()[len(self._roots) :]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += _cpu_s(process)
        return total


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _peak_rss_bytes(pid: int) -> int:
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(peak.group(1)) * 1024 if peak else 0  # a process that is just ending has no memory any more
