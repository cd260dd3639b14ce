"""A search's history as an Optuna study in memory, rebuilt at every call.

Optuna's samplers read the study, so that a study made of the same trials in the same order gives the same
suggestions. Two things need care: NSGA-II and NSGA-III keep generations in the trials' attributes
(``optuna_samplers``), and a study wants a value of every objective where a trial of ours may have some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nascale.search.domination import Tier, tier, violation
from nascale.search.history import TrialRecord
from nascale.search.history import TrialState as State
from nascale.search.novelty import by_index
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.space import Categorical, Integer, Parameter, ParameterValue, Real, SearchSpace

UNKNOWN_VIOLATION = "outcome"
"""The constraint of trials that are infeasible for a reason that none of their values shows."""

Distributions: TypeAlias = Mapping[str, BaseDistribution]

optuna.logging.set_verbosity(optuna.logging.ERROR)


def directions(problem: SearchProblem) -> list[StudyDirection]:
    """Return Optuna's directions of the objectives."""
    known = {Direction.MINIMIZE: StudyDirection.MINIMIZE, Direction.MAXIMIZE: StudyDirection.MAXIMIZE}
    return [known[objective.direction] for objective in problem.objectives]


@lru_cache(maxsize=64)
def distributions(space: SearchSpace) -> Distributions:
    """Return Optuna's distribution of each parameter."""
    return {parameter.name: _distribution(parameter) for parameter in space.parameters}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Categorical):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter, Real):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    # Optuna knows no steps on a logarithmic scale: what it suggests is rounded to the parameter's steps.
    step = 1 if parameter.log else parameter.step
    return IntDistribution(parameter.choices[0], parameter.choices[-1], log=parameter.log, step=step)


def frozen_trials(
    problem: SearchProblem,
    history: Sequence[TrialRecord],
    attributes: Sequence[Mapping[str, int]] | None = None,
) -> list[FrozenTrial]:
    """Turn a history into Optuna's trials, in the order of their indices.

    Roles: SUCCEEDED trials are complete; INFEASIBLE ones are complete with a positive constraint, and
    the worst value seen stands in for each unknown one; EARLY_STOPPED ones are pruned; PENDING ones run; the
    others have failed.

    Args:
        problem: The search.
        history: All trials.
        attributes: System attributes per trial, in the order of their indices.
    """
    records = by_index(history)
    known = distributions(problem.space)
    worst = _worst(problem, records)
    bounded = [objective for objective in problem.objectives if objective.bound is not None]
    outcome = any(_is_unexplained(problem, record) for record in records)
    trials: list[FrozenTrial] = []
    for position, record in enumerate(records):
        state = state_of(problem, record)
        complete = state is TrialState.COMPLETE
        constraints = {objective.metric: _constraint(objective, record) for objective in bounded}
        if outcome:
            constraints[UNKNOWN_VIOLATION] = float(_is_unexplained(problem, record))
        trials.append(
            optuna.create_trial(
                state=state,
                values=[record.values.get(name, stand_in) for name, stand_in in worst.items()]
                if complete
                else None,
                params=dict(record.parameters),
                distributions={name: known[name] for name in record.parameters},
                constraints=constraints if complete and constraints else None,
                system_attrs=dict(attributes[position]) if attributes is not None else None,
            )
        )
    return trials


def state_of(problem: SearchProblem, record: TrialRecord) -> TrialState:
    """Return Optuna's state of a trial."""
    if record.state is State.PENDING:
        return TrialState.RUNNING
    level = tier(problem, record)
    if level is Tier.UNRANKED:
        return TrialState.FAIL
    return TrialState.PRUNED if level is Tier.EARLY_STOPPED else TrialState.COMPLETE


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, ParameterValue]:
    """Let Optuna suggest the active parameters, one after the other."""
    chosen: dict[str, ParameterValue] = {}
    for parameter in space.parameters:
        if space.is_active(parameter, chosen):
            chosen[parameter.name] = _suggest(trial, parameter)
    return chosen


def _suggest(trial: optuna.Trial, parameter: Parameter) -> ParameterValue:
    if isinstance(parameter, Categorical):
        chosen = trial.suggest_categorical(parameter.name, parameter.values)
        return parameter.values[parameter.values.index(cast("ParameterValue", chosen))]
    if isinstance(parameter, Real):
        exact = trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
        return parameter.rounded(exact)
    choices = parameter.choices
    step = 1 if parameter.log else parameter.step
    whole = trial.suggest_int(parameter.name, choices[0], choices[-1], step=step, log=parameter.log)
    return _nearest(parameter, whole)


def _nearest(parameter: Integer, whole: int) -> int:
    position = round((whole - parameter.low) / parameter.step)
    return parameter.choices[min(len(parameter.choices) - 1, max(0, position))]


def _worst(problem: SearchProblem, records: Sequence[TrialRecord]) -> dict[str, float]:
    """Return the worst value seen of each objective; 0 where none has been seen."""
    worst: dict[str, float] = {}
    for objective in problem.objectives:
        seen = [record.values[objective.metric] for record in records if objective.metric in record.values]
        worst[objective.metric] = max(seen, key=objective.loss, default=0.0)
    return worst


def _constraint(objective: Objective, record: TrialRecord) -> float:
    """Return by which share of its bound a value lies beyond it; negative within, 0 where unknown."""
    value = record.values.get(objective.metric)
    if value is None or objective.bound is None:
        return 0.0
    beyond = objective.loss(value) - objective.loss(objective.bound)
    share = beyond / (abs(objective.bound) or 1.0)
    return share if math.isfinite(share) else math.copysign(1.0, share)


def _is_unexplained(problem: SearchProblem, record: TrialRecord) -> bool:
    return record.state is State.INFEASIBLE and violation(problem, record) == 0
