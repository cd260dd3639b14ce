"""What to measure next, and when it is enough.

A first batch covers every value of every range and spreads as far as the model's prior is in doubt (greedy
D-optimal design). Later ones take the combinations whose measurement can be expected to change the
schedule: those that may be faster than what is thought best for a stage of a schedule that may be chosen
(expected improvement in seconds of the whole run; Jones et al., 1998), and what the chosen one rests on
without having been measured. Where measurements are so noisy that one of a combination leaves it in doubt, it
is measured again in a later batch: what slows a shared device down for some seconds comes and goes.

Everything follows from the set of measurements: a restarted operator asks for the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nascale.progressive.generation import rules
from nascale.progressive.generation.candidates import Candidate
from nascale.progressive.generation.choice import Field, candidates
from nascale.progressive.generation.courses import is_number
from nascale.progressive.generation.feasibility import Feasibility
from nascale.progressive.generation.features import Floats
from nascale.progressive.generation.grid import Grid, batches, growing, hardwares, make_grid
from nascale.progressive.generation.problem import (
    Combination,
    GenerationProblem,
    ProfileRecord,
    Value,
    known,
)
from nascale.progressive.generation.step_time import prior_covariance
from nascale.search.history import TrialState

_POOL: Final = 512
"""Most combinations that a first batch is chosen from."""
_ALL_COVERED: Final = 4
"""Longest range of sizes of which each is measured; of longer ones the ends and a middle one."""
_RIVALS: Final = 1.15
"""Schedules that take so much more than the best may still be chosen."""
_UNMEASURED: Final = 0.5
"""What a deviation of the chosen schedule's own stages counts beside an expected improvement."""
_MOST_TIMES: Final = 4
"""Measurements of the same combination: the error of their mean is half of that of one."""
_MAY_CHANGE: Final = "may change the schedule"
_NOISY: Final = "counts for the schedule, and is noisy"
_GUARDED_RUNS: Final = 2
"""Guarded comparisons of the same risky settings."""
_PRIOR_NOISE: Final = 0.02


@dataclass(frozen=True)
class Proposal:
    """A measurement that is asked for.

    Attributes:
        combination: The settings.
        guarded: Whether they are also tried against the base's for their loss.
        origin: Why it is asked for, for people.
    """

    combination: Combination
    guarded: bool
    origin: str


@dataclass(frozen=True)
class Design:
    """Where a profile stands.

    Attributes:
        proposals: What to measure next; none where something must end first.
        finished: Nothing more need be measured.
        reason: Why it goes on, or ends, for people.
        grid_size: Combinations that the ranges hold.
        doubt: Relative standard deviation of the chosen schedule's time; ``None``: not known yet.
        regret: Share of that time that other settings may be expected to save; ``None``: not known yet.
    """

    proposals: tuple[Proposal, ...]
    finished: bool
    reason: str
    grid_size: int
    doubt: float | None = None
    regret: float | None = None


def design(problem: GenerationProblem, records: Sequence[ProfileRecord], *, again: bool = True) -> Design:
    """Say what is measured next.

    Args:
        problem: What is asked for.
        records: All measurements, pending ones included, in any order.
        again: Whether something may be measured that has been measured before.

    Raises:
        NothingFeasibleError: everything that could be a last stage has been refused.
    """
    problem = known(problem, records)
    grid = make_grid(problem)
    if any(own.state is TrialState.PENDING for own in records):
        return Design((), finished=False, reason="measurements are under way", grid_size=grid.size)
    left = problem.max_trials - len(records)
    feasibility = Feasibility(problem, records)
    missing = _uncovered(problem, grid, records, feasibility)
    if left > 0 and (missing or not records):
        chosen = _covering(problem, grid, records, feasibility, missing)[: min(left, problem.per_batch)]
        if chosen:
            proposals = _proposals(problem, records, chosen, "covers the ranges")
            return Design(proposals, finished=False, reason="the ranges are not covered", grid_size=grid.size)
    return _refined(problem, records, grid, left, again=again)


def _refined(
    problem: GenerationProblem, records: Sequence[ProfileRecord], grid: Grid, left: int, *, again: bool
) -> Design:
    own = _Outlook(candidates(problem, records))
    found = {"grid_size": grid.size, "doubt": own.doubt, "regret": own.regret}
    if own.doubt <= rules.DOUBT and own.regret <= rules.REGRET:
        return _design((), "the schedule's time is known well enough", found, finished=True)
    if left <= 0:
        return _design((), f"all {problem.max_trials} measurements are made", found, finished=True)
    tried = Counter(one.combination.key for one in records)
    chosen = own.most_useful(min(left, problem.per_batch), tried, most_times=_MOST_TIMES if again else 1)
    if not chosen:
        reason = "nothing is left that could matter" if again else "measuring again would not pay"
        return _design((), reason, found, finished=True)
    proposals = _proposals(problem, records, chosen, _MAY_CHANGE)
    return _design(proposals, "the schedule's time is in doubt", found, finished=False)


def _design(
    proposals: tuple[Proposal, ...], reason: str, found: Mapping[str, float], *, finished: bool
) -> Design:
    return Design(
        proposals, finished, reason, int(found["grid_size"]), doubt=found["doubt"], regret=found["regret"]
    )


def _proposals(
    problem: GenerationProblem, records: Sequence[ProfileRecord], chosen: Sequence[Combination], origin: str
) -> tuple[Proposal, ...]:
    """Guard the first few measurements of all risky settings that need it."""
    counts = Counter(problem.guarded(own.hardware) for own in records if own.loss_deviation is not None)
    tried = {own.combination.key for own in records}
    found: list[Proposal] = []
    for combination in chosen:
        settings = problem.guarded(combination.hardware)
        guarded = bool(settings) and counts[settings] < _GUARDED_RUNS
        counts[settings] += guarded
        found.append(Proposal(combination, guarded, _NOISY if combination.key in tried else origin))
    return tuple(found)


def _told_by(problem: GenerationProblem, combination: Combination) -> set[tuple[str, str]]:
    """Return the values of the ranges that a measurement tells of.

    Of risky ones only where one comes alone: nobody could say which of several has moved the loss.
    """
    risky = problem.guarded(combination.hardware)
    found = set(combination.levels.items())
    return found - risky if len(risky) > 1 else found


def _between(problem: GenerationProblem) -> set[tuple[str, str]]:
    """Return the sizes of long ranges that other sizes tell of: the model of a step knows how work grows."""
    sizes: dict[str, Sequence[Value]] = {
        f"parameters.{growth.name}" if growth.own else growth.name: growth.values
        for growth in growing(problem)
        if all(is_number(value) for value in growth.values)
    }
    sizes["global_batch"] = batches(problem)
    return {
        (name, str(value))
        for name, values in sizes.items()
        if len(values) > _ALL_COVERED
        for value in values
        if value not in {values[0], values[len(values) // 2], values[-1]}
    }


def _uncovered(
    problem: GenerationProblem, grid: Grid, records: Sequence[ProfileRecord], feasibility: Feasibility
) -> frozenset[tuple[str, str]]:
    """Return the values of the ranges that no measurement has, and that may still work."""
    spanned = {item for own in grid.combinations for item in _told_by(problem, own)}
    counts: dict[str, int] = {}
    for name, _ in spanned:
        counts[name] = counts.get(name, 0) + 1
    spanned -= _between(problem)
    seen = {item for own in records if own.measured for item in _told_by(problem, own.combination)}
    missing = {item for item in spanned if counts[item[0]] > 1} - seen - feasibility.dropped
    tried = {own.combination.key for own in records}
    reachable = {
        item
        for own in grid.combinations
        if own.key not in tried and feasibility.allows(own)
        for item in _told_by(problem, own)
    }
    if problem.full.key not in tried:
        reachable |= set(grid.combinations[0].levels.items())
    return frozenset(missing & reachable)


def _covering(
    problem: GenerationProblem,
    grid: Grid,
    records: Sequence[ProfileRecord],
    feasibility: Feasibility,
    missing: frozenset[tuple[str, str]],
) -> list[Combination]:
    """Choose combinations that have what is missing, and then those that the prior knows least about."""
    tried = [own.combination for own in records]
    keys = {own.key for own in tried}
    pool = [own for own in grid.combinations if own.key not in keys and feasibility.allows(own)]
    pool = [*pool[:1], *pool[1 :: max(1, len(pool) // _POOL)]]
    needed = [own for own in grid.combinations if own.key not in keys and _told_by(problem, own) & missing]
    pool = list(
        {own.key: own for own in (*pool, *(own for own in needed if feasibility.allows(own)))}.values()
    )
    everyone = [*pool[: 2 * _POOL], *tried]
    pool = pool[: 2 * _POOL]
    covariance = prior_covariance(problem, hardwares(problem), everyone)
    for place in range(len(pool), len(everyone)):
        covariance = _conditioned(covariance, place)
    wanted, chosen = set(missing), list[Combination]()
    items = [_told_by(problem, own) for own in pool]
    open_places = set(range(len(pool)))
    while open_places and len(chosen) < problem.per_batch and (wanted or not records):
        if not chosen and not records:
            place = 0  # the constant recipe: everything is compared with it
        else:
            place = max(
                open_places,
                key=lambda own: (len(items[own] & wanted), float(covariance[own, own]), -own),
            )
        chosen.append(pool[place])
        wanted -= items[place]
        open_places.discard(place)
        covariance = _conditioned(covariance, place)
    return chosen


def _conditioned(covariance: Floats, place: int, noise: float = _PRIOR_NOISE) -> Floats:
    """Return the covariance once the combination at a place is measured."""
    column = covariance[:, place]
    found: Floats = covariance - np.outer(column, column) / (column[place] + noise**2)
    return found


@dataclass
class _Part:
    """A model-level combination that a schedule may have, with what could run it.

    Attributes:
        steps: Optimizer steps in the schedule in which it has most.
        chosen: Whether the best schedule has it.
        places: Of its combinations in the joint belief.
    """

    steps: float = 0.0
    chosen: bool = False
    places: list[int] = field(default_factory=list)


class _Outlook:
    """What could still change the schedule."""

    def __init__(self, found: Field) -> None:
        self._field = found
        self._best = found.best()
        self._problem = found.problem
        self._combinations: list[Combination] = []
        self._places: dict[str, int] = {}
        self._parts: dict[str, _Part] = {}
        for own in self._rivals():
            self._add(own)
        belief = found.predictor.model.believe(self._combinations)
        self._mean, self._covariance = belief.mean, belief.covariance
        rates = [math.log(found.predictor.rate(own)) for own in self._combinations]
        self._costs = self._mean + np.array(rates)
        self.doubt = self._best.prediction.deviation
        self.regret = self._regret()

    def most_useful(self, count: int, tried: Mapping[str, int], *, most_times: int) -> list[Combination]:
        """Choose what to measure.

        Args:
            count: Most of them.
            tried: How often combinations have been measured, by key. Again is only asked for what is in doubt
                all the same.
            most_times: Measurements of the same one.
        """
        covariance = self._covariance
        chosen: list[Combination] = []
        out = {
            place
            for place, own in enumerate(self._combinations)
            if tried[own.key] >= most_times or (tried[own.key] and not self._in_doubt(place))
        }
        while len(chosen) < count:
            gains = self._gains(covariance)
            open_gains = {place: gain for place, gain in gains.items() if place not in out and gain > 0}
            if not open_gains:
                break
            place = max(open_gains, key=lambda own: (open_gains[own], self._combinations[own].key))
            chosen.append(self._combinations[place])
            out.add(place)
            covariance = _conditioned(covariance, place, self._field.predictor.model.noise)
        return chosen

    def _in_doubt(self, place: int) -> bool:
        """Say whether a combination's step is not known well enough although it was measured."""
        deviation = math.sqrt(max(float(self._covariance[place, place]), 0.0))
        return self._field.predictor.model.measured(self._combinations[place]) and deviation > rules.DOUBT

    def _rivals(self) -> list[Candidate]:
        limit = _RIVALS * self._field.cost(self._best)
        vouched = [own for own, against in self._field.courses if not against]
        if self._problem.quality_floor is not None:
            vouched = [own for own, _ in self._field.courses]
        near = [own for own in (*self._field.constants, *vouched) if self._field.cost(own) <= limit]
        return [self._best, *(own for own in near if own is not self._best)]

    def _add(self, candidate: Candidate) -> None:
        pieces = candidate.course.pieces
        for place, piece in enumerate(pieces):
            model, last = piece.model, place == len(pieces) - 1
            key = f"{Combination(model, self._problem.base.hardware).key} {last}"
            part = self._parts.setdefault(key, _Part())
            samples = piece.end - candidate.course.begin(place)
            part.steps = max(part.steps, samples / model.global_batch)
            part.chosen = part.chosen or candidate is self._best
            if not part.places:
                part.places = [self._place(own) for own in self._field.planner.allowed(model, late=last)]

    def _place(self, own: Combination) -> int:
        if own.key not in self._places:
            self._places[own.key] = len(self._combinations)
            self._combinations.append(own)
        return self._places[own.key]

    def _gains(self, covariance: Floats) -> dict[int, float]:
        """Return the expected gain of measuring each combination, in the unit of what is optimised."""
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        gains: dict[int, float] = {}
        for part in self._parts.values():
            order = sorted(part.places, key=lambda place: float(self._costs[place]))
            if not order:
                continue
            best = order[0]
            level = float(self._costs[best])
            for place in order[1:]:
                gain = part.steps * _improvement(float(self._costs[place]), float(deviation[place]), level)
                gains[place] = max(gains.get(place, 0.0), gain)
            own = float(deviation[best])
            if len(order) > 1:
                # The best may turn out worse than the second one.
                second = float(self._costs[order[1]])
                gain = part.steps * _improvement(level, own, second) - part.steps * (
                    math.exp(second) - math.exp(level)
                )
            else:
                gain = 0.0
            if part.chosen:
                gain = max(gain, 0.0) + _UNMEASURED * part.steps * math.exp(level) * own
            gains[best] = max(gains.get(best, 0.0), gain)
        return gains

    def _regret(self) -> float:
        """Return what better settings of the chosen schedule's parts are expected to save, as a share."""
        deviation = np.sqrt(np.maximum(np.diag(self._covariance), 0.0))
        total = 0.0
        for part in self._parts.values():
            if not part.chosen or not part.places:
                continue
            level = min(float(self._costs[place]) for place in part.places)
            total += part.steps * max(
                (
                    _improvement(float(self._costs[place]), float(deviation[place]), level)
                    for place in part.places
                    if self._costs[place] > level
                ),
                default=0.0,
            )
        return total / (self._field.cost(self._best) or 1.0)


def _improvement(mean: float, deviation: float, level: float) -> float:
    """Return E[max(0, exp(level) - t)] for a log-normal t: the formula of a European put."""
    if deviation <= 0:
        return max(0.0, math.exp(level) - math.exp(mean))
    place = (level - mean) / deviation
    below, shifted = _normal(place), _normal(place - deviation)
    return max(0.0, math.exp(level) * below - math.exp(mean + deviation**2 / 2) * shifted)


def _normal(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))
