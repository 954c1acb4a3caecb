"""What the origins themselves can do, without any file system: `curl`, several requests at once.

The same files, loopback and connections as the mounted systems have; the bytes go to /dev/null.
"""

import subprocess
import time
from pathlib import Path

from data import LARGE_FILE, Data
from machine import Cost, Meter
from origins import S3_KEY, S3_REGION, S3_SECRET, S3_URL, Origins
from reader import ReaderFailed
from rows import Cell, Table

_PARALLEL = 8


def measure(name: str, workload: str, data: Data, origins: Origins, table: Table) -> None:
    """Fill the cold row of *workload* for limit *name*; a workload without a limit is left out."""
    if workload == "large":
        commands = _ranges(name, data, origins)
        _run(name, "large_cold", commands, data.sizes.large_bytes, 2**20, origins, table)
    elif workload == "small":
        commands = [_small_files(name, data, origins)]
        _run(name, "small_first", commands, data.sizes.small_files * data.sizes.small_bytes,
             data.sizes.small_bytes, origins, table)  # fmt: skip


def _run(
    name: str, row: str, commands: list[list[str]], size: int, unit_bytes: int, origins: Origins, table: Table
) -> None:
    meter = Meter(origins.pids)
    start = time.monotonic()
    # With --parallel it shows its progress, however silent it is told to be.
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    problems = [process.communicate()[1] for process in running]
    seconds = time.monotonic() - start
    if any(process.returncode for process in running):
        raise ReaderFailed(f"curl: {problems[0].strip()}")
    cell = table.setdefault(row, {}).setdefault(name, Cell())
    cell.add(size / unit_bytes / seconds, size / 2**30, Cost(), meter.read())


def _curl(name: str) -> list[str]:
    # The key is the benchmark's own, of a server that lives as long as it does.
    signing = [
        "--aws-sigv4", f"aws:amz:{S3_REGION}:s3", "--user", f"{S3_KEY}:{S3_SECRET}",
        "--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD",
    ]  # fmt: skip
    return ["curl", "--silent", "--show-error", "--fail", *(signing if name == "curl-s3" else [])]


def _url(name: str, dataset: str, path: str, origins: Origins) -> str:
    base = f"{S3_URL}/{dataset}/" if name == "curl-s3" else origins.http_url(dataset)
    return base + path


def _ranges(name: str, data: Data, origins: Origins) -> list[list[str]]:
    share = data.sizes.large_bytes // _PARALLEL
    url = _url(name, "large", LARGE_FILE, origins)
    return [
        [*_curl(name), "--output", "/dev/null", "--range", f"{part * share}-{(part + 1) * share - 1}", url]
        for part in range(_PARALLEL)
    ]


def _small_files(name: str, data: Data, origins: Origins) -> list[str]:
    order = data.shuffled("small", 1)
    config = Path(f"{order}.{name}")
    if not config.exists():
        config.write_text("".join(
            f'url = "{_url(name, "small", path, origins)}"\noutput = "/dev/null"\n'
            for path in order.read_text().splitlines()
        ))  # fmt: skip
    return [*_curl(name), "--parallel", "--parallel-max", str(_PARALLEL), "--config", str(config)]
