"""What refused and failed measurements say about combinations that were not measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from nascale.contract.stage_settings import micro_batch
from nascale.contract.work_order import Precision
from nascale.progressive.generation.problem import Combination, GenerationProblem, ProfileRecord, hardware_key
from nascale.search.history import TrialState

FAILURES_THAT_DROP: Final = 2
"""So many combinations of a value without a success, and it is not tried again."""


class Feasibility:
    """What measurements say about combinations that were not measured.

    Args:
        problem: What is asked for.
        records: Measurements, in any order.
    """

    def __init__(self, problem: GenerationProblem, records: Sequence[ProfileRecord]) -> None:
        self._problem = problem
        self._succeeded = [own.combination for own in records if own.measured]
        self._refused = [own for own in records if own.state is not TrialState.PENDING and not own.measured]
        self._known = {own.key for own in self._succeeded}
        self._out = {own.combination.key for own in self._refused} - self._known
        self._too_large = [own.combination for own in self._refused if own.state is TrialState.INFEASIBLE]
        self.dropped = self._dropped()
        """Values that never worked: (setting, value)."""
        self._deviating = _deviating(problem, records)

    def allows(self, combination: Combination) -> bool:
        """Say whether a combination may be asked for and used."""
        return not self.why_not(combination)

    def why_not(self, combination: Combination) -> str:
        """Say why a combination can't be used; empty: it can."""
        if combination.key in self._out:
            return next(own.reason or "it failed" for own in self._refused if own.combination == combination)
        if combination.hardware.precision in self._deviating:
            return f"precision {combination.hardware.precision.value} moves the loss by more than it may"
        if combination.key in self._known:
            return ""
        own = combination.levels
        for setting, value in self.dropped:
            if own.get(setting) == value:
                return f"{setting} {value} never worked"
        if any(_needs_as_much(self._problem, combination, other) for other in self._too_large):
            return "a combination that needs no more has been refused"
        return ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every refusal with its combination, for people."""
        base = self._problem.full.levels
        found: dict[str, None] = {}
        for own in sorted(self._refused, key=lambda other: other.combination.key):
            differs = {
                name: value for name, value in own.combination.levels.items() if base.get(name) != value
            }
            shown = ", ".join(f"{name} {value}" for name, value in differs.items()) or "the constant recipe"
            found[f"{shown}: {own.reason or own.state.value}"] = None
        return tuple(found)

    def _dropped(self) -> frozenset[tuple[str, str]]:
        worked = {item for own in self._succeeded for item in own.levels.items()}
        failed: dict[tuple[str, str], set[str]] = {}
        for own in self._refused:
            for item in own.combination.levels.items():
                failed.setdefault(item, set()).add(own.combination.key)
        base = self._problem.full.levels
        return frozenset(
            (name, value)
            for (name, value), keys in failed.items()
            if len(keys) >= FAILURES_THAT_DROP and (name, value) not in worked and base.get(name) != value
        )


def _deviating(problem: GenerationProblem, records: Sequence[ProfileRecord]) -> frozenset[Precision]:
    """Return the number formats that move the loss by too much, in the median of their guarded runs."""
    found: dict[Precision, list[float]] = {}
    for own in records:
        if own.loss_deviation is not None and own.measured and problem.guarded(own.hardware):
            found.setdefault(own.hardware.precision, []).append(own.loss_deviation)
    return frozenset(
        precision
        for precision, deviations in found.items()
        if not float(np.median(deviations)) <= problem.most_deviation
    )


def _needs_as_much(problem: GenerationProblem, one: Combination, other: Combination) -> bool:
    """Say whether one combination needs at least the memory of another: same settings, nothing smaller."""
    if hardware_key(one.hardware) != hardware_key(other.hardware):
        return False
    samples = [micro_batch(own.model, own.hardware) or 0 for own in (one, other)]
    if samples[0] < samples[1]:
        return False
    for growth in problem.growing:
        places = [
            growth.values.index(value)
            for own in (one, other)
            if (value := growth.of(own.model)) in growth.values
        ]
        if len(places) < 2 or places[0] < places[1]:  # noqa: PLR2004 - a place for each of the two
            return False
    return True
