"""Two candidates, one lease, one clock."""

import threading

from kube.leases import Election
from kube.resources import LEASES
from tests.fakes.apiserver import FakeApiServer

PATH = LEASES.path("default", "lease")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def candidate(api: FakeApiServer, name: str, clock: Clock) -> Election:
    return Election(api.transport(), "default", "lease", name, lease_s=15, renew_s=10, retry_s=2, clock=clock)


def test_second_candidate_gets_the_lease_only_when_it_has_expired(api: FakeApiServer) -> None:
    clock = Clock()
    first, second = candidate(api, "first", clock), candidate(api, "second", clock)

    assert first.attempt()
    assert not second.attempt()
    clock.now = 14.0
    assert not second.attempt()
    clock.now = 15.0
    assert second.attempt()

    lease = api.get(PATH)
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "second"
    assert lease["spec"]["leaseTransitions"] == 1


def test_renewal_keeps_the_other_out(api: FakeApiServer) -> None:
    clock = Clock()
    first, second = candidate(api, "first", clock), candidate(api, "second", clock)
    assert first.attempt()
    assert not second.attempt()
    # Renewals carry the wall clock, which the test does not move: make the record change as a renewal does.
    clock.now = 10.0
    api.patch(PATH, {"spec": {"renewTime": "2026-01-01T00:00:10.000000Z"}})
    assert not second.attempt()

    clock.now = 24.0

    assert not second.attempt()


def test_holder_gives_up_before_others_may_take_over(api: FakeApiServer) -> None:
    clock = Clock()
    first = candidate(api, "first", clock)
    assert first.attempt()
    assert first.is_held

    clock.now = 10.0

    assert not first.is_held


def test_hold_ends_when_the_lease_cannot_be_renewed(api: FakeApiServer) -> None:
    clock = Clock()
    first = Election(api.transport(), "default", "lease", "first", renew_s=10, retry_s=0.01, clock=clock)
    assert first.attempt()
    api.patch(PATH, {"spec": {"holderIdentity": "thief"}})
    clock.now = 11.0

    first.hold(threading.Event())

    assert not first.is_held


def test_release_lets_the_next_one_in_at_once(api: FakeApiServer) -> None:
    clock = Clock()
    first, second = candidate(api, "first", clock), candidate(api, "second", clock)
    assert first.attempt()

    first.release()

    assert second.attempt()


def test_unreachable_server_is_no_exception(api: FakeApiServer) -> None:
    clock = Clock()
    first = candidate(api, "first", clock)
    api.refuse("GET", PATH, 500)

    assert not first.attempt()
    assert first.attempt()
