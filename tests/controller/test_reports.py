"""Workers' figures reach the status, and a silent worker disturbs nobody."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from controller.adapters import runtime_spec
from controller.caches import Caches, Key, trim_pod
from controller.datasetstatus import bound_status, cache_states
from controller.reports import Reports
from controller.snapshot import WorkerReport
from kube.objects import Object
from kube.resources import PODS
from tests.controller.objects import alluxio_runtime, cache_runtime, dataset, snapshot, worker
from tests.fakes.apiserver import FakeApiServer

STATUS = {
    "quotaBytes": 1 << 30,
    "cachedBytes": 1 << 20,
    "files": 2,
    "totalBytes": 4 << 20,
    "reads": {"hits": 3, "misses": 1, "bytes": 99},
    "sources": [{"name": "spark", "healthy": True}, {"name": "hadoop", "healthy": False, "problem": "refused"}],
}
LABELS = {"fluid.io/managed-by": "fluid", "fluid.io/dataset": "default-demo", "cacheruntime.fluid.io/name": "demo"}


class Worker:
    """A worker's health port on loopback."""

    def __init__(self) -> None:
        self.answer = json.dumps(STATUS).encode()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/status" else 404)
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, format: str, *args: object) -> None:
                """Not of interest."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Worker]:
    found = Worker()
    yield found
    found.close()


def ready_worker() -> Object:
    pod = worker(0, "n1")
    pod["metadata"]["labels"] = LABELS
    pod["status"]["podIP"] = "127.0.0.1"
    return trim_pod(pod)


class Scene:
    def __init__(self, api: FakeApiServer, server: Worker) -> None:
        self.woken: list[Key] = []
        caches = Caches(api.transport(), self.woken.append)
        self.pods = caches.stores[PODS]
        self.pods.put(ready_worker())
        self.reports = Reports(caches, self.woken.append, period_s=1.0, port=server.port)

    def poll(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            self.reports.poll(pool)


def test_new_figures_wake_their_runtime_once(api: FakeApiServer, server: Worker) -> None:
    scene = Scene(api, server)

    scene.poll()
    scene.poll()

    assert scene.woken == [("default", "demo")]
    assert scene.reports.of("default") == {
        "demo-worker-0": WorkerReport(
            1 << 30, 1 << 20, files=2, total_bytes=4 << 20, hits=3, misses=1, problems=(("hadoop", "refused"),)
        )
    }
    assert scene.reports.of("other") == {}


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"quotaBytes": "many", "cachedBytes": 0}'])
def test_nonsense_keeps_the_last_report(api: FakeApiServer, server: Worker, answer: bytes) -> None:
    scene = Scene(api, server)
    scene.poll()

    server.answer = answer
    scene.poll()

    assert scene.reports.of("default")["demo-worker-0"].cached_bytes == 1 << 20


def test_report_goes_with_its_pod(api: FakeApiServer, server: Worker) -> None:
    scene = Scene(api, server)
    scene.poll()

    scene.pods.remove(("default", "demo-worker-0"))
    scene.poll()

    assert scene.reports.of("default") == {}


def test_figures_of_all_workers_are_added_up() -> None:
    one = WorkerReport(12 << 30, 3 << 30, files=2, total_bytes=12 << 30, hits=3, misses=1)
    view = snapshot(
        workers=(worker(0, "n1"), worker(1, "n2")),
        reports={"demo-worker-0": one, "demo-worker-1": one, "demo-worker-7": one},
    )

    assert cache_states(runtime_spec(cache_runtime()), view) == {
        "cacheCapacity": "24.00GiB",
        "cached": "6.00GiB",
        "cachedPercentage": "50.0%",
        "cacheHitRatio": "75.0%",
    }
    status = bound_status(runtime_spec(cache_runtime()), view, dataset(), is_serving=True)
    assert (status["ufsTotal"], status["fileNum"]) == ("12.00GiB", "2")


def test_percentage_is_left_out_while_the_total_is_unknown() -> None:
    one = WorkerReport(1 << 30, 1 << 20, files=0, total_bytes=None, hits=0, misses=0)
    view = snapshot(workers=(worker(0, "n1"),), reports={"demo-worker-0": one})

    assert "cachedPercentage" not in cache_states(runtime_spec(cache_runtime()), view)


def test_alluxio_has_all_nine_figures_of_fluid() -> None:
    assert set(cache_states(runtime_spec(alluxio_runtime()), snapshot())) == {
        "cacheCapacity",
        "cached",
        "cachedPercentage",
        "cacheHitRatio",
        "cacheThroughputRatio",
        "localHitRatio",
        "localThroughputRatio",
        "remoteHitRatio",
        "remoteThroughputRatio",
    }
