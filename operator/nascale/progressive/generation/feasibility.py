"""What measurements say about combinations that were not measured: refusals, failures, deviating losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from nascale.contract.stage_settings import micro_batch
from nascale.progressive.generation.problem import Combination, GenerationProblem, ProfileRecord, hardware_key
from nascale.search.history import TrialState

FAILURES_THAT_DROP: Final = 2
"""So many combinations of a value without a success, and it is not tried again."""

Settings = frozenset[tuple[str, str]]
"""Some settings, each with a value."""


@dataclass(frozen=True)
class LeftOut:
    """Settings of the ranges that no schedule has.

    Attributes:
        settings: Each with its value, by name; those that are harmful together alone, where it is several.
        reason: Why.
    """

    settings: tuple[tuple[str, str], ...]
    reason: str


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
        self._deviations = _deviations(problem, records)
        self._harmful = _harmful(self._deviations, problem.most_deviation)

    def allows(self, combination: Combination) -> bool:
        """Say whether a combination may be asked for and used."""
        return not self.why_not(combination)

    def why_not(self, combination: Combination) -> str:
        """Say why a combination can't be used; empty: it can."""
        if combination.key in self._out:
            return next(own.reason or "it failed" for own in self._refused if own.combination == combination)
        guarded = self._problem.guarded(combination.hardware)
        for settings in self._harmful:
            if settings <= guarded:
                return self._harm(settings)
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

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Values of the ranges that are not used whatever they are combined with, each with why."""
        found = [LeftOut(tuple(sorted(own)), self._harm(own)) for own in self._harmful]
        known = {item for own in self._harmful for item in own if len(own) == 1}
        for item in sorted(self.dropped - known):
            name, value = item
            refused = (own for own in self._refused if own.combination.levels.get(name) == value)
            reason = min((own.reason or own.state.value for own in refused), default="")
            found.append(LeftOut((item,), reason))
        return tuple(sorted(found, key=lambda own: own.settings))

    def _harm(self, settings: Settings) -> str:
        """Say by how much some settings move the loss: in the comparison that tells most of them."""
        told = [value for own, value in self._deviations.items() if settings <= own]
        own = self._deviations.get(settings, max(told, default=math.inf))
        most = f"loss deviation must be at most {self._problem.most_deviation:g}"
        return f"{most}, not {own:.3g}" if math.isfinite(own) else f"{most}, but the loss is no number"

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


def _deviations(problem: GenerationProblem, records: Sequence[ProfileRecord]) -> Mapping[Settings, float]:
    """Return by how much settings move the loss, in the median of the guarded runs that have them all."""
    found: dict[Settings, list[float]] = {}
    for own in records:
        guarded = problem.guarded(own.hardware)
        if own.loss_deviation is not None and guarded:
            found.setdefault(guarded, []).append(own.loss_deviation)
    return {settings: median(values) for settings, values in found.items()}


def _harmful(deviations: Mapping[Settings, float], most: float) -> tuple[Settings, ...]:
    """Return the settings that move the loss by too much: what has one of these, all of it, is out.

    Where several have done so together, those of them are to blame that no harmless run has had; where each
    has been harmless without the others, it is their company.
    """
    harmless = {item for settings, value in deviations.items() if value <= most for item in settings}
    found: set[Settings] = set()
    for settings, value in deviations.items():
        if value <= most:
            continue
        blamed = settings - harmless
        found |= {frozenset({item}) for item in blamed} if blamed else {settings}
    return tuple(sorted(found, key=lambda own: (len(own), sorted(own))))


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
