"""The small server that probes and Prometheus ask."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from obs.health import HealthServer


@contextmanager
def serving(**options: Any) -> Iterator[int]:
    server = HealthServer("127.0.0.1", 0, **options)
    try:
        yield server.port
    finally:
        server.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


def test_healthy_process_says_ok() -> None:
    with serving() as port:
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/readyz?verbose") == (200, "ok\n")


def test_problem_is_told_in_one_line() -> None:
    with serving(healthy=lambda: "watch is stale") as port:
        assert get(port, "/healthz") == (503, "watch is stale\n")
        assert get(port, "/readyz") == (503, "watch is stale\n")


def test_process_that_is_not_ready_is_healthy() -> None:
    with serving(ready=lambda: "not serving yet") as port:
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/readyz") == (503, "not serving yet\n")


def test_view_is_json_as_of_now() -> None:
    state = {"files": 1}
    with serving(views={"/status": lambda: state}) as port:
        assert json.loads(get(port, "/status")[1]) == {"files": 1}
        state["files"] = 2
        assert json.loads(get(port, "/status")[1]) == {"files": 2}


def test_metrics_are_those_of_the_registry() -> None:
    registry = CollectorRegistry()
    Counter("fluid_test_things", "Things.", registry=registry).inc(3)
    with serving(registry=registry) as port:
        assert "fluid_test_things_total 3.0" in get(port, "/metrics")[1]


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/none", "GET", 404), ("/healthz", "POST", 501)]
)
def test_other_questions_are_refused(path: str, method: str, status: int) -> None:
    with serving() as port:
        assert get(port, path, method)[0] == status


def test_port_is_free_again_after_close() -> None:
    with serving() as port:
        get(port, "/healthz")

    HealthServer("127.0.0.1", port).close()
