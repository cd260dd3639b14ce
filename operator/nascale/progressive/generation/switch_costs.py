"""What switches cost, from the same measurements as the step times."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Final

from nascale.progressive.generation.problem import Combination, ProfileRecord

_SETTLE_FALLBACK: Final = 1.0
"""Seconds of a switch where none was measured."""


class SwitchCosts:
    """Seconds that switches take, from the same measurements.

    Args:
        records: Measurements, in any order.
    """

    def __init__(self, records: Iterable[ProfileRecord]) -> None:
        self._own: dict[str, list[float]] = {}
        self._alike: dict[str, list[float]] = {}
        starts: list[float] = []
        for own in records:
            if not own.measured:
                continue
            if own.settle_seconds is not None:
                self._own.setdefault(own.combination.key, []).append(own.settle_seconds)
                self._alike.setdefault(own.hardware.compilation.value, []).append(own.settle_seconds)
            if own.start_seconds is not None:
                starts.append(own.start_seconds)
        self.start = median(starts) if starts else 0.0
        """Start of a process, seconds."""

    def settle(self, combination: Combination) -> float:
        """Return the seconds of a switch into settings.

        Measured, or the median of what is compiled alike, or the dearest there is.
        """
        own = self._own.get(combination.key)
        if own:
            return median(own)
        alike = self._alike.get(combination.hardware.compilation.value)
        if alike:
            return median(alike)
        return max((value for values in self._alike.values() for value in values), default=_SETTLE_FALLBACK)
