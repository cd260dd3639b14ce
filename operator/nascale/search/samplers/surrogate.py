"""What an objective probably is where it was not measured: a Gaussian process on encoded candidates.

The covariance of two candidates x, y is

    linear * <x, y> / parameters  +  smooth * rho(sum_g weight_g * |x_g - y_g|^2)  +  noise * [x is y]

with one weight per parameter g. The first term learns additive objectives (FLOPs, parameters, model size)
exactly from little more measurements than there are columns; the second learns interactions, and its weights
which parameters matter. Its correlation rho is the Gaussian, or Matern's of order 3/2 where that is
likelier. Amplitudes, weights and noise maximise the posterior density given the measurements
(Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 5.4), with a prior that
scales with the number of parameters (Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High
Dimensions", ICML 2024). Before that, rho and a transformation of the measurements are chosen by likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_STEPS = 40
"""Steps of the optimiser; more change no candidate's rank any longer."""
_NOISE_RANGE = (1e-6, 1.0)
_LOG_RANGE = (-9.0, 6.0)
_COARSE_WEIGHTS = (0.3, 1.0, 4.0)
_COARSE_NOISE = (1e-4, 1e-2, 0.3)
_WIDTHS = (1.0, 0.1)
"""Widths of the logarithmic tail, in interquartile ranges."""
_DECADES = 1.5
"""Ratio of the largest to the smallest value below which a logarithm is as good as straight."""


class Shape(StrEnum):
    """Kinds of transformations."""

    LINEAR = "linear"
    LOGARITHM = "logarithm"
    LOGARITHMIC_TAIL = "logarithmic tail"


@dataclass(frozen=True)
class Transformation:
    """A rising function that makes an objective easier to learn, centred and scaled.

    None of them puts a floor close below the best measurement: a model that holds improvement impossible
    would never look for it.

    Attributes:
        shape: ``value``, ``log(value)``, or ``log(1 + (value - origin) / width)`` with its tangent for values
            below the origin.
        origin: Where the tail begins.
        width: How soon the logarithm bends.
        centre: Mean of the measurements, transformed.
        spread: Their standard deviation.
    """

    shape: Shape
    origin: float = 0.0
    width: float = 1.0
    centre: float = 0.0
    spread: float = 1.0

    @staticmethod
    def through(values: Floats, shape: Shape, width: float = 1.0) -> Transformation:
        """Make a transformation that centres and scales these values."""
        plain = Transformation(shape, float(values.min()), width)
        bent = plain.bend(values)
        return replace(plain, centre=float(bent.mean()), spread=float(bent.std()) or 1.0)

    def bend(self, values: Floats) -> Floats:
        """Transform without centring and scaling."""
        if self.shape is Shape.LINEAR:
            return values
        if self.shape is Shape.LOGARITHM:
            return np.log(np.maximum(values, 1e-300))
        place = (values - self.origin) / self.width
        return np.where(place < 0, place, np.log1p(np.maximum(place, 0.0)))

    def apply(self, values: Floats) -> Floats:
        """Transform values of the objective."""
        return (self.bend(values) - self.centre) / self.spread

    def invert(self, transformed: Floats) -> Floats:
        """Return values of the objective."""
        bent = transformed * self.spread + self.centre
        if self.shape is Shape.LINEAR:
            return bent
        if self.shape is Shape.LOGARITHM:
            return np.exp(np.minimum(bent, 700.0))
        return self.origin + self.width * np.where(bent < 0, bent, np.expm1(np.clip(bent, 0.0, 700.0)))

    def log_slope(self, values: Floats) -> float:
        """Return the sum of the logarithms of the derivative at values that are not below the origin."""
        scaled = -len(values) * math.log(self.spread)
        if self.shape is Shape.LINEAR:
            return scaled
        if self.shape is Shape.LOGARITHM:
            return scaled - float(np.log(values).sum())
        return scaled - float(np.log(self.width + values - self.origin).sum())


def _transformations(values: Floats) -> Iterator[Transformation]:
    """List the transformations worth a try.

    The logarithm suits latency over decades; the logarithmic tails suit errors with a long bad end.
    """
    low, high = float(values.min()), float(values.max())
    yield Transformation.through(values, Shape.LINEAR)
    if low > 0 and high > _DECADES * low:
        yield Transformation.through(values, Shape.LOGARITHM)
    spread = float(np.subtract(*np.percentile(values, [75, 25]))) or high - low
    for width in _WIDTHS:
        yield Transformation.through(values, Shape.LOGARITHMIC_TAIL, width * spread)


class Roughness(StrEnum):
    """How a correlation falls with the squared distance: kinks are no surprise, or everything is smooth."""

    MATERN = "Matern 3/2"
    GAUSSIAN = "Gaussian"

    def correlation(self, squared: Floats) -> Floats:
        """Return the correlation at squared distances."""
        if self is Roughness.GAUSSIAN:
            return np.exp(-squared)
        distance = np.sqrt(3.0 * squared)
        return (1.0 + distance) * np.exp(-distance)

    def decay(self, squared: Floats) -> Floats:
        """Return the correlation's negative derivative in the squared distance."""
        return np.exp(-squared) if self is Roughness.GAUSSIAN else 1.5 * np.exp(-np.sqrt(3.0 * squared))


@dataclass(frozen=True)
class Kernel:
    """The covariance's parameters.

    Attributes:
        weights: One per group of columns.
        smooth: Variance of the part with interactions.
        linear: Variance of the additive part.
        noise: Variance of the measurements' noise.
        roughness: Of the part with interactions.
    """

    weights: Floats
    smooth: float
    linear: float
    noise: float
    roughness: Roughness

    def between(self, left: Floats, right: Floats, groups: tuple[int, ...]) -> Floats:
        """Return the covariance of all pairs, without the noise."""
        scale = np.sqrt(self.weights[list(groups)])
        squared = squared_distances(left * scale, right * scale)
        count = len(self.weights)
        covariance: Floats = self.smooth * self.roughness.correlation(squared) + self.linear / count * (
            left @ right.T
        )
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
        flat = Transformation(Shape.LINEAR, centre=float(values.mean()))
        weights = np.full(max(groups) + 1, 0.1)
        return Model(flat, Kernel(weights, 1e-3, 1e-3, 1e-3, Roughness.MATERN), groups)
    centred = rows - rows.mean(0)
    transformation, roughness = _choose_forms(centred, values, groups)
    kernel = _maximise(centred, transformation.apply(values), groups, roughness)
    return Model(transformation, kernel, groups)


def _choose_forms(rows: Floats, values: Floats, groups: tuple[int, ...]) -> tuple[Transformation, Roughness]:
    """Choose by the likelihood of the values, with a few coarse covariances whose amplitude is optimal."""
    count, parameters = len(values), max(groups) + 1
    offers = list(_transformations(values))
    targets = np.column_stack([offer.apply(values) for offer in offers])
    slopes = np.array([offer.log_slope(values) for offer in offers])
    best, chosen = -math.inf, (offers[0], Roughness.MATERN)
    for roughness, weight in product(Roughness, _COARSE_WEIGHTS):
        kernel = Kernel(np.full(parameters, weight / parameters), 1.0, 1.0, 0.0, roughness)
        covariance = kernel.between(rows, rows, groups)
        for noise in _COARSE_NOISE:
            factor = np.linalg.cholesky(covariance + noise * np.eye(count))
            amplitude = np.maximum((np.linalg.solve(factor, targets) ** 2).mean(0), 1e-12)
            evidence = slopes - 0.5 * count * np.log(amplitude) - float(np.log(np.diag(factor)).sum())
            place = int(np.argmax(evidence))
            if evidence[place] > best:
                best, chosen = float(evidence[place]), (offers[place], roughness)
    return chosen


def _maximise(rows: Floats, targets: Floats, groups: tuple[int, ...], roughness: Roughness) -> Kernel:
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
        density, gradient = _log_density(point, distances, products, targets, roughness)
        density -= 0.5 * float((((point - centre) / width) ** 2).sum())
        gradient = gradient - (point - centre) / width**2
        if density > best:
            best, best_point = density, point
        agreement = np.sign(gradient * before)
        step = np.clip(step * np.where(agreement > 0, 1.3, np.where(agreement < 0, 0.5, 1.0)), 1e-3, 1.0)
        before = np.where(agreement < 0, 0.0, gradient)
        point = np.clip(point + np.sign(before) * step, low, high)
    smooth, linear, noise = (float(value) for value in np.exp(best_point[parameters:]))
    return Kernel(np.exp(best_point[:parameters]), smooth, linear, noise, roughness)


def _log_density(
    point: Floats, distances: Floats, products: Floats, targets: Floats, roughness: Roughness
) -> tuple[float, Floats]:
    """Return the log marginal likelihood and its gradient in the logarithms of the parameters."""
    count = len(targets)
    weights = np.exp(point[:-3])
    smooth, linear, noise = np.exp(point[-3:])
    squared = (weights @ distances).reshape(count, count)
    interactions = smooth * roughness.correlation(squared)
    additive = linear * products
    covariance = interactions + additive
    covariance[np.diag_indices(count)] += noise
    factor = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(covariance)
    loadings = inverse @ targets
    density = -0.5 * float(targets @ loadings) - float(np.log(np.diag(factor)).sum())
    pull = 0.5 * (np.outer(loadings, loadings) - inverse)
    weighted = pull * smooth * roughness.decay(squared)
    gradient = np.empty(len(point))
    gradient[:-3] = -weights * (distances @ weighted.ravel())
    gradient[-3] = float((pull * interactions).sum())
    gradient[-2] = float((pull * additive).sum())
    gradient[-1] = noise * float(np.trace(pull))
    return density, gradient
