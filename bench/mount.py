"""Cold and warm reads through `headrace mount` and its peers, from one nginx, in one run. Root; see bench/README.md."""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodel.quantity import parse_bytes
from headrace.demo.walk import enter_private_mounts

PORT = 18099
RANDOM_READS = 2000
NGINX = """
daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off; sendfile on;
    server {{ listen 127.0.0.1:{port}; location / {{ root {root}/www; autoindex on; }} }}
}}
"""


@contextmanager
def origin(root: Path, size: int) -> Iterator[str]:
    (root / "www").mkdir(parents=True)
    with (root / "www/file").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    (root / "nginx.conf").write_text(NGINX.format(root=root, port=PORT))
    server = subprocess.Popen(["nginx", "-c", root / "nginx.conf"])
    try:
        yield f"http://127.0.0.1:{PORT}/"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def headrace(url: str, mountpoint: Path, cache: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "headrace.main"]
    subprocess.run(
        [*command, "mount", "--background", "--log-level", "error", "--cache-dir", cache, url, mountpoint], check=True
    )
    try:
        yield
    finally:
        subprocess.run([*command, "umount", mountpoint], check=True)


@contextmanager
def rclone(url: str, mountpoint: Path, cache: Path) -> Iterator[None]:
    mountpoint.mkdir(exist_ok=True)
    program = shutil.which("rclone") or str(Path(sys.executable).parent / "rclone")
    subprocess.run(
        [program, "mount", f":http,url='{url}':", mountpoint, "--read-only", "--vfs-cache-mode", "full",
         "--cache-dir", cache, "--daemon", "--allow-other", "--config", "/dev/null"], check=True,
    )  # fmt: skip
    try:
        yield
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def drop_page_cache() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def sequential(file: Path) -> float:
    """MiB/s of one reader."""
    start, total = time.monotonic(), 0
    with file.open("rb", buffering=0) as opened:
        while piece := opened.read(1 << 20):
            total += len(piece)
    return total / (time.monotonic() - start) / (1 << 20)


def random_reads(file: Path) -> float:
    """4 KiB reads per second at random offsets."""
    rng, size = random.Random(1), file.stat().st_size
    fd = os.open(file, os.O_RDONLY)
    try:
        start = time.monotonic()
        for _ in range(RANDOM_READS):
            os.pread(fd, 4096, rng.randrange(size >> 12) << 12)
        return RANDOM_READS / (time.monotonic() - start)
    finally:
        os.close(fd)


System = Callable[[str, Path, Path], object]


def measure(mount: System, url: str, root: Path, runs: int) -> dict[str, float]:
    """Medians over *runs*, each with an empty cache."""
    figures: dict[str, list[float]] = {}
    for _ in range(runs):
        cache, mountpoint = Path(tempfile.mkdtemp(dir=root)), Path(tempfile.mkdtemp(dir=root))
        with mount(url, mountpoint, cache):  # type: ignore[attr-defined]  # a context manager of either kind
            for name, act in (("cold_mib_s", sequential), ("warm_mib_s", sequential), ("random_4k_s", random_reads)):
                drop_page_cache()
                figures.setdefault(name, []).append(act(mountpoint / "file"))
                time.sleep(1.5)  # a kernel entry of an incomplete file lives for a second
        shutil.rmtree(cache)
    return {name: round(statistics.median(values), 1) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="512MiB")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    enter_private_mounts()
    root = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    root.chmod(0o755)
    systems: dict[str, System] = {"headrace": headrace}
    if shutil.which("rclone") or (Path(sys.executable).parent / "rclone").exists():
        systems["rclone"] = rclone
    try:
        with origin(root / "origin", parse_bytes("--size", arguments.size)) as url:
            figures = {name: measure(mount, url, root, arguments.runs) for name, mount in systems.items()}
    finally:
        shutil.rmtree(root)
    for name, values in figures.items():
        print(json.dumps({"system": name, **values}))
    for name in systems.keys() - {"headrace"}:
        ratios = {key: round(figures["headrace"][key] / value, 2) for key, value in figures[name].items()}
        print(json.dumps({"headrace/" + name: ratios}))


if __name__ == "__main__":
    main()
