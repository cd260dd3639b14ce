"""Which trials are better: constraint domination, non-dominated sorting, spread.

Constraint domination after Deb et al. (IEEE Trans. Evol. Comp. 6(2), 2002): what keeps the bounds beats
what breaks them, less violation beats more, and only among trials that keep every bound do the
objectives decide.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import SearchProblem

Matrix = npt.NDArray[np.float64]
"""Losses: one row per trial, one column per objective, smaller is better."""
Ranks = npt.NDArray[np.int64]


class Tier(IntEnum):
    """Classes of trials; each one ranks behind those before it."""

    KEEPS_BOUNDS = 0
    BREAKS_SOFT_BOUND = 1
    EARLY_STOPPED = 2
    INFEASIBLE = 3
    UNRANKED = 4
    """Pending, failed, without metrics: nothing is known about it."""


def losses(problem: SearchProblem, records: Sequence[TrialRecord]) -> Matrix:
    """Return the losses of records (rows) in every objective (columns); NaN where a value is unknown."""
    matrix = np.full((len(records), len(problem.objectives)), np.nan)
    for column, objective in enumerate(problem.objectives):
        values = [record.values.get(objective.metric, math.nan) for record in records]
        matrix[:, column] = values
        if objective.loss(1.0) < 0:
            matrix[:, column] *= -1
    return matrix


def violation(problem: SearchProblem, record: TrialRecord, *, hard_only: bool = False) -> float:
    """Sum up by how much known values lie beyond their bounds, each as a share of its bound.

    A share makes seconds and counts comparable; where the bound is 0, the plain difference counts.
    """
    total = 0.0
    for objective in problem.objectives:
        if objective.bound is None or (hard_only and not objective.hard):
            continue
        value = record.values.get(objective.metric)
        if value is not None:
            total += objective.violation(value) / (abs(objective.bound) or 1.0)
    return total


def tier(problem: SearchProblem, record: TrialRecord) -> Tier:
    """Say which class a trial belongs to."""
    if record.state is TrialState.SUCCEEDED:
        if any(objective.metric not in record.values for objective in problem.objectives):
            return Tier.UNRANKED
        if violation(problem, record, hard_only=True) > 0:
            return Tier.INFEASIBLE
        return Tier.BREAKS_SOFT_BOUND if violation(problem, record) > 0 else Tier.KEEPS_BOUNDS
    if record.state is TrialState.INFEASIBLE:
        return Tier.INFEASIBLE
    return Tier.EARLY_STOPPED if record.state is TrialState.EARLY_STOPPED else Tier.UNRANKED


def ranks(problem: SearchProblem, records: Sequence[TrialRecord]) -> Ranks:
    """Rank records by constraint domination: 0 is best, equal ranks beat each other in nothing.

    Trials that keep every bound come first, by non-dominated sorting; then those that break soft bounds,
    by their violation; then early-stopped ones; then infeasible ones, by their violation, those of
    unknown violation last; then what has not been measured.
    """
    result = np.zeros(len(records), dtype=np.int64)
    tiers = np.array([tier(problem, record) for record in records], dtype=np.int64)
    matrix = losses(problem, records)
    following = 0
    for level in Tier:
        members = np.flatnonzero(tiers == level)
        if members.size == 0:
            continue
        if level is Tier.KEEPS_BOUNDS:
            within = non_dominated_ranks(matrix[members])
        elif level in (Tier.BREAKS_SOFT_BOUND, Tier.INFEASIBLE):
            # An infeasible trial without a value beyond its bound broke something that no value shows.
            broken = [violation(problem, records[member]) or math.inf for member in members.tolist()]
            within = np.unique(np.array(broken), return_inverse=True)[1].reshape(-1)
        else:
            within = np.zeros(members.size, dtype=np.int64)
        result[members] = following + within
        following += int(within.max()) + 1
    return result


def non_dominated_ranks(matrix: Matrix) -> Ranks:
    """Sort into fronts: 0 for rows that no row beats, 1 for those that only rows of front 0 beat, ...

    Efficient non-dominated sorting (Zhang et al., IEEE Trans. Evol. Comp. 19(2), 2015): rows in
    lexicographic order, each one put on its front by binary search. With two objectives it costs
    O(n log n), with more O(n log n) vectorised comparisons.
    """
    if matrix.shape[0] == 0:
        return np.zeros(0, dtype=np.int64)
    distinct, inverse = np.unique(matrix, axis=0, return_inverse=True)
    found = _two_objective_ranks(distinct) if matrix.shape[1] == 2 else _many_objective_ranks(distinct)  # noqa: PLR2004 - two columns
    return found[inverse.reshape(-1)]


def _two_objective_ranks(distinct: Matrix) -> Ranks:
    # In lexicographic order the last row of a front has its smallest second loss, and these smallest
    # losses ascend with the front's number: the first front that does not beat a row is found by bisection.
    smallest: list[float] = []
    found = np.empty(distinct.shape[0], dtype=np.int64)
    for row, second in enumerate(distinct[:, 1].tolist()):
        front = bisect_right(smallest, second)
        if front == len(smallest):
            smallest.append(second)
        else:
            smallest[front] = second
        found[row] = front
    return found


def _many_objective_ranks(distinct: Matrix) -> Ranks:
    rest = np.ascontiguousarray(distinct[:, 1:])
    fronts: list[_Rows] = []
    found = np.empty(distinct.shape[0], dtype=np.int64)
    for row, values in enumerate(rest):
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            if fronts[middle].beat(values):
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append(_Rows(rest.shape[1]))
        fronts[low].append(values)
        found[row] = low
    return found


class _Rows:
    """Rows of a front in an array that grows by doubling."""

    def __init__(self, columns: int) -> None:
        self._array: Matrix = np.empty((16, columns))
        self._count = 0

    def append(self, values: Matrix) -> None:
        """Add a row."""
        if self._count == self._array.shape[0]:
            self._array = np.concatenate((self._array, np.empty_like(self._array)))
        self._array[self._count] = values
        self._count += 1

    def beat(self, values: Matrix) -> bool:
        """Say whether a row is nowhere worse than these values."""
        below = self._array[: self._count] <= values
        return bool(below.all(axis=1).any())


def non_dominated(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Mark the rows that no row beats; equal rows don't beat each other."""
    count, columns = matrix.shape
    if count == 0:
        return np.zeros(0, dtype=np.bool_)
    distinct, inverse = np.unique(matrix, axis=0, return_inverse=True)
    if columns == 2:  # noqa: PLR2004 - two columns
        best_before = np.concatenate(([np.inf], np.minimum.accumulate(distinct[:, 1])[:-1]))
        kept = distinct[:, 1] < best_before
    else:
        kept = np.zeros(distinct.shape[0], dtype=np.bool_)
        front = _Rows(columns - 1)
        for row, values in enumerate(distinct[:, 1:]):
            if not front.beat(values):
                kept[row] = True
                front.append(values)
    return kept[inverse.reshape(-1)]


def scaled(matrix: Matrix) -> Matrix:
    """Scale each column to 0..1; a column of one value becomes 0."""
    low = matrix.min(axis=0)
    span = matrix.max(axis=0) - low
    return np.asarray((matrix - low) / np.where(span > 0, span, 1.0), dtype=np.float64)


def spread_order(matrix: Matrix, limit: int | None = None) -> list[int]:
    """Order the rows of one front so that every beginning of the order covers it well.

    First the best row of each objective, then always the row farthest from those taken (the greedy
    epsilon-net of Schmucker et al., "Multi-objective Asynchronous Successive Halving", 2021), in losses
    scaled to 0..1. Ties go to the row that stands first.

    Args:
        matrix: Losses of the front.
        limit: Rows wanted; all by default.
    """
    count = matrix.shape[0]
    wanted = count if limit is None else min(limit, count)
    if wanted <= 0:
        return []
    unit = scaled(matrix)
    taken: list[int] = []
    nearest = np.full(count, np.inf)
    # The best of an objective; where several share it, the one that is best in the others as well.
    extremes = [int(np.lexsort((unit.sum(axis=1), unit[:, column]))[0]) for column in range(unit.shape[1])]
    for extreme in extremes:
        if extreme not in taken and len(taken) < wanted:
            taken.append(extreme)
            nearest = np.minimum(nearest, np.linalg.norm(unit - unit[extreme], axis=1))
    while len(taken) < wanted:
        nearest[taken] = -1.0
        farthest = int(np.argmax(nearest))
        taken.append(farthest)
        nearest = np.minimum(nearest, np.linalg.norm(unit - unit[farthest], axis=1))
    return taken


def order(problem: SearchProblem, records: Sequence[TrialRecord]) -> list[int]:
    """Order records from best to worst: by rank, then spread over the front; ties by index."""
    by_index = sorted(range(len(records)), key=lambda position: records[position].index)
    arranged = [records[position] for position in by_index]
    rank = ranks(problem, arranged)
    matrix = losses(problem, arranged)
    result: list[int] = []
    for level in range(int(rank.max()) + 1 if arranged else 0):
        members = np.flatnonzero(rank == level)
        complete = not bool(np.isnan(matrix[members]).any())
        within = spread_order(matrix[members]) if complete else range(members.size)
        result.extend(by_index[members[position]] for position in within)
    return result
