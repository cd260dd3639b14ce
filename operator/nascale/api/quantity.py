"""Kubernetes quantities: ``"2"``, ``"500m"``, ``"8Gi"``."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

_PATTERN: Final = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(m|u|n|[kMGTPE]i?|Ki)?$")
_SCALE: Final[dict[str, Decimal]] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


def parse_quantity(text: str | float) -> Decimal:
    """Return the value of a quantity.

    Raises:
        ValueError: the text is no quantity.
    """
    match = _PATTERN.match(str(text).strip())
    if match is None or match[2] == "ki":
        raise ValueError(f"quantity: must be a number with an optional suffix such as m or Gi, not {text!r}")
    return Decimal(match[1]) * _SCALE[match[2] or ""]


def in_units(value: Decimal, divisor: Decimal) -> int:
    """Return ``value`` in multiples of ``divisor``, rounded up as the kubelet does."""
    return int((value / divisor).to_integral_value(rounding=ROUND_CEILING))


def to_milli(value: Decimal) -> int:
    """Return the value in thousandths, rounded up."""
    return in_units(value, Decimal("0.001"))
