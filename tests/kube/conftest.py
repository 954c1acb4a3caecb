from collections.abc import Iterator

import pytest

from tests.fakes.apiserver import FakeApiServer


@pytest.fixture
def api() -> Iterator[FakeApiServer]:
    server = FakeApiServer()
    yield server
    server.close()
