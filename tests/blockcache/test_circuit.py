"""A source that is away is left alone for a moment, and asked again soon."""

import pytest

from blockcache import circuit
from blockcache.circuit import Circuit
from datamodel.errors import Unavailable


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(circuit, "time", clock)
    return clock


def failing(times: int) -> Circuit:
    found = Circuit()
    for _ in range(times):
        found.check()
        found.note_failure("mirror is away")
    return found


def test_two_failures_are_no_reason_to_wait(clock: Clock) -> None:
    failing(2).check()


def test_after_three_failures_who_asks_hears_at_once_when_to_come_again(clock: Clock) -> None:
    with pytest.raises(Unavailable, match="mirror") as caught:
        failing(3).check()

    assert caught.value.retry_after_s == pytest.approx(0.5)


def test_then_one_tries_and_the_others_wait_for_it(clock: Clock) -> None:
    source = failing(3)
    clock.now += 1

    source.check()

    with pytest.raises(Unavailable):
        source.check()


def test_success_lets_everybody_in_again(clock: Clock) -> None:
    source = failing(3)
    clock.now += 1
    source.check()

    source.note_success()

    for _ in range(5):
        source.check()


def test_wait_grows_with_each_failed_try_and_has_a_limit(clock: Clock) -> None:
    source = failing(3)
    waits = []
    for _ in range(6):
        with pytest.raises(Unavailable) as caught:
            source.check()
        waits.append(caught.value.retry_after_s)
        clock.now += 10
        source.check()
        source.note_failure("mirror is away")

    assert waits == pytest.approx([0.5, 1.0, 2.0, 4.0, 5.0, 5.0])


def test_failures_between_successes_do_not_add_up(clock: Clock) -> None:
    source = Circuit()
    for _ in range(10):
        source.note_failure("mirror is away")
        source.note_failure("mirror is away")
        source.note_success()

    source.check()
