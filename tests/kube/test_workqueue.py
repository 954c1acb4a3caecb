"""The work queue's promises, on a clock that only the test moves."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from kube.workqueue import WorkQueue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_key_added_twice_is_handed_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a")

    assert queue.get(0) == "a"
    assert queue.get(0) is None


def test_key_added_while_in_work_waits_for_its_worker() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert queue.get(0) == "a"

    queue.add("a")

    assert queue.get(0) is None
    queue.done("a")
    assert queue.get(0) == "a"


def test_back_off_doubles_for_one_key_and_not_for_another() -> None:
    queue: WorkQueue[str] = WorkQueue(clock=Clock(), first_delay_s=1.0, longest_delay_s=5.0)

    delays = [queue.add_failed("a") for _ in range(5)]

    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert queue.add_failed("b") == 1.0
    queue.forget("a")
    assert queue.add_failed("a") == 1.0


def test_retry_after_of_the_server_is_honoured() -> None:
    queue: WorkQueue[str] = WorkQueue(clock=Clock(), first_delay_s=1.0)

    assert queue.add_failed("a", at_least_s=30.0) == 30.0


def test_delayed_key_comes_when_it_is_due_and_the_earlier_time_wins() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add_after("a", 10.0)
    queue.add_after("a", 5.0)
    queue.add_after("a", 20.0)

    assert queue.get(0) is None
    clock.now = 5.0
    assert queue.get(0) == "a"
    queue.done("a")
    clock.now = 100.0
    assert queue.get(0) is None


def test_close_wakes_a_waiting_worker() -> None:
    queue: WorkQueue[str] = WorkQueue()
    got: list[str | None] = ["unset"]
    worker = threading.Thread(target=lambda: got.__setitem__(0, queue.get()))
    worker.start()

    queue.close()

    worker.join(5)
    assert got == [None]


@given(st.lists(st.tuples(st.sampled_from(["add", "get", "done"]), st.sampled_from("abc"))))
def test_no_addition_is_lost_and_no_key_has_two_workers(steps: list[tuple[str, str]]) -> None:
    queue: WorkQueue[str] = WorkQueue(clock=Clock())
    pending: set[str] = set()
    working: set[str] = set()
    for step, key in steps:
        if step == "add":
            queue.add(key)
            pending.add(key)
        elif step == "get":
            got = queue.get(0)
            assert (got is None) == (not pending - working)
            if got is not None:
                assert got not in working
                assert got in pending
                pending.discard(got)
                working.add(got)
        elif key in working:
            queue.done(key)
            working.discard(key)

    assert len(queue) == len(pending)
