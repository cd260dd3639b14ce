"""From exact sizes to sizes that a network can have."""

from __future__ import annotations

import math
from typing import Final

CHANNEL_MULTIPLE: Final = 8
MOST_LOST: Final = 0.1
"""Share of the exact value that rounding may take away (MobileNet's rule)."""
_DECIMALS: Final = 6
"""Products of multipliers with four decimals and whole numbers are exact with fewer; more is float noise."""


def rounded_channels(exact: float, multiple_of: int = CHANNEL_MULTIPLE) -> int:
    """Round to the nearest multiple, never more than 10 % below the exact value.

    The rule of MobileNet's ``make_divisible``, with which EfficientNet rounds its filters.

    Args:
        exact: More than 0.
        multiple_of: 1 or more.
    """
    exact = round(exact, _DECIMALS)
    nearest = max(multiple_of, math.floor(exact / multiple_of + 0.5) * multiple_of)
    return nearest + multiple_of if nearest < (1 - MOST_LOST) * exact else nearest


def scaled_channels(channels: int, multiplier: float, multiple_of: int = CHANNEL_MULTIPLE) -> int:
    """Scale a width: rounded as above, never below the base's; with multiplier 1 it is the base's."""
    if multiplier == 1:
        return channels
    rounded = rounded_channels(channels * multiplier, multiple_of)
    return rounded + multiple_of if rounded < channels else rounded


def scaled_depth(blocks: int, multiplier: float) -> int:
    """Scale a number of blocks: to the nearest whole number, a half upwards.

    (EfficientNet's code rounds up. In a base of one to three blocks a stage that would deepen every network
    by a third or more before anything else grows, in whatever direction: they could not be told apart.)
    """
    return max(blocks, math.floor(round(blocks * multiplier, _DECIMALS) + 0.5))


def scaled_resolution(side: int, multiplier: float, stride: int) -> int:
    """Scale a side to the nearest multiple of the total stride, never below the base's.

    Args:
        side: Of the base's input, pixels.
        multiplier: 1 or more; with 1 it is the base's side.
        stride: The network's total stride. Where the side is no multiple of it, even numbers are taken.
    """
    if multiplier == 1:
        return side
    step = stride if side % stride == 0 else 2
    nearest = math.floor(round(side * multiplier, _DECIMALS) / step + 0.5) * step
    return nearest + step if nearest < side else nearest
