"""Sizes as Kubernetes and Fluid write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from datamodel.errors import UserError
from datamodel.quantity import parse_bytes, show_bytes, show_bytes_exactly, show_percentage


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0), ("1073741824", 1 << 30), ("2Gi", 2 << 30), ("500M", 500_000_000), ("20GiB", 20 << 30),
        ("1.5Gi", 3 << 29), (".5Ki", 512), ("1.", 1), ("1KB", 1024), ("4GB", 4 << 30), ("1500m", 2), (" 1Mi ", 1 << 20),
        ("7B", 7), ("2k", 2000), ("1E", 10**18), ("1Ei", 1 << 60),
    ],
)  # fmt: skip
def test_size_is_read(text: str, count: int) -> None:
    assert parse_bytes("quota", text) == count


@pytest.mark.parametrize("text", ["", "Gi", "-1", "1gi", "1 Gi", "1e3", "0x10", "1.2.3", "one", "１", "1GiBi", "NaN"])
def test_what_is_no_size_is_refused_with_the_name_of_its_field(text: str) -> None:
    with pytest.raises(UserError, match=r"quota: .* is not a size"):
        parse_bytes("quota", text)


@given(some.integers(min_value=0, max_value=1 << 62))
def test_exact_size_is_read_back(count: int) -> None:
    assert parse_bytes("x", show_bytes_exactly(count)) == count


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.00B"), (1023, "1023.00B"), (1024, "1.00KiB"), (12 << 30, "12.00GiB"), (1 << 60, "1.00EiB")],
)
def test_size_is_shown_as_fluid_does(count: int, text: str) -> None:
    assert show_bytes(count) == text


def test_percentage_stays_between_nothing_and_all() -> None:
    assert [show_percentage(part, whole) for part, whole in ((1, 3), (5, 0), (9, 3))] == ["33.3%", "0.0%", "100.0%"]
