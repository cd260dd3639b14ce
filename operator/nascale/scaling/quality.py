"""Quality modelled over direction and latency: where good vectors are likely to lie.

Bayesian regression of the quality's loss on a quadratic in the direction (shares of width and resolution in
the growth of FLOPs; the depth's share is the rest, so that an exponent of 0 is a point like any other) and a
line in log latency, with a step per rung. The prior is a bowl around the centre of what was tried: with few
points the proposals stay near the best of them, with many the data speak.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nascale.scaling.vectors import Candidate, Shares, different, shares

Array = npt.NDArray[np.float64]

_BOWL: Final = 4.0
_SLOPE_SPREAD: Final = 2.0
_CURVE_SPREAD: Final = 3.0
_STEP_SPREAD: Final = 3.0
_NOISE: Final = 0.35
"""Of one training, as a share of the spread between networks."""
_OPTIMISM: Final = 0.25


@dataclass(frozen=True)
class Observation:
    """One network that was trained.

    Attributes:
        direction: Of its vector.
        latency: Log of its latency over the reference's.
        rung: Fidelity.
        loss: Mean of the quality, turned so that smaller is better.
        trainings: How many the mean is of.
    """

    direction: Shares
    latency: float
    rung: int
    loss: float
    trainings: int = 1


@dataclass(frozen=True)
class _Point:
    direction: Shares
    latency: float
    rung: int


class QualityModel:
    """Learns from trained networks; predictions are for the highest rung seen.

    Args:
        observations: Of trained networks.
        believed: Further ones that are only predicted: they tell where something is known, and nothing new.
    """

    def __init__(self, observations: Sequence[Observation], believed: Sequence[Observation] = ()) -> None:
        self._measured = list(observations)
        self._seen = [*observations, *believed]
        self._rungs = sorted({own.rung for own in observations})
        losses = np.array([own.loss for own in observations]) if observations else np.zeros(1)
        self._shift = float(losses.mean())
        self._scale = float(losses.std()) or 1.0
        directions = np.array([own.direction[1:] for own in observations] or [(1 / 3, 1 / 3)])
        self._centre = directions.mean(axis=0)
        self._latency = float(np.mean([own.latency for own in observations])) if observations else 0.0
        self._solve()

    def best(self) -> float:
        """Return the smallest loss that the model expects of a network seen."""
        points = [_Point(own.direction, own.latency, self._top) for own in self._seen]
        return float(self._predict(points)[0].min()) if points else 0.0

    def best_directions(self, wanted: int) -> list[Shares]:
        """Return the directions of the best networks seen, by the model, the best first."""
        points = [_Point(own.direction, own.latency, self._top) for own in self._seen]
        if not points:
            return []
        order = np.argsort(self._predict(points)[0], kind="stable")
        return [points[int(place)].direction for place in order[:wanted]]

    def expected_gain(self, own: Candidate, over: Candidate) -> float:
        """Return by how much a candidate is expected to be better than another of the same latency.

        It is the expectation of the better one's lead, 0 where the other leads; near directions are good or
        bad together. In units of the noise of one training.
        """
        one, other = self._rows([_Point(shares(each.vector), 0.0, self._top) for each in (own, over)])
        apart = (one - other)[None, :]
        mean = apart @ self._mean
        deviation = np.sqrt(np.einsum("ij,jk,ik->i", apart, self._covariance, apart))
        return float(_improvement(mean, deviation, 0.0)[0]) / _NOISE

    def choose(
        self,
        candidates: Iterable[Candidate],
        latency: float,
        wanted: int,
        taken: Sequence[Candidate] = (),
        *,
        improve: bool = False,
    ) -> list[Candidate]:
        """Choose the most promising candidates at a latency, one after the other.

        After each choice the model believes its own prediction of it (kriging believer; Ginsbourger et al.,
        2010), so that the next one differs.

        Args:
            candidates: To choose from; where several are as promising, the first is taken.
            latency: Log of the latency over the reference's.
            wanted: Most candidates chosen.
            taken: Not chosen, nor anything in their directions.
            improve: Choose by expected improvement (for new vectors) instead of by optimistic quality.
        """
        if wanted <= 0:
            return []
        pool = list(different(candidates, wanted=10**6, taken=taken))
        chosen: list[Candidate] = []
        model = self
        while pool and len(chosen) < wanted:
            points = [_Point(shares(own.vector), latency, model._top) for own in pool]
            mean, deviation = model._predict(points)
            score = _improvement(mean, deviation, model.best()) if improve else _OPTIMISM * deviation - mean
            place = int(np.argmax(np.round(score, 9)))
            chosen.append(pool.pop(place))
            model = model._believing(points[place], float(mean[place]))
        return chosen

    @property
    def _top(self) -> int:
        return self._rungs[-1] if self._rungs else 0

    def _believing(self, point: _Point, mean: float) -> QualityModel:
        loss = mean * self._scale + self._shift
        before = self._seen[len(self._measured) :]
        own = Observation(point.direction, point.latency, point.rung, loss)
        return QualityModel(self._measured, [*before, own])

    def _solve(self) -> None:
        steps = max(0, len(self._rungs) - 1)
        spreads = np.array([_SLOPE_SPREAD] * 4 + [_CURVE_SPREAD] * 3 + [_STEP_SPREAD] * steps)
        prior_mean = np.array([0.0] * 4 + [_BOWL, _BOWL, 0.0] + [0.0] * steps)
        prior = np.diag(spreads**-2.0)
        rows = self._rows([_Point(own.direction, own.latency, own.rung) for own in self._seen])
        weights = np.array([own.trainings for own in self._seen]) / _NOISE**2
        losses = (np.array([own.loss for own in self._seen]) - self._shift) / self._scale
        self._covariance = np.linalg.inv(prior + (rows.T * weights) @ rows)
        self._mean = self._covariance @ (prior @ prior_mean + (rows.T * weights) @ losses)

    def _predict(self, points: Sequence[_Point]) -> tuple[Array, Array]:
        rows = self._rows(points)
        return rows @ self._mean, np.sqrt(np.einsum("ij,jk,ik->i", rows, self._covariance, rows))

    def _rows(self, points: Sequence[_Point]) -> Array:
        below = self._rungs[:-1]
        rows = np.zeros((len(points), 7 + len(below)))
        for row, own in zip(rows, points, strict=True):
            # Shares span about a third of their range: in these units slopes and curves are of order 1.
            width, resolution = 3 * (np.array(own.direction[1:]) - self._centre)
            row[:7] = (
                1,
                width,
                resolution,
                own.latency - self._latency,
                width * width / 2,
                resolution * resolution / 2,
                width * resolution,
            )
            if own.rung in below:
                row[7 + below.index(own.rung)] = 1
        return rows


def _improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return the expected improvement over the best (Jones et al., 1998), for losses."""
    safe = np.maximum(deviation, 1e-9)
    z = (best - mean) / safe
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    improvement: Array = (best - mean) * below + safe * density
    return improvement
