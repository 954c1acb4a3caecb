"""How much the fault tests do: little, so that they run with every change, or with HEADRACE_FULL=1 much."""

import os

IS_FULL = bool(os.environ.get("HEADRACE_FULL"))
MIB = 1 << 20
READERS = 16
ROUNDS = 10 if IS_FULL else 1
"""How often a fault is made in one mount."""
