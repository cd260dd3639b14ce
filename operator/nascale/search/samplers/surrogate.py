"""What an objective probably is where it was not measured: a Gaussian process on encoded candidates.

The covariance of two candidates x, y is

    linear * <x, y> / parameters  +  smooth * exp(-sum_g weight_g * |x_g - y_g|^2)  +  noise * [x is y]

with one weight per parameter g. The first term learns additive objectives (FLOPs, parameters, model size)
exactly from little more measurements than there are columns; the second learns interactions, and its weights
which parameters matter. Amplitudes, weights and noise maximise the posterior density given the measurements
(Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 5.4), with a prior that
scales with the number of parameters (Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High
Dimensions", ICML 2024). Before that, a transformation of the measurements is chosen by likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_STEPS = 40
"""Steps of the optimiser; more change no candidate's rank any longer."""
_NOISE_RANGE = (1e-6, 1.0)
_LOG_RANGE = (-9.0, 6.0)
_SHIFTS = (1.0, 0.1)
"""Shifts of the logarithm, in interquartile ranges; see ``_transformations``."""


@dataclass(frozen=True)
class Transformation:
    """A rising function that makes an objective easier to learn: a scale, or a logarithm and a scale.

    Attributes:
        logarithmic: Whether the logarithm of ``value - origin`` is what is centred and scaled.
        origin: Lower bound of the logarithm's argument (unused otherwise).
        centre: Mean of the measurements, transformed.
        spread: Their standard deviation.
    """

    logarithmic: bool
    origin: float
    centre: float = 0.0
    spread: float = 1.0

    def raw(self, values: Floats) -> Floats:
        """Transform before centring and scaling."""
        if not self.logarithmic:
            return values
        return np.log(np.maximum(values - self.origin, 1e-300))

    def apply(self, values: Floats) -> Floats:
        """Transform values of the objective."""
        return (self.raw(values) - self.centre) / self.spread

    def invert(self, transformed: Floats) -> Floats:
        """Return values of the objective."""
        scaled = transformed * self.spread + self.centre
        return self.origin + np.exp(np.minimum(scaled, 700.0)) if self.logarithmic else scaled

    def log_jacobian(self, values: Floats) -> float:
        """Return the logarithm of the derivative's product over all measurements."""
        slope = -len(values) * math.log(self.spread)
        return slope - float(self.raw(values).sum()) if self.logarithmic else slope


def _transformations(values: Floats) -> Iterator[Transformation]:
    """List the transformations worth a try: none, the logarithm, logarithms that stretch the good end.

    The last ones suit errors with a long bad tail; the logarithm suits latency over decades.
    """
    low, high = float(values.min()), float(values.max())
    spread = float(np.subtract(*np.percentile(values, [75, 25]))) or high - low
    candidates = [Transformation(logarithmic=False, origin=0.0)]
    if low > 0 and high > 1.5 * low:
        candidates.append(Transformation(logarithmic=True, origin=0.0))
    candidates += [Transformation(logarithmic=True, origin=low - shift * spread) for shift in _SHIFTS]
    for candidate in candidates:
        raw = candidate.raw(values)
        yield Transformation(
            candidate.logarithmic, candidate.origin, float(raw.mean()), float(raw.std()) or 1.0
        )


@dataclass(frozen=True)
class Kernel:
    """The covariance's parameters.

    Attributes:
        weights: One per group of columns.
        smooth: Variance of the part with interactions.
        linear: Variance of the additive part.
        noise: Variance of the measurements' noise.
    """

    weights: Floats
    smooth: float
    linear: float
    noise: float

    def between(self, left: Floats, right: Floats, groups: tuple[int, ...]) -> Floats:
        """Return the covariance of all pairs, without the noise."""
        scale = np.sqrt(self.weights[list(groups)])
        squared = squared_distances(left * scale, right * scale)
        count = len(self.weights)
        covariance: Floats = self.smooth * np.exp(-squared) + self.linear / count * (left @ right.T)
        return covariance

    def variance(self, rows: Floats) -> Floats:
        """Return each candidate's variance, without the noise."""
        variances: Floats = self.smooth + self.linear / len(self.weights) * np.einsum("ij,ij->i", rows, rows)
        return variances


def squared_distances(left: Floats, right: Floats) -> Floats:
    """Return the squared distance of every row of one matrix to every row of another one."""
    squared: Floats = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2.0 * (left @ right.T)
    return np.maximum(squared, 0.0)


@dataclass(frozen=True)
class Model:
    """How one objective behaves, before any single measurement is taken at its word.

    Attributes:
        transformation: From the objective's values to those that the process models.
        kernel: The covariance.
        groups: Group of each column.
    """

    transformation: Transformation
    kernel: Kernel
    groups: tuple[int, ...]

    @staticmethod
    def of(rows: Floats, values: Floats, groups: tuple[int, ...]) -> Model:
        """Choose transformation and covariance for measurements of one objective.

        The result is remembered by content: the same measurements are fitted once per process.

        Args:
            rows: Features of the measured candidates.
            values: What was measured; smaller is better.
            groups: Group of each column.
        """
        return _fit(np.ascontiguousarray(rows).tobytes(), np.ascontiguousarray(values).tobytes(), groups)

    def condition(self, rows: Floats, values: Floats, pending: Floats) -> Surrogate:
        """Condition the process on measurements, and on pending candidates as if they met expectations.

        A pending candidate with its expected value changes no mean; it only takes the uncertainty around it
        away (Ginsbourger et al., "Kriging is well-suited to parallelize optimization", 2010).
        """
        offset = rows.mean(0)
        every = np.vstack([rows, pending]) - offset
        covariance = self.kernel.between(every, every, self.groups)
        covariance[np.diag_indices_from(covariance)] += self.kernel.noise
        count = len(rows)
        inverse = _inverse(covariance)
        own = inverse if not len(pending) else _inverse(covariance[:count, :count])
        return Surrogate(self, every, inverse, own @ self.transformation.apply(values), offset)


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process conditioned on what is known.

    Attributes:
        model: The process before that.
        rows: Features, centred: those measured, then those pending.
        inverse: Inverse covariance of ``rows``, noise included.
        loadings: For the measured rows, inverse covariance times transformed values.
        offset: What was subtracted from the features, so that the additive part has mean zero.
    """

    model: Model
    rows: Floats
    inverse: Floats
    loadings: Floats
    offset: Floats

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the *transformed* objective, noise left out."""
        kernel, centred = self.model.kernel, rows - self.offset
        covariance = kernel.between(centred, self.rows, self.model.groups)
        mean = covariance[:, : len(self.loadings)] @ self.loadings
        explained = np.einsum("ij,ij->i", covariance @ self.inverse, covariance)
        return mean, np.sqrt(np.maximum(kernel.variance(centred) - explained, 1e-12))

    def expect(self, rows: Floats) -> Floats:
        """Return the median of the objective, in its own unit."""
        return self.model.transformation.invert(self.predict(rows)[0])


def _inverse(covariance: Floats) -> Floats:
    return np.asarray(np.linalg.inv(covariance), dtype=np.float64)


@lru_cache(maxsize=64)
def _fit(row_bytes: bytes, value_bytes: bytes, groups: tuple[int, ...]) -> Model:
    rows = np.frombuffer(row_bytes).reshape(-1, len(groups))
    values = np.frombuffer(value_bytes)
    if float(values.max()) - float(values.min()) <= 1e-12 * max(1.0, abs(float(values.max()))):
        flat = Transformation(logarithmic=False, origin=0.0, centre=float(values.mean()))
        return Model(flat, Kernel(np.full(max(groups) + 1, 0.1), 1e-3, 1e-3, 1e-3), groups)
    centred = rows - rows.mean(0)
    transformation = _choose_transformation(centred, values, groups)
    return Model(transformation, _maximise(centred, transformation.apply(values), groups), groups)


def _choose_transformation(rows: Floats, values: Floats, groups: tuple[int, ...]) -> Transformation:
    """Choose by the likelihood of the raw values, with few coarse covariances whose amplitude is optimal."""
    count, parameters = len(values), max(groups) + 1
    offers = list(_transformations(values))
    targets = np.column_stack([offer.apply(values) for offer in offers])
    jacobians = np.array([offer.log_jacobian(values) for offer in offers])
    best = np.full(len(offers), -np.inf)
    for weight in (0.3, 1.0, 4.0):
        shape = Kernel(np.full(parameters, weight / parameters), 1.0, 1.0, 0.0).between(rows, rows, groups)
        for noise in (1e-4, 1e-2, 0.3):
            factor = np.linalg.cholesky(shape + noise * np.eye(count))
            whitened = np.linalg.solve(factor, targets)
            amplitude = np.maximum((whitened**2).mean(0), 1e-12)
            evidence = -0.5 * count * np.log(amplitude) - float(np.log(np.diag(factor)).sum())
            best = np.maximum(best, evidence + jacobians)
    return offers[int(np.argmax(best))]


def _maximise(rows: Floats, targets: Floats, groups: tuple[int, ...]) -> Kernel:
    """Maximise the posterior density of the covariance's parameters by resilient back-propagation.

    The method (Riedmiller and Braun, 1993) uses the gradient's signs alone: it needs no line search.
    """
    parameters = max(groups) + 1
    distances = np.stack(
        [
            squared_distances(rows[:, columns], rows[:, columns])
            for columns in (
                [column for column, group in enumerate(groups) if group == parameter]
                for parameter in range(parameters)
            )
        ]
    ).reshape(parameters, -1)
    products = rows @ rows.T / parameters
    centre = np.concatenate([np.full(parameters, math.log(2.0 / parameters)), [0.0, 0.0, math.log(1e-3)]])
    width = np.concatenate([np.full(parameters, 1.5), [2.0, 2.0, 3.0]])
    low = np.concatenate([np.full(parameters + 2, _LOG_RANGE[0]), [math.log(_NOISE_RANGE[0])]])
    high = np.concatenate([np.full(parameters + 2, _LOG_RANGE[1]), [math.log(_NOISE_RANGE[1])]])
    point, step = centre.copy(), np.full(len(centre), 0.3)
    before = np.zeros(len(centre))
    best, best_point = -np.inf, point
    for _ in range(_STEPS):
        density, gradient = _log_density(point, distances, products, targets)
        density -= 0.5 * float((((point - centre) / width) ** 2).sum())
        gradient = gradient - (point - centre) / width**2
        if density > best:
            best, best_point = density, point
        agreement = np.sign(gradient * before)
        step = np.clip(step * np.where(agreement > 0, 1.3, np.where(agreement < 0, 0.5, 1.0)), 1e-3, 1.0)
        before = np.where(agreement < 0, 0.0, gradient)
        point = np.clip(point + np.sign(before) * step, low, high)
    return Kernel(
        np.exp(best_point[:parameters]), *(float(value) for value in np.exp(best_point[parameters:]))
    )


def _log_density(point: Floats, distances: Floats, products: Floats, targets: Floats) -> tuple[float, Floats]:
    """Return the log marginal likelihood and its gradient in the logarithms of the parameters."""
    count = len(targets)
    weights = np.exp(point[:-3])
    smooth, linear, noise = np.exp(point[-3:])
    interactions = smooth * np.exp(-(weights @ distances)).reshape(count, count)
    additive = linear * products
    covariance = interactions + additive
    covariance[np.diag_indices(count)] += noise
    factor = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(covariance)
    loadings = inverse @ targets
    density = -0.5 * float(targets @ loadings) - float(np.log(np.diag(factor)).sum())
    slope = 0.5 * (np.outer(loadings, loadings) - inverse)
    weighted = slope * interactions
    gradient = np.empty(len(point))
    gradient[:-3] = -weights * (distances @ weighted.ravel())
    gradient[-3] = float(weighted.sum())
    gradient[-2] = float((slope * additive).sum())
    gradient[-1] = noise * float(np.trace(slope))
    return density, gradient
