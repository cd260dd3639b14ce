"""What the operator asks of a search: the next trials, the state of affairs, the base network.

All functions are pure: the same problem and the same set of trials give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nascale.search import settings
from nascale.search.errors import InvalidSpaceError, SearchError
from nascale.search.fidelity import one_per_candidate, promotions
from nascale.search.front import front_hypervolume, highest_rung, pareto_front, trim_front
from nascale.search.history import Proposal, TrialRecord, TrialState
from nascale.search.problem import Objective, SearchProblem
from nascale.search.samplers import registry
from nascale.search.selection import Choice, Method, SelectionRule, choose

__all__ = [
    "Choice",
    "Method",
    "Proposals",
    "SelectionRule",
    "Summary",
    "choose_base",
    "propose",
    "summarise",
    "trim_front",
    "validate",
]

MIN_OBJECTIVES = 2
MAX_OBJECTIVES = 8


@dataclass(frozen=True)
class Proposals:
    """The next trials.

    Attributes:
        proposals: Promotions first, then new candidates.
        exhausted: The space holds no other candidate, now or later, and no promotion is pending.
    """

    proposals: tuple[Proposal, ...]
    exhausted: bool


@dataclass(frozen=True)
class Summary:
    """The state of affairs.

    Attributes:
        front: Trials of the highest rung reached that no other one beats (constraint domination), by
            the first objective, best first.
        feasible: Whether the front keeps every bound.
        hypervolume: Of the front, each objective scaled to the range that all trials of the same rung
            have spanned so far, reference point 1; 0 to 1.
        best: Best value of each objective among the front's trials, by metric.
        goals_reached: One trial of the last rung reaches the goal of every objective that has one, and
            keeps the hard bounds (``False`` without goals).
    """

    front: tuple[TrialRecord, ...] = ()
    feasible: bool = False
    hypervolume: float = 0.0
    best: Mapping[str, float] = field(default_factory=dict)
    goals_reached: bool = False


def validate(problem: SearchProblem) -> None:
    """Refuse a search that can't be run.

    Raises:
        InvalidSpaceError: the space holds fewer than two candidates, and nothing else is wrong.
        SearchError: anything else; the message names every fault by field, value and allowed range.
        MissingDependencyError: the sampler's library is not installed.
    """
    found = list(_faults(problem))
    size_fault = _size_fault(problem)
    if size_fault and not found:
        raise InvalidSpaceError(size_fault)
    if found:
        raise SearchError("; ".join(found + ([size_fault] if size_fault else [])))
    registry.create(problem.algorithm)


def propose(problem: SearchProblem, history: Sequence[TrialRecord], count: int) -> Proposals:
    """Say which trials come next: at most ``count``, promotions before new candidates.

    Raises:
        SearchError: the algorithm or one of its settings is unknown or out of range.
        MissingDependencyError: the sampler's library is not installed.
    """
    sampler = registry.create(problem.algorithm)
    if count <= 0:
        return Proposals((), exhausted=False)
    chosen = promotions(problem, history, count)
    wanted = count - len(chosen)
    if wanted == 0:
        return Proposals(tuple(chosen), exhausted=False)
    fresh = sampler.propose(problem, one_per_candidate(problem, history), wanted)
    chosen.extend(fresh)
    if len(fresh) == wanted or problem.rungs == 1:
        return Proposals(tuple(chosen), exhausted=len(fresh) < wanted)
    if not chosen and not _awaits_promotion(problem, history):
        chosen.extend(promotions(problem, history, count, closing=True))
    # What has just been proposed, or still runs below the last rung, may earn a promotion.
    return Proposals(tuple(chosen), exhausted=not chosen and not _awaits_promotion(problem, history))


def summarise(problem: SearchProblem, history: Sequence[TrialRecord]) -> Summary:
    """Compute front, hypervolume and best values."""
    trials = highest_rung(problem, history)
    front = pareto_front(problem, trials)
    if not front:
        return Summary()
    first = front[0]
    return Summary(
        front=front,
        feasible=all(
            objective.violation(first.values[objective.metric]) == 0 for objective in problem.objectives
        ),
        hypervolume=front_hypervolume(problem, front, trials),
        best={objective.metric: _best(objective, front) for objective in problem.objectives},
        goals_reached=_goals_reached(problem, trials),
    )


def choose_base(problem: SearchProblem, history: Sequence[TrialRecord], rule: SelectionRule) -> Choice | None:
    """Choose the base network from the front; ``None`` where there is no trial on it.

    Raises:
        SearchError: the rule does not fit the objectives.
    """
    return choose(problem, pareto_front(problem, highest_rung(problem, history)), rule)


def _best(objective: Objective, front: Sequence[TrialRecord]) -> float:
    return min((record.values[objective.metric] for record in front), key=objective.loss)


def _goals_reached(problem: SearchProblem, trials: Sequence[TrialRecord]) -> bool:
    goals = [objective for objective in problem.objectives if objective.goal is not None]
    return bool(goals) and any(
        record.rung == problem.rungs - 1
        and all(objective.reached(record.values[objective.metric]) for objective in goals)
        for record in trials
    )


def _awaits_promotion(problem: SearchProblem, history: Sequence[TrialRecord]) -> bool:
    return any(record.state is TrialState.PENDING and record.rung < problem.rungs - 1 for record in history)


def _faults(problem: SearchProblem) -> Iterator[str]:
    count = len(problem.objectives)
    if not MIN_OBJECTIVES <= count <= MAX_OBJECTIVES:
        yield f"objectives: must be from {MIN_OBJECTIVES} to {MAX_OBJECTIVES}, not {count}"
    metrics = [objective.metric for objective in problem.objectives]
    for metric in sorted({metric for metric in metrics if metrics.count(metric) > 1}):
        times = metrics.count(metric)
        yield f"objectives: metric: must differ between objectives, not {metric} {times} times"
    if problem.rungs < 1:
        yield f"fidelities.levels: must be at least 1, not {problem.rungs}"
    if problem.rungs > 1 and problem.reduction_factor < 2:  # noqa: PLR2004 - halving at least
        yield f"fidelities.reductionFactor: must be at least 2, not {problem.reduction_factor}"
    try:
        known = registry.settings_of(problem.algorithm)
    except SearchError as error:
        yield str(error)
        return
    yield from settings.faults(problem.algorithm, known, problem.settings)


def _size_fault(problem: SearchProblem) -> str | None:
    size = problem.space.count
    if size is None or size > 1:
        return None
    return f"space: must hold at least 2 candidates, not {size}"
