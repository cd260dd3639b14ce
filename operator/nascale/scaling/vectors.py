"""Coefficient vectors: the published ones, their directions, and where new ones are looked for."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice
from typing import Final, TypeAlias

import numpy as np

from nascale.scaling.networks import scaler
from nascale.scaling.problem import Axis, Range, ScalingProblem, Vector

Shares: TypeAlias = tuple[float, float, float]
"""A direction: shares of depth, width and resolution in the growth of FLOPs, from 0 to 1, in sum 1."""

PUBLISHED: Final[dict[str, Vector]] = {
    "EfficientNet": Vector(1.2, 1.1, 1.15),
    "FastScaling": Vector(2**0.1, 2**0.4, 2**0.05),
    "LACSGPU": Vector(1.300, 1.158, 1.071),
    "LACSTPU": Vector(1.299, 1.137, 1.091),
}
"""EfficientNet (Tan and Le, ICML 2019, section 3.3); fast scaling dWr (Dollar et al., CVPR 2021: FLOPs
exponents 0.1, 0.8, 0.1); EfficientNet-X on V100 and TPUv3 (Li et al., CVPR 2021, from its released
tables)."""

GROWTH: Final = 2.0
"""What alpha * beta^2 * gamma^2 is normalised to: one unit of the compound coefficient doubles FLOPs."""
SAME_DIRECTION: Final = 0.01
"""Shares that differ by less are one direction."""

_WEIGHTS: Final = (1, 2, 2)
_DECIMALS: Final = 4
_ROUNDING: Final = 5e-4
_GRID: Final = 257
_MOST_DRAWS: Final = 2048
_DRAWS: Final = 64
_NAME: Final = re.compile(r"^(\d\.\d{4})/(\d\.\d{4})/(\d\.\d{4})$")


@dataclass(frozen=True, order=True)
class Candidate:
    """A vector under a name that its trials carry as their origin.

    Attributes:
        name: A publication's, or the coefficients themselves (``1.2137/1.1098/1.1618``).
        vector: Normalised to alpha * beta^2 * gamma^2 = 2.
    """

    name: str
    vector: Vector


def normalised(vector: Vector) -> Vector:
    """Return the vector of the same direction with alpha * beta^2 * gamma^2 = 2, four decimals.

    Raises:
        ValueError: nothing grows.
    """
    return from_shares(shares(vector))


def shares(vector: Vector) -> Shares:
    """Return the direction of a vector.

    Raises:
        ValueError: nothing grows.
    """
    logs = [
        weight * math.log(coefficient)
        for weight, coefficient in zip(_WEIGHTS, (vector.depth, vector.width, vector.resolution), strict=True)
    ]
    total = sum(logs)
    if total <= 0:
        raise ValueError(f"vector: must have a coefficient above 1, not {vector}")
    return logs[0] / total, logs[1] / total, logs[2] / total


def from_shares(direction: Iterable[float]) -> Vector:
    """Return the normalised vector of a direction."""
    depth, width, resolution = (
        round(GROWTH ** (max(0.0, share) / weight), _DECIMALS)
        for share, weight in zip(direction, _WEIGHTS, strict=True)
    )
    return Vector(depth, width, resolution)


def log_ratios(vector: Vector) -> tuple[float, float] | None:
    """Return log beta / log alpha and log gamma / log alpha; ``None`` where alpha is 1."""
    if vector.depth <= 1:
        return None
    base = math.log(vector.depth)
    return math.log(vector.width) / base, math.log(vector.resolution) / base


def distance(one: Shares, other: Shares) -> float:
    """Return how far two directions are apart (Euclidean, 0 to the square root of 2)."""
    return math.dist(one, other)


def candidate(vector: Vector) -> Candidate:
    """Name a vector by its coefficients."""
    own = normalised(vector)
    return Candidate(f"{own.depth:.4f}/{own.width:.4f}/{own.resolution:.4f}", own)


def published(problem: ScalingProblem) -> dict[str, Candidate]:
    """Return the published vectors, in order, as far as they make the problem's base grow.

    Axes that no parameter of an own model grows with are left out of the direction.
    """
    axes = scaler(problem.base).axes
    return {
        name: Candidate(name, normalised(vector))
        for name, full in PUBLISHED.items()
        if (vector := _projected(full, axes)) != Vector(1.0, 1.0, 1.0)
    }


def parse(problem: ScalingProblem, origin: str) -> Candidate | None:
    """Return the candidate of a trial's origin; ``None`` where it names no vector."""
    named = published(problem).get(origin)
    if named is not None:
        return named
    found = _NAME.match(origin)
    if found is None:
        return None
    depth, width, resolution = (float(text) for text in found.groups())
    return Candidate(origin, Vector(depth, width, resolution))


def within(problem: ScalingProblem, vector: Vector) -> bool:
    """Say whether a direction lies within the ranges: normalised as ``growth`` says, it keeps each."""
    total = growth(problem)
    return all(
        low - _ROUNDING <= share * total <= high + _ROUNDING
        for share, (low, high) in zip(shares(vector), _log_box(problem), strict=True)
    )


def growth(problem: ScalingProblem) -> float:
    """Return the log of alpha * beta^2 * gamma^2 at which ranges bound a vector.

    It is log 2 as far as that lies within the middle half of what the ranges allow, else the nearest end
    of that half: ranges with small factors bound a smaller unit, and leave directions to choose from.
    """
    box = _log_box(problem)
    low, high = sum(low for low, _ in box), sum(high for _, high in box)
    quarter = (high - low) / 4
    return min(max(math.log(GROWTH), low + quarter), high - quarter)


def first_candidates(problem: ScalingProblem, wanted: int) -> tuple[Candidate, ...]:
    """Return up to so many different directions: published ones within the ranges, then a sequence.

    Fewer come only where the ranges hold fewer.
    """
    known = [own for own in published(problem).values() if within(problem, own.vector)]
    return tuple(different(chain(known, sequence(problem)), wanted))


def sequence(problem: ScalingProblem) -> Iterator[Candidate]:
    """Yield directions of low discrepancy over the ranges: a Halton sequence, shifted by the seed.

    (Cranley-Patterson rotation: the seed moves all points by the same amount.)
    """
    total = growth(problem)
    if total <= 0:
        return
    box = _log_box(problem)
    start = 0
    while start < _MOST_DRAWS:
        yield from _draws(box, total, problem.seed, start)
        start += _DRAWS


@lru_cache(maxsize=256)
def _draws(
    box: tuple[tuple[float, float], ...], total: float, seed: int, start: int
) -> tuple[Candidate, ...]:
    """Draw the sequence's candidates from a number on: points of the polygon that the box cuts."""
    lows, highs = zip(*box, strict=True)
    first = np.linspace(
        max(lows[0], total - highs[1] - highs[2]), min(highs[0], total - lows[1] - lows[2]), _GRID
    )
    from_second = np.maximum(lows[1], total - first - highs[2])
    to_second = np.minimum(highs[1], total - first - lows[2])
    # Every part of the polygon is as likely as its area; one without area is a line.
    area = np.cumsum(np.maximum(to_second - from_second, 0) + 1e-9)
    draw = random.Random(seed)  # noqa: S311 - no secret
    shift = draw.random(), draw.random()
    drawn: list[Candidate] = []
    for number in islice(count(start + 1), _DRAWS):
        u, v = ((_radical_inverse(number, base) + move) % 1 for base, move in zip((2, 3), shift, strict=True))
        place = float(np.interp(u * area[-1], area, np.arange(_GRID)))
        depth = float(np.interp(place, np.arange(_GRID), first))
        low = max(lows[1], total - depth - highs[2])
        high = max(low, min(highs[1], total - depth - lows[2]))
        width = low + v * (high - low)
        shared = depth / total, width / total, (total - depth - width) / total
        drawn.append(candidate(from_shares(shared)))
    return tuple(drawn)


def different(
    candidates: Iterable[Candidate], wanted: int, taken: Iterable[Candidate] = ()
) -> Iterator[Candidate]:
    """Yield up to so many candidates whose directions differ from each other's and from those taken."""
    seen = [shares(own.vector) for own in taken]
    for own in candidates:
        if wanted <= 0:
            return
        direction = shares(own.vector)
        if all(distance(direction, other) >= SAME_DIRECTION for other in seen):
            seen.append(direction)
            wanted -= 1
            yield own


def _log_box(problem: ScalingProblem) -> tuple[tuple[float, float], ...]:
    """Return the ranges of log alpha, 2 log beta, 2 log gamma; an axis along which nothing grows is 0."""
    axes = scaler(problem.base).axes
    ranges = (problem.depth, problem.width, problem.resolution)
    return tuple(
        _weighted_logs(own, weight) if axis in axes else (0.0, 0.0)
        for axis, own, weight in zip(Axis, ranges, _WEIGHTS, strict=True)
    )


def _weighted_logs(own: Range, weight: int) -> tuple[float, float]:
    return weight * math.log(own.low), weight * math.log(own.high)


def _projected(vector: Vector, axes: frozenset[Axis]) -> Vector:
    return Vector(
        vector.depth if Axis.DEPTH in axes else 1.0,
        vector.width if Axis.WIDTH in axes else 1.0,
        vector.resolution if Axis.RESOLUTION in axes else 1.0,
    )


def _radical_inverse(number: int, base: int) -> float:
    """Mirror a number's digits at the point (van der Corput)."""
    value, scale = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        scale /= base
        value += digit * scale
    return value
