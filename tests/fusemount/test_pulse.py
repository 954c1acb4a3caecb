"""When a process is given up: what the kernel says of it decides how long it may be silent."""

import os
import signal
import subprocess
import sys

import pytest

from fusemount.pulse import PATIENCE_S, SILENT_AFTER_S, STOPPED_AFTER_S, Pulse, Vital, vital_of
from tests.fusemount.mounts import until

TICK_S = 0.25


def silence(pulse: Pulse, seconds: float, vitals: list[Vital]) -> str:
    """What *pulse* says at last of so long a silence, in which the process looks like each of *vitals* in turn."""
    verdict = ""
    for turn in range(int(seconds / TICK_S)):
        verdict = verdict or pulse.look(TICK_S, vitals[turn % len(vitals)])
    return verdict


def test_idle_process_is_silent_after_a_few_seconds() -> None:
    assert silence(Pulse(), SILENT_AFTER_S - TICK_S, [Vital("S", 7)]) == ""
    assert silence(Pulse(), SILENT_AFTER_S, [Vital("S", 7)]) == "silent"


@pytest.mark.parametrize("state", ["R", "D"])
def test_process_that_waits_for_a_busy_machine_is_given_more_time(state: str) -> None:
    assert silence(Pulse(), PATIENCE_S - TICK_S, [Vital(state, 7)]) == ""
    assert silence(Pulse(), PATIENCE_S, [Vital(state, 7)]) == "silent"


def test_process_that_works_is_given_more_time_though_it_sleeps_now_and_then() -> None:
    pulse = Pulse()
    pulse.look(TICK_S, Vital("S", 1))

    assert silence(pulse, PATIENCE_S - 2 * TICK_S, [Vital("R", 2), Vital("S", 3)]) == ""


def test_word_from_the_process_starts_its_time_anew() -> None:
    pulse = Pulse()
    for _ in range(5):
        assert silence(pulse, SILENT_AFTER_S - TICK_S, [Vital("S", 7)]) == ""
        pulse.beat()


def test_stopped_process_is_given_up_at_once_but_not_at_the_first_look() -> None:
    pulse = Pulse()

    assert pulse.look(TICK_S, Vital("T", 7)) == ""
    assert silence(pulse, STOPPED_AFTER_S - TICK_S, [Vital("T", 7)]) == "stopped"


def test_process_that_was_stopped_and_goes_on_is_left_alone() -> None:
    pulse = Pulse()
    silence(pulse, STOPPED_AFTER_S - TICK_S, [Vital("T", 7)])

    assert pulse.look(TICK_S, Vital("S", 8)) == ""
    assert pulse.stopped_s == 0


def test_state_of_a_real_process_is_what_the_kernel_says() -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
    try:
        until(lambda: vital_of(child.pid).state == "S")
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: vital_of(child.pid).state == "T")
    finally:
        child.kill()
        child.wait()
    with pytest.raises(FileNotFoundError):
        vital_of(child.pid)
