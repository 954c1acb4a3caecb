"""What a worker process says of its dataset, by the command as pods run it."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodel.client import ClientConfig, Source, Tier, Workers, encode_client_config

Status = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, **urls: str) -> Iterator[int]:
    """The health port of `headrace worker` over sources by name."""
    config = ClientConfig(
        dataset="default/demo",
        sources=tuple(Source(name=name, url=url, path=f"/{name}") for name, url in urls.items()),
        tiers=(Tier(path=str(folder / "tier"), quota_bytes=1 << 30),),
        workers=Workers(replicas=1, host_pattern="worker-{i}.example.invalid", port=1),  # as its clients are told
    )
    file = folder / "worker.json"
    file.write_text(encode_client_config(config))
    health = free_port()
    words = ["worker", "--config", str(file), "--port", str(free_port()), "--health-port", str(health)]
    worker = subprocess.Popen([sys.executable, "-m", "headrace.main", *words], stderr=subprocess.DEVNULL)
    try:
        yield health
    finally:
        worker.terminate()
        assert worker.wait(15) == 0


def status_once(port: int, holds: Callable[[Status], bool]) -> Status:
    """The first status that satisfies *holds*."""
    end, last = time.monotonic() + 15, None
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2) as response:
                last = json.load(response)
        except OSError:
            last = None
        if last and holds(last):
            return dict(last)
        time.sleep(0.05)
    raise AssertionError(f"last status: {last}")


def test_totals_are_those_of_the_whole_tree_though_nobody_read(tmp_path: Path) -> None:
    (tmp_path / "origin/a/b").mkdir(parents=True)
    (tmp_path / "origin/top").write_bytes(b"x" * 10)
    (tmp_path / "origin/a/b/deep").write_bytes(b"x" * 32)

    with running(tmp_path, data=f"local://{tmp_path}/origin") as port:
        status = status_once(port, lambda status: status.get("totalBytes") is not None)

    assert (status["files"], status["totalBytes"], status["cachedBytes"]) == (2, 42, 0)
    assert status["sources"] == [{"name": "data", "healthy": True, "problem": ""}]


def test_every_source_that_is_away_is_named_and_totals_stay_unknown(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    gone = f"http://127.0.0.1:{free_port()}/"

    with running(tmp_path, one=gone, here=f"local://{tmp_path}/here", two=gone) as port:
        status = status_once(port, lambda status: len(troubled(status)) == 2)

    assert status["totalBytes"] is None
    assert troubled(status).keys() == {"one", "two"}
    assert all("connection refused" in problem for problem in troubled(status).values())


def troubled(status: Status) -> dict[str, str]:
    return {source["name"]: source["problem"] for source in status.get("sources", []) if not source["healthy"]}
