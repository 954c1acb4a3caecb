"""Asks workers what they hold, at its own pace, so that no reconcile ever waits for a worker.

A worker that does not answer keeps its last report while its pod exists: figures in status are for people, and a gap
would only make them flicker.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
import urllib3

from controller.caches import Caches, Key
from controller.engines import WORKER_HEALTH_PORT
from controller.identity import runtime_name
from controller.snapshot import WorkerReport, is_ready
from datamodel import names
from kube.objects import Object, key_of, labels_of, name_of, namespace_of, status_of
from kube.resources import PODS
from obs import logs

TIMEOUT_S = 2.0
_AT_ONCE = 8
_LARGEST_BYTES = 1 << 16

log = logs.get("controller")


class Reads(msgspec.Struct, frozen=True):
    """Reads that a worker answered."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0


class Source(msgspec.Struct, frozen=True):
    """A source as a worker sees it."""

    name: str
    healthy: bool = True
    problem: str = ""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """A worker's /status view."""

    quota_bytes: int
    cached_bytes: int
    files: int = 0
    total_bytes: int | None = None
    reads: Reads = Reads()
    sources: tuple[Source, ...] = ()


class Reports:
    """The latest report of each worker pod; *enqueue* gets the runtimes whose figures have changed."""

    def __init__(
        self, caches: Caches, enqueue: Callable[[Key], None], *, period_s: float, port: int = WORKER_HEALTH_PORT
    ) -> None:
        self._caches = caches
        self._enqueue = enqueue
        self._period_s = period_s
        self._port = port
        self._lock = threading.Lock()
        self._reports: dict[Key, WorkerReport] = {}
        self._http = urllib3.PoolManager(
            num_pools=64, maxsize=1, retries=False, timeout=urllib3.Timeout(total=TIMEOUT_S)
        )

    def of(self, namespace: str) -> Mapping[str, WorkerReport]:
        """Reports by pod name in one namespace."""
        with self._lock:
            return {name: report for (where, name), report in self._reports.items() if where == namespace}

    def run(self, stopping: threading.Event) -> None:
        """Ask all ready workers again and again until *stopping* is set."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="report") as pool:
            while not stopping.wait(self._period_s):
                self.poll(pool)

    def poll(self, pool: ThreadPoolExecutor) -> None:
        """Ask every ready worker once."""
        pods = [pod for pod in self._caches.stores[PODS].all() if _is_worker(pod)]
        ready = [pod for pod in pods if is_ready(pod) and status_of(pod).get("podIP")]
        changed = set()
        for pod, report in zip(ready, pool.map(self._ask, ready), strict=True):
            if report is not None and self._reports.get(key_of(pod)) != report:
                changed.add((namespace_of(pod), runtime_name(pod)))
                with self._lock:
                    self._reports[key_of(pod)] = report
        present = {key_of(pod) for pod in pods}
        with self._lock:
            self._reports = {key: report for key, report in self._reports.items() if key in present}
        for key in changed:
            self._enqueue(key)

    def _ask(self, pod: Object) -> WorkerReport | None:
        address = str(status_of(pod)["podIP"])
        shown = f"[{address}]" if ":" in address else address
        try:
            response = self._http.request("GET", f"http://{shown}:{self._port}/status", preload_content=False)
            body = response.read(_LARGEST_BYTES)
            response.close()
            if response.status != 200:
                raise urllib3.exceptions.HTTPError(f"HTTP status {response.status}")
            status = msgspec.json.decode(body, type=Status)
        except (urllib3.exceptions.HTTPError, OSError, msgspec.DecodeError) as error:
            log.warning("worker.silent", namespace=namespace_of(pod), pod=name_of(pod), error=str(error))
            return None
        return WorkerReport(
            quota_bytes=status.quota_bytes,
            cached_bytes=status.cached_bytes,
            files=status.files,
            total_bytes=status.total_bytes,
            hits=status.reads.hits,
            misses=status.reads.misses,
            problems=tuple((source.name, source.problem) for source in status.sources if not source.healthy),
        )


def _is_worker(pod: Object) -> bool:
    return bool(runtime_name(pod)) and names.DATASET_LABEL in labels_of(pod)
