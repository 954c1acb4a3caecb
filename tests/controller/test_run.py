"""The whole controller against a server: stories of users, and of crashes."""

import threading
from typing import Any

import pytest

from controller.run import Controller, serve
from datamodel.errors import Unavailable
from kube.leases import Election
from kube.objects import Object, finalizers_of, labels_of, name_of
from kube.resources import (
    CACHE_RUNTIMES,
    DATASETS,
    EVENTS,
    LEASES,
    NODES,
    PODS,
    PVCS,
    PVS,
    SECRETS,
    STATEFUL_SETS,
)
from kube.transport import Transport
from tests.controller.cluster import QUICK, Cluster, leftovers, phase, running
from tests.controller.objects import NAME, NAMESPACE, cache_runtime, dataset, reader
from tests.fakes.apiserver import FakeApiServer

DATASET = DATASETS.path(NAMESPACE, NAME)
RUNTIME = CACHE_RUNTIMES.path(NAMESPACE, NAME)


def user_object(item: Object) -> Object:
    return {**item, "metadata": {"name": NAME}, "status": {}}


def apply_both(api: FakeApiServer) -> None:
    api.put(CACHE_RUNTIMES.path(NAMESPACE), user_object(cache_runtime()))
    api.put(DATASETS.path(NAMESPACE), user_object(dataset()))


def is_gone(api: FakeApiServer) -> bool:
    return api.get(DATASET) is None and not leftovers(api)


def test_runtime_and_dataset_in_any_order_become_bound_and_leave_nothing(api: FakeApiServer) -> None:
    Cluster(api)
    with running(api.transport()):
        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")

        assert api.get(PVS.path(name="default-demo")) is not None
        assert api.get(PVCS.path(NAMESPACE, NAME)) is not None
        api.wait(lambda: all("fluid.io/s-default-demo" in labels_of(node) for node in api.all(NODES.path())))

        api.remove(DATASET)
        api.wait(lambda: is_gone(api))

    assert [name_of(pod) for pod in api.all(PODS.path())] == []


def test_phase_bound_is_never_seen_without_its_claim(api: FakeApiServer) -> None:
    Cluster(api)
    with running(api.transport()):
        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")

    writes = [(request.method, request.path) for request in api.requests]
    bound = next(
        index
        for index, request in enumerate(api.requests)
        if request.path == f"{DATASET}/status" and (request.body or {})["status"].get("phase") == "Bound"
    )
    assert writes.index(("POST", PVCS.path(NAMESPACE))) < bound


def test_deletion_waits_for_readers_and_goes_on_when_they_end(api: FakeApiServer) -> None:
    Cluster(api)
    with running(api.transport()):
        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")
        pod = reader()
        api.put(PODS.path(NAMESPACE), {**pod, "metadata": {"name": "reader"}})

        api.remove(DATASET)
        api.wait(lambda: any(event["reason"] == "ErrorDeleteDataset" for event in api.all(EVENTS.path())))
        assert api.get(PVCS.path(NAMESPACE, NAME)) is not None

        api.remove(PODS.path(NAMESPACE, "reader"))
        api.wait(lambda: is_gone(api))


def test_runtime_deleted_alone_leaves_the_dataset_not_bound(api: FakeApiServer) -> None:
    Cluster(api)
    with running(api.transport()):
        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")

        api.remove(RUNTIME)
        api.wait(lambda: not leftovers(api) and phase(api) == "NotBound")

    found = api.get(DATASET)
    assert found is not None
    assert found["status"]["conditions"] == []
    assert "runtimes" not in found["status"]
    assert found["status"]["mounts"] == dataset()["spec"]["mounts"]


def test_same_names_can_be_used_again_at_once(api: FakeApiServer) -> None:
    Cluster(api)
    with running(api.transport()):
        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")
        api.remove(DATASET)
        api.wait(lambda: is_gone(api))

        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")

        assert api.get(SECRETS.path(NAMESPACE, "demo-headrace-token")) is not None


def test_edit_by_hand_is_put_right(api: FakeApiServer) -> None:
    Cluster(api)
    with running(api.transport()):
        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")
        path = STATEFUL_SETS.path(NAMESPACE, "demo-worker")

        api.patch(path, {"spec": {"serviceName": "changed"}})

        api.wait(lambda: (api.get(path) or {})["spec"]["serviceName"] == "svc-demo-worker")


def test_refusal_of_the_server_is_shown_on_the_dataset(api: FakeApiServer) -> None:
    api.refuse("PATCH", STATEFUL_SETS.path(NAMESPACE, "demo-worker"), 422)
    with running(api.transport()):
        apply_both(api)

        def complaint() -> bool:
            return any(
                "as the test asked" in str((request.body or {}).get("status"))
                for request in api.requests
                if request.path == f"{DATASET}/status"
            )

        api.wait(complaint)
        api.wait(lambda: api.get(STATEFUL_SETS.path(NAMESPACE, "demo-worker")) is not None)


class DyingTransport(Transport):
    """Does *writes* writes, then none: a process that was killed, as the server sees it."""

    def __init__(self, other: Transport, writes: int) -> None:
        super().__init__(other._endpoint)
        self._left = writes
        self._lock = threading.Lock()
        self.died = threading.Event()

    def _call(self, method: str, path: str, **more: Any) -> Object:
        if method != "GET":
            with self._lock:
                if self._left == 0:
                    self.died.set()
                    raise Unavailable("this process is dead")
                self._left -= 1
        return super()._call(method, path, **more)


@pytest.mark.parametrize("writes", range(18))
def test_a_kill_after_any_write_of_the_setup_is_made_good(api: FakeApiServer, writes: int) -> None:
    Cluster(api)
    dying = DyingTransport(api.transport(), writes)
    with running(dying):
        apply_both(api)
        api.wait(lambda: dying.died.is_set() or phase(api) == "Bound")

    with running(api.transport()):
        api.wait(lambda: phase(api) == "Bound")
        api.remove(DATASET)
        api.wait(lambda: is_gone(api))


@pytest.mark.parametrize("writes", range(16))
def test_a_kill_after_any_write_of_the_deletion_is_made_good(api: FakeApiServer, writes: int) -> None:
    Cluster(api)
    with running(api.transport()):
        apply_both(api)
        api.wait(lambda: phase(api) == "Bound")
        api.wait(lambda: all("fluid.io/s-default-demo" in labels_of(node) for node in api.all(NODES.path())))

    dying = DyingTransport(api.transport(), writes)
    with running(dying):
        api.remove(DATASET)
        api.wait(lambda: dying.died.is_set() or is_gone(api))

    with running(api.transport()):
        api.wait(lambda: is_gone(api))


def test_process_that_loses_its_lease_ends_with_an_error(api: FakeApiServer) -> None:
    transport = api.transport()
    now = [0.0]
    election = Election(transport, "fluid-system", "lease", "me", retry_s=0.01, clock=lambda: now[0])
    controller = Controller(transport, QUICK, is_leading=lambda: election.is_held)
    codes: list[int] = []
    stopping = threading.Event()
    process = threading.Thread(target=lambda: codes.append(serve(controller, election, stopping)))
    process.start()
    lease = LEASES.path("fluid-system", "lease")
    api.wait(lambda: api.get(lease) is not None)

    api.patch(lease, {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}})
    now[0] = 60.0

    process.join(20)
    assert codes == [1]


def test_process_that_is_stopped_releases_its_lease(api: FakeApiServer) -> None:
    transport = api.transport()
    election = Election(transport, "fluid-system", "lease", "me", retry_s=0.01)
    controller = Controller(transport, QUICK, is_leading=lambda: election.is_held)
    codes: list[int] = []
    stopping = threading.Event()
    process = threading.Thread(target=lambda: codes.append(serve(controller, election, stopping)))
    process.start()
    lease = LEASES.path("fluid-system", "lease")
    api.wait(lambda: api.get(lease) is not None)

    stopping.set()

    process.join(20)
    assert codes == [0]
    found = api.get(lease)
    assert found is not None
    assert found["spec"]["holderIdentity"] == ""


def test_without_the_lease_nothing_is_written(api: FakeApiServer) -> None:
    api.put(DATASETS.path(NAMESPACE), user_object(dataset()))
    controller = Controller(api.transport(), QUICK, is_leading=lambda: False)
    for reflector in controller.caches.reflectors:
        reflector.step()

    with pytest.raises(Unavailable):
        controller.reconcile((NAMESPACE, NAME))

    found = api.get(DATASET)
    assert found is not None
    assert finalizers_of(found) == []
