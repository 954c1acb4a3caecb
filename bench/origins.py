"""The servers that systems read from, all on loopback: nginx for HTTP, versitygw for S3, Redis for JuiceFS's names.

nginx and versitygw serve the same files. Redis keeps its content in a file of the data folder between runs.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from data import Data, juicefs_bucket

_START_DEADLINE_S = 30.0
_HTTP_PORT, _S3_PORT, _REDIS_PORT = 18091, 18092, 18093
_NGINX = """
daemon off; user root; worker_processes 2; pid {root}/nginx.pid; error_log {root}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    server {{ listen 127.0.0.1:{port}; location / {{ root {www}; autoindex on; }} }}
}}
"""
_DATABASES = {"large": 1, "small": 2, "tree": 3, "flat": 4}

S3_KEY, S3_SECRET, S3_REGION = "bench", "bench-secret", "us-east-1"
"""Of a server that lives as long as the benchmark and listens on loopback only."""
S3_URL = f"http://127.0.0.1:{_S3_PORT}"


class Origins:
    """Running servers; `close` ends them. *tools* is the folder of the programs that bench/setup installed."""

    def __init__(self, data: Data, tools: Path) -> None:
        self._data, self._tools = data, tools
        self._closing = ExitStack()
        self.commands: list[list[str]] = []
        self.pids: list[int] = []
        with self._closing:
            self._start()
            self._closing = self._closing.pop_all()

    def close(self) -> None:
        self._closing.close()

    def http_url(self, dataset: str) -> str:
        return f"http://127.0.0.1:{_HTTP_PORT}/{dataset}/"

    def redis_url(self, dataset: str) -> str:
        return f"redis://127.0.0.1:{_REDIS_PORT}/{_DATABASES[dataset]}"

    def _start(self) -> None:
        root = self._data.root
        config = root / "nginx.conf"
        config.write_text(_NGINX.format(root=root, www=self._data.www, port=_HTTP_PORT))
        self._serve(["nginx", "-c", str(config)], _HTTP_PORT)
        self._serve(
            [
                str(self._tools / "versitygw"),
                "--quiet",
                "--port",
                f"127.0.0.1:{_S3_PORT}",
                "posix",
                str(self._data.www),
            ],
            _S3_PORT,
            ROOT_ACCESS_KEY=S3_KEY,
            ROOT_SECRET_KEY=S3_SECRET,
        )
        self._serve(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(_REDIS_PORT), "--dir", str(root), "--save", "",
             "--loglevel", "warning"], _REDIS_PORT,
        )  # fmt: skip

    def _serve(self, command: list[str], port: int, **environment: str) -> None:
        log = self._closing.enter_context((self._data.root / f"{Path(command[0]).name}.out").open("wb"))
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
        self._closing.callback(process.wait)
        self._closing.callback(process.terminate)
        self.commands.append([Path(command[0]).name, *command[1:]])
        self.pids.append(process.pid)
        end = time.monotonic() + _START_DEADLINE_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} does not serve on port {port}; see {log.name}")
            time.sleep(0.05)

    def fill_juicefs(self, dataset: str) -> None:
        """Make *dataset* a volume of JuiceFS: it reads nothing but files of its own format."""
        done = self._data.root / f"juicefs-{dataset}.done"
        if done.exists():
            return
        bucket = self._data.folder(juicefs_bucket(dataset))
        subprocess.run(["rm", "-rf", bucket], check=True)  # what an interrupted run left would be refused
        bucket.mkdir()
        self._redis("-n", str(_DATABASES[dataset]), "flushdb")
        if dataset in ("large", "small"):
            self._format(dataset, "--storage", "minio", "--bucket", f"{S3_URL}/{bucket.name}",
                         ACCESS_KEY=S3_KEY, SECRET_KEY=S3_SECRET)  # fmt: skip
            self._juicefs("sync", "--threads", "8", f"{self._data.folder(dataset)}/", "jfs://VOLUME/",
                          VOLUME=self.redis_url(dataset))  # fmt: skip
        else:
            self._load_names(dataset, bucket)
        self._redis("save")
        done.touch()

    def _load_names(self, dataset: str, bucket: Path) -> None:
        """Names and attributes without content, for workloads that read none: by its own tool for backups."""
        self._format(dataset, "--storage", "file", "--bucket", f"{bucket}/")
        dump_file = self._data.root / f"juicefs-{dataset}.json"
        self._juicefs("dump", self.redis_url(dataset), str(dump_file))
        dump = json.loads(dump_file.read_text())
        entries, inodes = _entries(self._data.paths(dataset), dump["FSTree"]["attr"])
        dump["FSTree"]["entries"] = entries
        dump["Counters"] |= {"nextInodes": inodes + 1, "usedInodes": inodes}
        dump_file.write_text(json.dumps(dump, indent=1))  # its parser reads line by line
        self._redis("-n", str(_DATABASES[dataset]), "flushdb")
        self._juicefs("load", self.redis_url(dataset), str(dump_file))
        dump_file.unlink()

    def _format(self, dataset: str, *words: str, **environment: str) -> None:
        volume = [self.redis_url(dataset), f"bench-{dataset}"]
        self._juicefs("format", "--trash-days", "0", *words, *volume, **environment)

    def _juicefs(self, *words: str, **environment: str) -> None:
        subprocess.run(
            [self._tools / "juicefs", *words], check=True, env=os.environ | environment,
            stdout=subprocess.DEVNULL, stderr=(self._data.root / "juicefs.out").open("ab"),
        )  # fmt: skip

    def _redis(self, *words: str) -> None:
        subprocess.run(["redis-cli", "-p", str(_REDIS_PORT), *words], check=True, stdout=subprocess.DEVNULL)


def _entries(paths: Iterator[str], root: dict[str, object]) -> tuple[dict[str, object], int]:
    """Entries for a JuiceFS dump, and how many inodes there are with them."""
    tree: dict[str, object] = {}
    inode = 1
    for path in paths:
        folder, _, name = path.rpartition("/")
        siblings = tree
        if folder:
            if folder not in tree:
                inode += 1
                tree[folder] = {"attr": root | {"inode": inode, "mode": 0o755, "nlink": 2}, "entries": {}}
            siblings = tree[folder]["entries"]  # type: ignore[index]  # JSON
        inode += 1
        attributes = root | {"inode": inode, "type": "regular", "mode": 0o644, "nlink": 1, "length": 4096}
        siblings[name] = {"attr": attributes}
    return tree, inode


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
