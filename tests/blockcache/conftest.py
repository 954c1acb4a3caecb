import pytest
import trio.testing


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """Time that jumps to the next timeout once nothing has happened for a moment: what threads do gets its turn."""
    return trio.testing.MockClock(autojump_threshold=0.02)
