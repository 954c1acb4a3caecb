from types import SimpleNamespace

import pytest
import trio
import trio.testing

from blockcache import circuit
from blockcache.crawl import Crawler
from blockcache.dataset import CachedDataset


@pytest.fixture(autouse=True)
def housekeeping_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests call for housekeeping when they want it; a round at another moment would make them a matter of luck."""

    async def rest(self: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(CachedDataset, "keep", rest)
    monkeypatch.setattr(Crawler, "run", rest)


@pytest.fixture
def patient_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Time that jumps to the next timeout once nothing has happened for a moment: what threads do gets its turn."""
    clock = trio.testing.MockClock(autojump_threshold=0.02)
    monkeypatch.setattr(circuit, "time", SimpleNamespace(monotonic=clock.current_time))
    return clock
