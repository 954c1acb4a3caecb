"""What a load says of itself."""

import pytest

from headrace.load.progress import show_time, text
from headrace.load.reader import Count

MIB = 1 << 20


def test_known_totals_give_the_time_left() -> None:
    count = Count(cached_files=1, cached_bytes=10 * MIB, loaded_files=2, loaded_bytes=20 * MIB)

    assert text(count, 1000, 100 * MIB, 2.0) == ("3 of 1,000 files, 30.00MiB of 100.00MiB, 10.00MiB/s, 0:07 left")


def test_unknown_totals_are_not_made_up() -> None:
    assert text(Count(loaded_files=2, loaded_bytes=MIB), 0, 0, 1.0) == "2 files, 1.00MiB, 1.00MiB/s"


def test_failures_are_counted() -> None:
    assert text(Count(failed=2), 0, 0, 0.0).endswith("2 failed")


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (750, "12:30"), (10800, "3:00:00")])
def test_time_is_shown_like_a_clock(seconds: float, shown: str) -> None:
    assert show_time(seconds) == shown
