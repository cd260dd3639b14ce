"""How long an optimizer step takes, predicted from few measurements, with its uncertainty.

A step is a fixed overhead (launches, Python, the loader's latency), work that grows with what is asked of the
device, and what several processes tell each other; the largest one rules, as in a roofline:

    log t = log(exp(o) + exp(w) + exp(c)) + g + noise
    o = accumulation, depth, effects of the hardware-level settings
    w = batch, resolution, depth, own parameters, parts that a step is taken in, effects of the hardware-level
        settings, of pairs of them and of each with the size of the work
    c = bytes of a ring, processes, depth, hook, FSDP, one pod or several; nothing for a process alone

All coefficients have normal priors that say what is usual (work is proportional to batch and pixels, say), so
that a handful of measurements suffice; g is a Gaussian process for what this form misses. The mode of the
posterior is found by Gauss-Newton steps, uncertainty is that of the model linearised there (Laplace's
approximation; Rasmussen and Williams, *Gaussian Processes for Machine Learning*, sections 2.7 and 3.4). Sizes
of g and of the noise maximise the marginal likelihood over a few values; which noise is likely is told by how
steady the measurements were.

What was measured is predicted by the same posterior: as it was measured where there is little noise, else
with what all other measurements say of it. A measurement that is so much steadier than the others that luck
can't be why has less noise than they have: where a GPU is busy its steps are even, where the host's launches
are what it waits for they are not, and one profile holds both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

import numpy as np

from nascale.contract.stage_settings import HardwareSettings
from nascale.progressive.generation.features import Features, Floats, Rows
from nascale.progressive.generation.problem import Combination, GenerationProblem, ProfileRecord

_MISSES: Final = (0.02, 0.05, 0.12, 0.25)
"""Standard deviations of g that are tried, in log seconds."""
_NOISES: Final = (0.005, 0.015, 0.04, 0.1)
"""Standard deviations of a measurement that are tried, in log seconds."""
_LIKELY_MISS: Final = 0.06
_LIKELY_NOISE: Final = 0.015
"""Of measurements that were steady."""
_NOISE_OF_SPREAD: Final = 1.0
"""Noise that is likely, over the spread of a measurement's windows. Were windows independent, a third of it
would be; but what slows a shared device down lasts longer than a window."""
_STEADIER: Final = 40.0
"""Usual spread over a measurement's own from which on it is not luck: three windows as noisy as the others'
agree that well once in 2,200 times. (Of 192 measurements on a shared processor one came to 38, one to 25.)"""
_LEAST_SPREAD: Final = 1e-4
"""Windows of few steps can agree to the clock's last digit."""
_STEPS: Final = 25
_PARTS: Final = 32
"""Most fits with something left out."""


@dataclass(frozen=True)
class Belief:
    """What is thought of several combinations' steps.

    Attributes:
        mean: Log of seconds.
        covariance: Of these logs.
    """

    mean: Floats
    covariance: Floats

    @property
    def deviation(self) -> Floats:
        """Standard deviation of each log: about its relative error."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


@dataclass(frozen=True)
class PredictionError:
    """How far predictions of measured combinations are off, each made without its own measurement.

    Attributes:
        median: Share of the measured seconds, 0 or more.
        worst: The largest.
        count: Combinations that were left out in turn.
    """

    median: float
    worst: float
    count: int


class StepTimeModel:
    """Step times, learnt from measurements; the same set of records in any order gives the same model.

    Args:
        problem: What is asked for.
        hardware: Hardware-level settings that may occur, the base's first.
        records: Measurements; those that did not succeed are left out.

    Raises:
        ValueError: none has succeeded.
    """

    def __init__(
        self,
        problem: GenerationProblem,
        hardware: Sequence[HardwareSettings],
        records: Iterable[ProfileRecord],
    ) -> None:
        self._features = Features(problem, hardware)
        records = list(records)
        usual_spread = _usual_spread(records)
        self._seen = _merged(records, usual_spread)
        if not self._seen:
            raise ValueError("records: at least one must have succeeded")
        self._combinations = [own.combination for own in self._seen]
        self._places = {own.key: place for place, own in enumerate(self._combinations)}
        self._logs = np.array([own.log for own in self._seen])
        self._weights = np.array([own.weight for own in self._seen])
        full = self._places.get(problem.full.key)
        self._rows = self._features.rows(self._combinations)
        prior = self._features.prior[:, 0]
        offsets = self._logs - self._rows.mean(prior)[0]
        self._level = float(offsets[full]) if full is not None else float(np.median(offsets))
        seen = self._logs - self._level, self._weights
        self._fit = _best_fit(self._features.prior, self._rows, seen, _likely_noise(usual_spread))

    @property
    def noise(self) -> float:
        """Standard deviation of a measurement's log."""
        return self._fit.noise

    def measured(self, combination: Combination) -> bool:
        """Say whether a combination was measured."""
        return combination.key in self._places

    def believe(self, chosen: Sequence[Combination]) -> Belief:
        """Predict several combinations together."""
        mean, covariance = self._fit.predict(self._features.rows(chosen))
        return Belief(mean + self._level, covariance)

    def seconds(self, combination: Combination) -> float:
        """Return the expected seconds of a step (the median of what is believed)."""
        return float(np.exp(self.believe([combination]).mean[0]))

    def held_out_error(self) -> PredictionError | None:
        """Leave measured combinations out in turn and predict them; ``None`` with fewer than three.

        One at a time, of many a few at a time. The sizes of g and noise are those of the whole fit;
        everything else is fitted anew.
        """
        count = len(self._combinations)
        if count < 3:  # noqa: PLR2004 - two would be predicted from one
            return None
        errors: list[float] = []
        parts = min(count, _PARTS)
        for part in range(parts):
            left_out = list(range(part, count, parts))
            kept = [place for place in range(count) if place % parts != part]
            rows = self._features.rows([self._combinations[place] for place in kept])
            seen = self._logs[kept] - self._level, self._weights[kept]
            fit = _Fit(self._features.prior, rows, seen, self._fit.sizes)
            mean, _ = fit.predict(self._features.rows([self._combinations[place] for place in left_out]))
            errors += np.abs(np.expm1(mean + self._level - self._logs[left_out])).tolist()
        return PredictionError(median(errors), max(errors), count)


def prior_covariance(
    problem: GenerationProblem, hardware: Sequence[HardwareSettings], chosen: Sequence[Combination]
) -> Floats:
    """Return the covariance of log seconds before anything is measured."""
    features = Features(problem, hardware)
    rows = features.rows(chosen)
    _, slopes = rows.mean(features.prior[:, 0])
    found: Floats = (slopes * features.prior[:, 1] ** 2) @ slopes.T + _LIKELY_MISS**2 * rows.covariance(rows)
    return found


@dataclass(frozen=True)
class Sizes:
    """Standard deviations of g and of the noise, in log seconds."""

    miss: float
    noise: float


class _Fit:
    """The posterior, linearised at its mode, for given sizes of g and of the noise."""

    def __init__(self, prior: Floats, rows: Rows, seen: tuple[Floats, Floats], sizes: Sizes) -> None:
        logs, weights = seen
        self.sizes = sizes
        self.miss, self.noise = miss, noise = sizes.miss, sizes.noise
        self._rows, self._prior = rows, prior
        self._residual_covariance = miss**2 * rows.covariance(rows) + np.diag(noise**2 / weights)
        inverse = np.linalg.inv(self._residual_covariance)
        variances = prior[:, 1] ** 2

        def loss(theta: Floats) -> float:
            rest = logs - rows.mean(theta)[0]
            return float(rest @ inverse @ rest + ((theta - prior[:, 0]) ** 2 / variances).sum())

        theta, now = prior[:, 0].copy(), math.inf
        now = loss(theta)
        for _ in range(_STEPS):
            mean, slopes = rows.mean(theta)
            spread = (slopes * variances) @ slopes.T + self._residual_covariance
            target = logs - mean + slopes @ (theta - prior[:, 0])
            proposal = prior[:, 0] + variances * (slopes.T @ np.linalg.solve(spread, target))
            step, then = 1.0, loss(proposal)
            while then > now and step > 1e-3:  # noqa: PLR2004 - a thousandth of a Gauss-Newton step
                step /= 2
                then = loss(theta + step * (proposal - theta))
            if not then < now - 1e-9:
                break
            theta, now = theta + step * (proposal - theta), then
        self._theta = theta
        mean, slopes = rows.mean(theta)
        self._slopes = slopes
        self._spread = (slopes * variances) @ slopes.T + self._residual_covariance
        self._rest = inverse @ (logs - mean)
        target = logs - mean + slopes @ (theta - prior[:, 0])
        _, log_determinant = np.linalg.slogdet(self._spread)
        misfit = float(target @ np.linalg.solve(self._spread, target))
        self.evidence = -0.5 * (misfit + float(log_determinant))

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Return mean and covariance of the log seconds (less the level), noise left out."""
        mean, slopes = rows.mean(self._theta)
        across = self.miss**2 * rows.covariance(self._rows)
        mean = mean + across @ self._rest
        variances = self._prior[:, 1] ** 2
        joint = (slopes * variances) @ self._slopes.T + across
        own = (slopes * variances) @ slopes.T + self.miss**2 * rows.covariance(rows)
        return mean, own - joint @ np.linalg.solve(self._spread, joint.T)


def _usual_spread(records: Iterable[ProfileRecord]) -> float | None:
    """Return how steady the measurements were; ``None``: none tells."""
    spreads = [own.step_spread for own in records if own.measured and own.step_spread is not None]
    return median(spreads) if spreads else None


def _likely_noise(usual_spread: float | None) -> float:
    """Return the noise to expect."""
    return max(_LIKELY_NOISE, _NOISE_OF_SPREAD * (usual_spread or 0.0))


def _weight(own: ProfileRecord, usual_spread: float | None) -> float:
    """Return how many usual measurements this one counts for."""
    if own.step_spread is None or usual_spread is None:
        return 1.0
    steadier = usual_spread / max(own.step_spread, _LEAST_SPREAD)
    # Half of it: three windows tell their own spread hardly better than within a factor of two.
    return (steadier / 2) ** 2 if steadier > _STEADIER else 1.0


def _best_fit(prior: Floats, rows: Rows, seen: tuple[Floats, Floats], likely_noise: float) -> _Fit:
    """Choose the sizes of g and of the noise by the evidence, and by what is usual."""
    best: tuple[float, _Fit] | None = None
    for miss in _MISSES:
        for noise in _NOISES:
            fit = _Fit(prior, rows, seen, Sizes(miss, noise))
            usual = math.log(miss / _LIKELY_MISS) ** 2 + math.log(noise / likely_noise) ** 2
            density = fit.evidence - 0.5 * usual
            if best is None or density > best[0]:
                best = (density, fit)
    if best is None:
        raise ValueError("no size of g to choose from")
    return best[1]


@dataclass(frozen=True)
class _Seen:
    combination: Combination
    log: float
    weight: float


def _merged(records: Iterable[ProfileRecord], usual_spread: float | None) -> list[_Seen]:
    """Return each measured combination once, in a canonical order, with the weighted mean of its logs."""
    found: dict[str, list[ProfileRecord]] = {}
    for own in records:
        if own.measured:
            found.setdefault(own.combination.key, []).append(own)
    return [_seen(same, usual_spread) for _, same in sorted(found.items())]


def _seen(same: Sequence[ProfileRecord], usual_spread: float | None) -> _Seen:
    pairs = sorted((math.log(own.step_seconds), _weight(own, usual_spread)) for own in same)
    weights = [weight for _, weight in pairs]
    return _Seen(same[0].combination, fmean([log for log, _ in pairs], weights), math.fsum(weights))
