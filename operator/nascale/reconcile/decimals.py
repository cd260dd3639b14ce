"""Numbers as text: the API has no floats."""

from __future__ import annotations

import math
import re
from typing import Final

from nascale.api.resource import DECIMAL_PATTERN

_DECIMAL: Final = re.compile(DECIMAL_PATTERN)
_LARGEST_EXPONENT: Final = 99


def decimal_text(value: float) -> str:
    """Write a finite number so that reading it gives the same float.

    Values closer to zero than 1e-99 become ``0``.

    Raises:
        ValueError: NaN, infinite, or of a magnitude of 1e100 or more.
    """
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value}")
    text = repr(float(value)).removesuffix(".0").replace("e+", "e")
    if _DECIMAL.match(text):
        return text
    # 17 significant digits identify every double.
    mantissa, _, exponent = f"{value:.16e}".partition("e")
    if abs(int(exponent)) <= _LARGEST_EXPONENT:
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) < 1:
        return "0"
    raise ValueError(f"must be below 1e100 in magnitude, not {value}")


def rounded_text(value: float, digits: int) -> str:
    """Write a finite number with at most so many significant digits; raises like ``decimal_text``."""
    return decimal_text(float(f"{value:.{digits}g}"))


def number(text: str | None) -> float | None:
    """Read a decimal; ``None`` stays ``None``."""
    return None if text is None else float(text)


def short(value: float) -> str:
    """Write a number for people, with four significant digits."""
    return f"{value:.4g}"
