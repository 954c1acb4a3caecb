"""An origin on the host that pods reach, a namespace per test, and the table of timings at the end."""

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.kube import describe, kubectl, wait

HOST = "10.123.0.1"
PORT = 18080
MOUNTS = ("hadoop", "spark", "hbase")
_CONFIG = """
worker_processes 1; pid {root}/pid; error_log {root}/error.log; daemon on;
events {{ worker_connections 512; }}
http {{
    access_log {root}/access.log;
    client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
    uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
    server {{
        listen {host}:{port};
        location / {{ root {root}/www; autoindex on; }}
        location /slow/ {{ alias {root}/www/; autoindex on; limit_rate 2m; }}
    }}
}}
"""


@dataclass
class Origin:
    """nginx with three folders; *sums* are SHA-256 by path. `stop` and `start` at will."""

    root: Path
    sums: dict[str, str] = field(default_factory=dict)

    def url(self, mount: str) -> str:
        return f"http://{HOST}:{PORT}/{mount}/"

    def start(self) -> None:
        (self.root / "nginx.conf").write_text(_CONFIG.format(root=self.root, host=HOST, port=PORT))
        subprocess.run(["nginx", "-c", self.root / "nginx.conf"], check=True)
        wait("origin", self._answers, 10)

    def stop(self) -> None:
        pid_file = self.root / "pid"
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), 15)
            wait("end of the origin", lambda: not pid_file.exists(), 10)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{PORT}/", timeout=1) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    root = Path(tempfile.mkdtemp(prefix="headrace-origin-"))  # pytest's own folders are closed to nginx's user
    root.chmod(0o755)
    made = Origin(root)
    rng = random.Random(7)
    for mount in MOUNTS:
        folder = root / "www" / mount / "sub dir"
        folder.mkdir(parents=True)
        for name, size in (("big.bin", 48 << 20), ("sub dir/ü & #1%.txt", 12_345), ("empty", 0), ("exact", 2 << 20)):
            content = rng.randbytes(size)
            (root / "www" / mount / name).write_bytes(content)
            made.sums[f"{mount}/{name}"] = hashlib.sha256(content).hexdigest()
    made.start()
    yield made
    made.stop()
    shutil.rmtree(root)


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its objects are printed when the test fails."""
    name = f"e2e-{abs(hash(request.node.nodeid)) % 10**6}-{int(time.time()) % 10**5}"
    kubectl("create", "namespace", name)
    failed_before = request.session.testsfailed
    yield name
    if request.session.testsfailed > failed_before:
        print(describe(name))
    for kind in ("pods", "datasets", "alluxioruntimes", "cacheruntimes"):
        kubectl("delete", kind, "--all", "-n", name, "--timeout=60s", check=False, timeout_s=90)
    kubectl("delete", "namespace", name, "--timeout=60s", check=False, timeout_s=90)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and "namespace" in getattr(item, "fixturenames", ()):
        report.sections.append(("cluster", describe(item.funcargs["namespace"])))


_timings: list[tuple[str, str]] = []


@pytest.fixture
def note() -> Callable[[str, str], None]:
    """note(what, value): one line of the table at the end."""
    return lambda what, value: _timings.append((what, value))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, value in _timings:
        terminalreporter.write_line(f"{what:<60} {value}")
