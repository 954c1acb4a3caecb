"""Workers in front of a source: they may fail as they like while the source answers."""

import pytest
import structlog

from blockcache.origin import Origin
from datamodel.errors import (
    Corrupt,
    DeadlineExceeded,
    HeadraceError,
    NotFound,
    PermissionRefused,
    Unavailable,
    UserError,
    VersionChanged,
)
from tests.blockcache.datasets import source


def read(origin: Origin, version: str) -> tuple[str, bytes]:
    room = bytearray(3)
    return origin.read_range("f", version, 0, memoryview(room)), bytes(room)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("down"),
        DeadlineExceeded("slow"),
        Corrupt("torn"),
        NotFound("not yet"),
        PermissionRefused("token of yesterday"),
        VersionChanged("sees another version"),
        UserError("cannot parse"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failing_worker_never_fails_a_read(error: HeadraceError) -> None:
    worker, store = source({"f": b"abc"}), source({"f": b"abc"})
    origin = Origin("s", [("worker", worker), ("source", store)])
    worker.away = error

    assert read(origin, store.files["f"].version) == ("source", b"abc")


def test_worker_is_asked_first() -> None:
    worker, store = source({"f": b"abc"}), source({"f": b"abc"})
    origin = Origin("s", [("worker", worker), ("source", store)])

    assert read(origin, store.files["f"].version) == ("worker", b"abc")
    assert store.calls.total() == 0


def test_worker_that_ends_a_file_early_is_not_believed() -> None:
    worker, store = source({"f": b"abc"}), source({"f": b"abc"})
    origin = Origin("s", [("worker", worker), ("source", store)])
    worker.ends_at = 2

    assert read(origin, store.files["f"].version) == ("source", b"abc")


def test_failing_worker_is_left_alone_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, store = source({"f": b"abc"}), source({"f": b"abc"})
    origin = Origin("s", [("worker", worker), ("source", store)])
    now = 1000.0
    monkeypatch.setattr("blockcache.origin.time.monotonic", lambda: now)
    worker.away = Unavailable("down")
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            read(origin, store.files["f"].version)
    assert worker.calls["read_range"] == 1
    assert [line["event"] for line in lines] == ["layer.unavailable"]
    worker.away = None

    now += 2.1

    assert read(origin, store.files["f"].version)[0] == "worker"


def test_answer_about_one_file_does_not_shut_the_worker_out() -> None:
    worker, store = source({"f": b"abc"}), source({"f": b"abc"})
    origin = Origin("s", [("worker", worker), ("source", store)])
    worker.next_errors = [NotFound("not yet"), VersionChanged("old")]

    layers = [read(origin, store.files["f"].version)[0] for _ in range(3)]

    assert layers == ["source", "source", "worker"]


def test_error_of_the_source_is_the_origins() -> None:
    store = source({"f": b"abc"})
    origin = Origin("s", [("source", store)])

    with pytest.raises(VersionChanged):
        read(origin, "another")
    with pytest.raises(NotFound):
        origin.stat("g")


def test_problem_of_the_source_is_shown_until_it_answers() -> None:
    store = source({"f": b"abc"})
    origin = Origin("s", [("source", store)])
    store.away = Unavailable("no route")
    with pytest.raises(Unavailable):
        origin.stat("f")
    assert origin.problem == "no route"
    store.away = None

    origin.stat("f")

    assert origin.problem == ""


def test_read_that_ends_early_at_the_source_is_corrupt() -> None:
    store = source({"f": b"abc"})
    store.ends_at = 2

    with pytest.raises(Corrupt, match="ends at 2"):
        read(Origin("s", [("source", store)]), store.files["f"].version)
