"""The volume that a front dominates: exact, for two to eight objectives.

Two and three objectives by a sweep, more by WFG (While, Bradstreet, Barone, IEEE Trans. Evol. Comp.
16(1), 2012): the volume of a set is the sum of what each point adds to those after it.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from nascale.search.domination import Matrix, non_dominated

PLANE = 2
SPACE = 3


def hypervolume(points: Matrix, reference: npt.ArrayLike) -> float:
    """Return the volume between points (smaller is better) and a reference point.

    Args:
        points: One row per point, one column per objective.
        reference: The corner that bounds the volume; a point that is not below it everywhere adds nothing.
    """
    corner = np.asarray(reference, dtype=np.float64)
    inside = points[np.all(points < corner, axis=1)]
    if inside.shape[0] == 0:
        return 0.0
    # Shifted so that the reference point is the origin.
    return _volume(np.unique(inside[non_dominated(inside)], axis=0) - corner)


def _volume(points: Matrix) -> float:
    """Return the volume between mutually non-dominated, negative points and the origin."""
    count, columns = points.shape
    if count == 1:
        return float(np.prod(-points[0]))
    if columns == 1:
        return float(-points.min())
    if columns == PLANE:
        return _area(points)
    if columns == SPACE:
        return _sweep(points)
    # Worst last objective first: what is left to compare with then shrinks fastest.
    ordered = points[np.argsort(-points[:, -1], kind="stable")]
    return sum(_added(ordered[position], ordered[position + 1 :]) for position in range(count))


def _added(point: Matrix, others: Matrix) -> float:
    """Return the volume that a point dominates and none of the others does."""
    own = float(np.prod(-point))
    if others.shape[0] == 0:
        return own
    # Every other point is at least as good in the last objective: limited to this point's share they all
    # have its last value, so that the common part is a prism over one objective fewer.
    limited = np.maximum(others[:, :-1], point[:-1])
    base = _volume(np.unique(limited[non_dominated(limited)], axis=0))
    return own - base * float(-point[-1])


def _area(points: Matrix) -> float:
    ordered = points[np.argsort(points[:, 0], kind="stable")]
    heights = np.concatenate(([0.0], ordered[:-1, 1])) - ordered[:, 1]
    return float(np.sum(-ordered[:, 0] * heights))


def _sweep(points: Matrix) -> float:
    """Sweep along the third objective; between two values the volume grows by the area seen so far."""
    ordered = points[np.argsort(points[:, 2], kind="stable")].tolist()
    firsts: list[float] = []
    seconds: list[float] = []
    area = volume = 0.0
    for position, (first, second, third) in enumerate(ordered):
        area += _insert(firsts, seconds, first, second)
        upper = ordered[position + 1][2] if position + 1 < len(ordered) else 0.0
        volume += area * (upper - third)
    return volume


def _insert(firsts: list[float], seconds: list[float], first: float, second: float) -> float:
    """Add a point to a staircase (first ascending, second descending); return the area that it adds."""
    begin = bisect_left(firsts, first)
    if begin > 0 and seconds[begin - 1] <= second:
        return 0.0
    if begin < len(firsts) and firsts[begin] == first and seconds[begin] <= second:
        return 0.0
    end = begin
    left, ceiling, added = first, seconds[begin - 1] if begin > 0 else 0.0, 0.0
    while end < len(firsts) and seconds[end] >= second:
        added += (firsts[end] - left) * (ceiling - second)
        left, ceiling = firsts[end], seconds[end]
        end += 1
    right = firsts[end] if end < len(firsts) else 0.0
    added += (right - left) * (ceiling - second)
    firsts[begin:end] = [first]
    seconds[begin:end] = [second]
    return added


EXACT_POINTS = {2: 1_000_000, 3: 10_000, 4: 200, 5: 80, 6: 40, 7: 30, 8: 20}
"""Sizes of fronts, by number of objectives, up to which the exact volume costs about a second at most."""
SAMPLES = 1 << 15


def is_cheap(points: Matrix) -> bool:
    """Say whether the exact volume of a front is quick to compute (its cost grows exponentially)."""
    count, columns = int(points.shape[0]), int(points.shape[1])
    return count <= EXACT_POINTS.get(columns, 0)


def estimate(points: Matrix, reference: npt.ArrayLike) -> float:
    """Estimate the volume by counting 32,768 fixed points of the box; for large fronts of many objectives.

    The standard error is below 0.3 % of the box between the points' best values and the reference.
    """
    corner = np.asarray(reference, dtype=np.float64)
    inside = points[np.all(points < corner, axis=1)]
    if inside.shape[0] == 0:
        return 0.0
    ideal = inside.min(axis=0)
    # Fixed random numbers: the same front has the same volume at every call.
    drawn = np.random.default_rng(0).uniform(ideal, corner, size=(SAMPLES, corner.size))
    dominated = np.zeros(SAMPLES, dtype=np.bool_)
    for point in inside:
        left = np.flatnonzero(~dominated)
        dominated[left] = np.all(drawn[left] >= point, axis=1)
    return float(np.prod(corner - ideal) * dominated.mean())
