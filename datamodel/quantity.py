"""Kubernetes quantities and the human sizes that Fluid shows in status columns."""

import math
import re
from decimal import Decimal

from datamodel.errors import UserError

_FACTORS: dict[str, int | Decimal] = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50,
    "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40, "B": 1, "m": Decimal("0.001"),
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([A-Za-z]*)")


def parse_bytes(field: str, text: str) -> int:
    """Bytes of a quantity such as `2Gi`, `500M`, `20GiB` or `1073741824`; fractions of a byte round up.

    `KB`, `MB`, `GB` mean binary units, as in Fluid's quotas.

    Raises:
        UserError: *text* is no quantity; the message names *field*.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in _FACTORS:
        raise UserError(f"{field}: {text!r} is not a size; write e.g. 10Gi, 500M or 1073741824")
    return math.ceil(Decimal(match[1]) * _FACTORS[match[2]])


def show_bytes(count: int) -> str:
    """Fluid's form of a size: binary unit, two decimals, e.g. `12.00GiB`, `0.00B`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            return f"{value:.2f}{unit}"
        value /= 1024
    return f"{value:.2f}EiB"


def show_bytes_exactly(count: int) -> str:
    """A size with the largest binary unit that leaves no fraction, e.g. `12GiB`, `1536MiB`: fit for a label."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    step = 0
    while count and count % 1024 == 0 and step + 1 < len(units):
        count //= 1024
        step += 1
    return f"{count}{units[step]}"


def show_percentage(part: int, whole: int) -> str:
    """One decimal and `%`; `0.0%` of nothing; never above 100."""
    return f"{min(100.0, 100 * part / whole) if whole else 0.0:.1f}%"
