"""Events count up instead of piling up."""

from kube.events import QUIET_S, Recorder
from kube.objects import Object
from kube.resources import EVENTS
from tests.fakes.apiserver import FakeApiServer

ABOUT: Object = {
    "apiVersion": "data.fluid.io/v1alpha1",
    "kind": "Dataset",
    "metadata": {"name": "demo", "namespace": "default", "uid": "u1"},
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def events(api: FakeApiServer) -> list[Object]:
    items: list[Object] = api.transport().get(EVENTS.path("default"))["items"]
    return items


def test_event_carries_object_reason_and_kind_as_source(api: FakeApiServer) -> None:
    Recorder(api.transport()).post(ABOUT, "Warning", "ErrorDeleteDataset", "in use")

    (event,) = events(api)
    assert event["involvedObject"]["name"] == "demo"
    assert event["source"] == {"component": "Dataset"}
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "ErrorDeleteDataset", "in use")


def test_repeated_event_is_counted_at_most_once_a_minute(api: FakeApiServer) -> None:
    clock = Clock()
    recorder = Recorder(api.transport(), clock=clock)
    for _ in range(5):
        recorder.post(ABOUT, "Warning", "Reason", "message")

    (event,) = events(api)
    assert event["count"] == 1

    clock.now = QUIET_S
    recorder.post(ABOUT, "Warning", "Reason", "message")

    (event,) = events(api)
    assert event["count"] == 2


def test_restarted_process_counts_on_in_the_same_event(api: FakeApiServer) -> None:
    Recorder(api.transport()).post(ABOUT, "Warning", "Reason", "message")
    Recorder(api.transport()).post(ABOUT, "Warning", "Reason", "message")

    (event,) = events(api)
    assert event["count"] == 2


def test_event_posted_once_is_never_counted(api: FakeApiServer) -> None:
    Recorder(api.transport()).post(ABOUT, "Warning", "Reason", "message", once=True)
    Recorder(api.transport()).post(ABOUT, "Warning", "Reason", "message", once=True)

    (event,) = events(api)
    assert event["count"] == 1


def test_refused_event_is_no_error_and_is_posted_later(api: FakeApiServer) -> None:
    recorder = Recorder(api.transport())
    api.refuse("POST", EVENTS.path("default"), 403)

    recorder.post(ABOUT, "Warning", "Reason", "message")
    assert events(api) == []
    recorder.post(ABOUT, "Warning", "Reason", "message")

    assert len(events(api)) == 1
