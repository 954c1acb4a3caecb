"""How much the fault tests do: little, so that they run with every change, or with HEADRACE_FULL=1 much."""

import os
from typing import TypeVar

import pytest

IS_FULL = bool(os.environ.get("HEADRACE_FULL"))
MIB = 1 << 20
READERS = 16
ROUNDS = 10 if IS_FULL else 1
"""How often a fault is made in one mount."""


in_full = pytest.mark.skipif(not IS_FULL, reason="runs with HEADRACE_FULL=1")
"""For tests whose subject smaller tests, or tests of one room, look at with every change."""
T = TypeVar("T")


def cases(small: list[T], more: list[T]) -> list[T]:
    """What to run a test with: *small* with every change, and *more* of the kind in full."""
    return [*small, *more] if IS_FULL else small
