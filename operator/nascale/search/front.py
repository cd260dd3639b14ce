"""The Pareto front: who is on it, what it is worth, and how to show it in few points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nascale.search.domination import Matrix, Tier, losses, non_dominated, spread_order, tier, violation
from nascale.search.history import TrialRecord, TrialState
from nascale.search.hypervolume import estimate, hypervolume, is_cheap
from nascale.search.problem import SearchProblem


def highest_rung(problem: SearchProblem, history: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the succeeded trials of the highest rung that has any without a broken hard bound, by index."""
    usable = [
        record
        for record in history
        if record.state is TrialState.SUCCEEDED
        and tier(problem, record) in (Tier.KEEPS_BOUNDS, Tier.BREAKS_SOFT_BOUND)
    ]
    top = max((record.rung for record in usable), default=0)
    return sorted((record for record in usable if record.rung == top), key=lambda record: record.index)


def pareto_front(problem: SearchProblem, trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Keep the trials that no other one beats, the best of the first objective first.

    Args:
        problem: The search.
        trials: Succeeded trials of one rung that keep the hard bounds (``highest_rung``).
    """
    keeping = [record for record in trials if tier(problem, record) is Tier.KEEPS_BOUNDS]
    if keeping:
        mask = non_dominated(losses(problem, keeping))
        front = [record for record, kept in zip(keeping, mask.tolist(), strict=True) if kept]
    else:
        broken = [violation(problem, record) for record in trials]
        least = min(broken, default=0.0)
        front = [record for record, amount in zip(trials, broken, strict=True) if amount == least]
    first = problem.objectives[0]
    return tuple(sorted(front, key=lambda record: (first.loss(record.values[first.metric]), record.index)))


def front_hypervolume(
    problem: SearchProblem, front: Sequence[TrialRecord], trials: Sequence[TrialRecord]
) -> float:
    """Return the front's share of the box that all trials of its rung span, 0 to 1.

    Each objective is scaled to the range of the trials, the reference point is 1 everywhere. An objective
    with one value so far counts as 0 (it takes nothing away); without any range the result is 0.
    """
    if not front:
        return 0.0
    spanned = losses(problem, trials)
    low, high = spanned.min(axis=0), spanned.max(axis=0)
    if not bool(np.any(high > low)):
        return 0.0
    points: Matrix = (losses(problem, front) - low) / np.where(high > low, high - low, 1.0)
    corner = np.ones(points.shape[1])
    volume = hypervolume(points, corner) if is_cheap(points) else estimate(points, corner)
    return min(1.0, max(0.0, volume))


def trim_front(problem: SearchProblem, front: Sequence[TrialRecord], limit: int) -> tuple[TrialRecord, ...]:
    """Keep at most ``limit`` trials of a front: the best of each objective, then those that cover it best.

    The order stays. Where the limit is below the number of objectives, the best of the first ones stay.
    """
    if len(front) <= limit:
        return tuple(front)
    kept = sorted(spread_order(losses(problem, front), limit))
    return tuple(front[position] for position in kept)
