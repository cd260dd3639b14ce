"""What switches cost, from the same measurements as the step times."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Final

from nascale.contract.stage_settings import HardwareSettings
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
        self._starts: dict[tuple[int, int], list[float]] = {}
        pods: list[float] = []
        for own in records:
            if not own.measured:
                continue
            if own.settle_seconds is not None:
                self._own.setdefault(own.combination.key, []).append(own.settle_seconds)
                self._alike.setdefault(own.hardware.compilation.value, []).append(own.settle_seconds)
            if own.start_seconds is not None:
                self._starts.setdefault(_shape(own.hardware), []).append(own.start_seconds)
            if own.pod_seconds is not None:
                pods.append(own.pod_seconds)
        # The least: pods of measurements also wait for those before them.
        self.pods = min(pods, default=0.0)
        """Until new pods run, seconds."""

    def start(self, hardware: HardwareSettings) -> float:
        """Return the seconds that processes take to start, and to meet where there are several.

        The median of as many workers and processes, or of all where none of these was measured.
        """
        own = self._starts.get(_shape(hardware))
        values = own or [value for values in self._starts.values() for value in values]
        return median(values) if values else 0.0

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


def _shape(hardware: HardwareSettings) -> tuple[int, int]:
    return hardware.workers, hardware.processes_per_worker
