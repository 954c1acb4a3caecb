"""Many faults at the same time, in an order that a seed decides: readers still get every byte right."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.faults.origin import Asked, Fault, FaultyOrigin
from tests.faults.readers import outcomes, reading
from tests.faults.sizes import IS_FULL, MIB, READERS, ROUNDS, cases
from tests.faults.watching import pids
from tests.fusemount.mounts import Mounted, content, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]

FILES = {
    **{f"large-{number}": content(3 * MIB + number, number) for number in range(3)},
    **{f"small-{number}": content(30_000 + number, 100 + number) for number in range(20)},
}
QUOTA = 6 * MIB
"""Less than all files, so that they are evicted and fetched for as long as the test runs."""
FAULTS = [
    Fault(status=500),
    Fault(status=503, retry_after_s=0),
    Fault(cut_after=50_000),
    Fault(extra_length=77),
    Fault(refuses=True),
    Fault(ignores_range=True),
]


class Chaos:
    """What may go wrong with *mount* and its *origin*."""

    def __init__(self, mount: Mounted, origin: FaultyOrigin, seed: int) -> None:
        self._mount, self._origin, self._random = mount, origin, Random(seed)
        self._kinds: list[Callable[[], None]] = [
            lambda: self._lose_daemon(signal.SIGKILL),
            lambda: self._lose_daemon(signal.SIGSTOP),
            self._restart_origin,
            self._fail_sometimes,
        ]

    def one(self) -> None:
        self._random.choice(self._kinds)()

    def _lose_daemon(self, number: signal.Signals) -> None:
        victim = self._random.choice(pids(self._mount, "daemon"))
        os.kill(victim, number)

        def is_replaced() -> bool:
            daemons = pids(self._mount, "daemon")
            return victim not in daemons and len(daemons) == 2

        until(is_replaced)

    def _restart_origin(self) -> None:
        self._origin.start(self._origin.stop())

    def _fail_sometimes(self) -> None:
        random = Random(self._random.random())

        def plan(asked: Asked) -> Fault | None:
            is_chosen = asked.method == "GET" and asked.name and random.random() < 0.2
            return random.choice(FAULTS) if is_chosen else None

        self._origin.plan = plan


@pytest.mark.parametrize("seed", cases([1], [2, 3]))
def test_every_byte_is_right_whatever_goes_wrong(tmp_path: Path, seed: int) -> None:
    with FaultyOrigin() as origin:
        for name, data in FILES.items():
            origin.put(name, data)
        words = ("--cache-size", str(QUOTA), "--option", "read-timeout=2")
        with mounted(tmp_path, *words, origin.url) as mount:
            chaos = Chaos(mount, origin, seed)
            with reading(mount.path, FILES, READERS if IS_FULL else 4) as readers:
                for _ in range(4 * ROUNDS):
                    chaos.one()
                origin.plan = lambda asked: None

                assert readers.finish() == []
            assert outcomes(mount.path, FILES) == dict.fromkeys(FILES, "")
            assert "Traceback" not in mount.log.read_text()
