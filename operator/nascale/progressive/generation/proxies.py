"""Candidate schedules tried over a short length, and the choice by time and quality.

The first ones are known: the constant recipe, the best constant settings, the schedules of the literature,
and what would be chosen without proxies. Further ones come from the search core, in the space of compound
ramps, with predicted time and measured quality as objectives and the quality floor as a hard bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nascale.progressive.generation.candidates import RECIPE, Candidate
from nascale.progressive.generation.choice import Choice, Field, as_choice, candidates, compared
from nascale.progressive.generation.courses import CompoundRamp, compound, ramp_of
from nascale.progressive.generation.errors import QualityFloorError
from nascale.progressive.generation.grid import batches, growing
from nascale.progressive.generation.problem import (
    GenerationProblem,
    ProfileRecord,
    ProxyRecord,
    QualityFloor,
)
from nascale.progressive.generation.rules import MOST_BATCH_FACTOR
from nascale.search import engine
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.selection import Method, SelectionRule
from nascale.search.space import Assignment, Categorical, Integer, Parameter, SearchSpace

_COST: Final = "predicted_cost"
_STEP: Final = 10
"""Hundredths between two values of a ramp's numbers: finer ones can't be told apart by a short run."""
_ROUNDS: Final = 24
"""Most questions to the sampler: ramps that come to a schedule that is known are answered at once."""


@dataclass(frozen=True)
class ProxyTrial:
    """A candidate schedule to try.

    Attributes:
        candidate: The schedule, at the length of the whole run; its name is that of its record.
        origin: What proposed it, for people.
    """

    candidate: Candidate
    origin: str


def propose_proxies(
    problem: GenerationProblem,
    records: Sequence[ProfileRecord],
    proxies: Sequence[ProxyRecord],
    most: int,
    *,
    metric: str,
    direction: Direction = Direction.MAXIMIZE,
) -> tuple[ProxyTrial, ...]:
    """Return the candidates to try next.

    Args:
        problem: What is asked for.
        records: The profile.
        proxies: Candidates that have been asked for, in any order.
        most: Most candidates in all; none beyond them.
        metric: Quality metric.
        direction: Which way it is better.

    Returns:
        Known ones first; empty where enough have been tried, or the space holds no others.

    Raises:
        NothingFeasibleError, ValueError: as ``candidates``.
    """
    field = candidates(problem, records)
    tried = {own.candidate for own in proxies}
    left = most - len(tried)
    known_ones = [own for own in _known(field) if own.name not in tried]
    found = [ProxyTrial(own, own.source) for own in known_ones[: max(0, left)]]
    pending = any(own.state is TrialState.PENDING for own in proxies)
    if left <= len(found) or found or pending:
        return tuple(found)
    objectives = _objectives(field, proxies, metric, direction)
    return tuple(_Searched(field, proxies, objectives).propose(left))


def choose_by_quality(
    problem: GenerationProblem,
    records: Sequence[ProfileRecord],
    proxies: Sequence[ProxyRecord],
    *,
    metric: str,
    direction: Direction = Direction.MAXIMIZE,
    evaluation_seconds: float | None = None,
) -> Choice:
    """Choose among the candidates that were tried.

    With a floor: the cheapest that keeps it. Without one: the knee of the front of time and quality.

    Raises:
        QualityFloorError: none keeps the floor, or none has a value; the best one is named.
        NothingFeasibleError, ValueError: as ``candidates``.
    """
    field = candidates(problem, records, evaluation_seconds=evaluation_seconds)
    objectives = _objectives(field, proxies, metric, direction)
    search = _search_problem(field, objectives)
    trials = _history(field, proxies, metric)
    named = {record.parameters["name"]: own for record, own in trials}
    history = [record for record, _ in trials]
    floor = field.problem.quality_floor
    rule = SelectionRule(Method.BEST_UNDER_CONSTRAINTS if floor is not None else Method.KNEE)
    summary = engine.summarise(search, history)
    chosen = engine.choose_base(search, history, rule)
    if chosen is None or not summary.feasible:
        raise QualityFloorError(_missed(history, objectives[1], metric))
    best = named[chosen.trial.parameters["name"]]
    reason = f"chosen among {len(history)} tried schedules: {_told(chosen.reason, metric)}"
    others = [
        (own, f"{metric} {record.values[metric]:.4g}; {compared(field, own, best)}")
        for record, own in sorted(trials, key=lambda pair: field.cost(pair[1]))
        if own is not best and metric in record.values
    ]
    return as_choice(field, best, reason, others)


def _known(field: Field) -> list[Candidate]:
    """Return the candidates that are tried first; schedules that are the same come once."""
    recipe = [own for own in field.constants if own.name == RECIPE]
    courses = [own for own, _ in field.courses if ramp_of(own.name) is None]
    distinct: dict[str, Candidate] = {}
    for own in (*recipe, field.best(), *field.constants[:1], *courses):
        distinct.setdefault(_signature(own), own)
    return list(distinct.values())


def _candidate(field: Field, name: str) -> Candidate | None:
    """Return the candidate of a name; ``None``: it can't be run, or is not one of ours."""
    for own in (*field.constants, *(course for course, _ in field.courses)):
        if own.name == name:
            return own
    ramp = ramp_of(name)
    return None if ramp is None else field.planner.plan(compound(field.problem, ramp))


def _objectives(
    field: Field, proxies: Iterable[ProxyRecord], metric: str, direction: Direction
) -> tuple[Objective, Objective]:
    bound = None
    floor = field.problem.quality_floor
    if floor is not None:
        bound = floor.bound if floor.bound is not None else _relative(floor, proxies, metric, direction)
    return Objective(_COST, Direction.MINIMIZE), Objective(metric, direction, bound=bound)


def _relative(
    floor: QualityFloor, proxies: Iterable[ProxyRecord], metric: str, direction: Direction
) -> float | None:
    recipe = [own.values[metric] for own in proxies if own.candidate == RECIPE and metric in own.values]
    if not recipe:
        return None
    return recipe[0] - (floor.within or 0.0) * (1 if direction is Direction.MAXIMIZE else -1)


def _history(
    field: Field, proxies: Iterable[ProxyRecord], metric: str
) -> list[tuple[TrialRecord, Candidate]]:
    """Return what was tried with a value, as trials of the search core, by name."""
    found: list[tuple[TrialRecord, Candidate]] = []
    for index, own in enumerate(sorted(proxies, key=lambda proxy: proxy.candidate)):
        candidate = _candidate(field, own.candidate)
        if candidate is None or own.state is not TrialState.SUCCEEDED or metric not in own.values:
            continue
        values = {metric: own.values[metric], _COST: field.cost(candidate)}
        record = TrialRecord(index, index, 0, {"name": own.candidate}, own.state, values)
        found.append((record, candidate))
    return found


def _search_problem(field: Field, objectives: tuple[Objective, Objective]) -> SearchProblem:
    return SearchProblem(_space(field.problem), objectives, seed=field.problem.seed)


def _space(problem: GenerationProblem) -> SearchSpace:
    """Return the space of compound ramps, in hundredths."""
    least_final = _STEP * math.ceil(100 * problem.final_share / _STEP)
    parameters: list[Parameter] = [
        Integer("hold", 0, 80, _STEP),
        Integer("final", min(least_final, 100), 100, _STEP),
    ]
    if growing(problem):
        parameters.append(Integer("start", 30, 100, _STEP))
    largest = max(batches(problem)) / problem.base.model.global_batch
    factors = tuple(factor for factor in (1, 2, MOST_BATCH_FACTOR) if factor == 1 or factor <= largest)
    if len(factors) > 1:
        parameters.append(Categorical("batch", factors))
    if problem.ramps and growing(problem):
        parameters.append(Integer("regularization", 0, 100, 50))
    if any(own.name == "depth" for own in growing(problem)):
        parameters.append(Categorical("depth", ("grows", "stays")))
    return SearchSpace(tuple(parameters))


def _ramp(assignment: Assignment) -> CompoundRamp:
    return CompoundRamp(
        start=float(assignment.get("start", 100)) / 100,
        hold=float(assignment["hold"]) / 100,
        final=float(assignment["final"]) / 100,
        batch=float(assignment.get("batch", 1)),
        regularization=float(assignment.get("regularization", 0)) / 100,
        depth=assignment.get("depth", "grows") == "grows",
    )


def _assignment(space: SearchSpace, ramp: CompoundRamp) -> Assignment | None:
    """Return a ramp's place in the space; ``None``: it lies between its points."""
    every: Mapping[str, str | int] = {
        "start": round(100 * ramp.start),
        "hold": round(100 * ramp.hold),
        "final": round(100 * ramp.final),
        "batch": round(ramp.batch),
        "regularization": round(100 * ramp.regularization),
        "depth": "grows" if ramp.depth else "stays",
    }
    own = {name: every[name] for name in space.names}
    fits = all(
        parameter.choices is not None and own[parameter.name] in parameter.choices
        for parameter in space.parameters
    )
    return own if fits else None


class _Searched:
    """Asks the search core for ramps whose schedules have not been tried."""

    def __init__(
        self, field: Field, proxies: Sequence[ProxyRecord], objectives: tuple[Objective, Objective]
    ) -> None:
        self._field = field
        self._problem = _search_problem(field, objectives)
        self._metric = objectives[1].metric
        self._values: dict[str, float | None] = {}
        self._history: list[TrialRecord] = []
        for own in sorted(proxies, key=lambda proxy: proxy.candidate):
            candidate = _candidate(field, own.candidate)
            if candidate is None:
                continue
            value = own.values.get(self._metric) if own.state is TrialState.SUCCEEDED else None
            self._values[_signature(candidate)] = value
            ramp = ramp_of(own.candidate)
            place = None if ramp is None else _assignment(self._problem.space, ramp)
            if place is not None:
                self._add(place, candidate, value)

    def propose(self, count: int) -> list[ProxyTrial]:
        """Return up to so many ramps with schedules of their own."""
        found: list[ProxyTrial] = []
        for _ in range(_ROUNDS):
            fresh = engine.propose(self._problem, self._history, count - len(found)).proposals
            for proposal in fresh:
                ramp = _ramp(proposal.parameters)
                candidate = self._field.planner.plan(compound(self._field.problem, ramp))
                key = "" if candidate is None else _signature(candidate)
                if candidate is None or key in self._values:
                    self._add(proposal.parameters, candidate, self._values.get(key))
                    continue
                self._values[key] = None
                self._add(proposal.parameters, candidate, None, TrialState.PENDING)
                found.append(ProxyTrial(replace(candidate, name=ramp.name), proposal.origin or "search"))
            if not fresh or len(found) >= count:
                break
        return found

    def _add(
        self,
        place: Assignment,
        candidate: Candidate | None,
        value: float | None,
        state: TrialState = TrialState.FAILED,
    ) -> None:
        values: dict[str, float] = {}
        if candidate is not None and value is not None:
            state = TrialState.SUCCEEDED
            values = {self._metric: value, _COST: self._field.cost(candidate)}
        index = len(self._history)
        self._history.append(TrialRecord(index, index, 0, place, state, values))


def _signature(candidate: Candidate) -> str:
    return repr([(own.length, own.model.to_json(), own.hardware.to_json()) for own in candidate.stages])


def _told(reason: str, metric: str) -> str:
    return (
        reason.replace(_COST, "predicted cost").replace(f"{metric}=", f"{metric} ").replace("cost=", "cost ")
    )


def _missed(history: Sequence[TrialRecord], objective: Objective, metric: str) -> str:
    if not history:
        return f"qualityFloor.metric: must be one that proxies report, not {metric}: none has reported it"
    best = min(history, key=lambda record: objective.loss(record.values[metric]))
    sign = "at least" if objective.direction is Direction.MAXIMIZE else "at most"
    return (
        f"qualityFloor: {metric} must be {sign} {objective.bound:g}, and the best of {len(history)} tried "
        f"schedules, {best.parameters['name']}, has {best.values[metric]:.4g}"
    )
