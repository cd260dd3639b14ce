"""Latency predicted from counts: it only chooses what is measured next.

Bayesian linear regression of log(latency / reference) on the logarithms of FLOPs, activations, layers and
parameters relative to the base (for own models: of what each axis has grown by), with the conjugate
normal-inverse-gamma prior (Bishop, *Pattern Recognition and Machine Learning*, section 3.3; Murphy,
*Machine Learning: A Probabilistic Perspective*, section 7.6.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_COUNTED: Final = (0.3, 0.4, 0.3, 0.0)
"""Prior exponents of FLOPs, activations, layers, parameters: bound by compute, memory or launches."""
_GROWN: Final = (1.0, 1.0, 1.0)
"""Prior exponents of an own model's depth, width and resolution."""
_EXPONENT_SPREAD: Final = 0.4
_INTERCEPT_SPREAD: Final = 0.02
"""The base's own relative latency is 1: only noise moves the intercept."""
_PRIOR_NOISE: Final = 0.03
_PRIOR_WEIGHT: Final = 2.0
_SMALLEST_SPREAD: Final = 0.01


@dataclass(frozen=True)
class Prediction:
    """Log of latency over the reference's, for several networks.

    Attributes:
        mean: Expected value of each.
        deviation: Standard deviation of each.
    """

    mean: Array
    deviation: Array


class LatencyModel:
    """Learns from measured networks.

    Args:
        features: A row per measured network (``Scaler.features``).
        logs: Log of latency over the reference's, one per row.
        width: Number of features; needed where nothing is measured yet.
    """

    def __init__(self, features: Sequence[Sequence[float]], logs: Sequence[float], width: int) -> None:
        prior_mean = np.array((0.0, *(_COUNTED if width == len(_COUNTED) else _GROWN)))
        spreads = np.array((_INTERCEPT_SPREAD, *[_EXPONENT_SPREAD] * width)) / _PRIOR_NOISE
        prior = np.diag(spreads**-2.0)
        rows = _with_intercept(np.array(features, dtype=float).reshape(len(logs), width))
        seen = np.array(logs, dtype=float)
        precision = prior + rows.T @ rows
        self._covariance = np.linalg.inv(precision)
        self._mean = self._covariance @ (prior @ prior_mean + rows.T @ seen)
        misfit = seen @ seen + prior_mean @ prior @ prior_mean - self._mean @ precision @ self._mean
        shape = _PRIOR_WEIGHT + len(logs) / 2
        scale = _PRIOR_WEIGHT * _PRIOR_NOISE**2 + max(0.0, float(misfit)) / 2
        self.noise = math.sqrt(scale / shape)
        """Estimated standard deviation of a measurement's log from the model."""

    def predict(self, features: Array) -> Prediction:
        """Predict a network per row."""
        rows = _with_intercept(features)
        variance = np.einsum("ij,jk,ik->i", rows, self._covariance, rows)
        return Prediction(rows @ self._mean, self.noise * np.sqrt(1 + variance))

    def along(self, features: Array, coefficients: Sequence[float], seen: dict[int, float]) -> Prediction:
        """Predict the networks of a ray, of which some are measured.

        What the model misses at the measured networks is interpolated between them, and what it does not know
        shrinks near them: latency is a staircase that a few counts don't fully explain.

        Args:
            features: A row per network of the ray.
            coefficients: Compound coefficient of each.
            seen: Measured log of latency over the reference's by position.
        """
        plain = self.predict(features)
        if not seen:
            return plain
        places = sorted(seen)
        at = np.array(coefficients)
        known = at[places]
        residuals = np.array([seen[place] for place in places]) - plain.mean[places]
        gap = np.min(np.abs(at[:, None] - known[None, :]), axis=1)
        return Prediction(
            plain.mean + np.interp(at, known, residuals),
            np.maximum(_SMALLEST_SPREAD, plain.deviation * np.minimum(1.0, gap)),
        )


def exceeding(mean: float, deviation: float, limit: float) -> float:
    """Return the probability that a normal value lies above a limit."""
    return 0.5 * math.erfc((limit - mean) / (deviation * math.sqrt(2)))


def prequential_error(
    features: Sequence[Sequence[float]], logs: Sequence[float], pods: Sequence[int]
) -> float | None:
    """Return the median relative error of predictions, each made before its network's pod was measured.

    Args:
        features: A row per measured network.
        logs: Log of latency over the reference's, one per row.
        pods: Which pod each was measured in; a larger number is a later pod.

    Returns:
        A share of the measured latency, 0 or more; ``None`` where nothing is measured.
    """
    errors: list[float] = []
    for pod in sorted(set(pods)):
        before = [place for place, own in enumerate(pods) if own < pod]
        now = [place for place, own in enumerate(pods) if own == pod]
        model = LatencyModel([features[i] for i in before], [logs[i] for i in before], len(features[0]))
        means = model.predict(np.array([features[i] for i in now])).mean
        errors += [abs(math.expm1(mean - logs[i])) for mean, i in zip(means, now, strict=True)]
    return median(errors) if errors else None


def _with_intercept(features: Array) -> Array:
    return np.hstack([np.ones((len(features), 1)), features])
