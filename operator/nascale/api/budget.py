"""``spec.algorithm``, ``spec.budget``, ``spec.metricsCollection``: how it is searched and when to stop."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from nascale.api.resource import ApiModel
from nascale.api.rules import IMMUTABLE, Rule, guarded, number
from nascale.contract.work_order import MAX_CANDIDATES_PER_ORDER

DEFAULT_MAX_FAILED_TRIALS = 3
DEFAULT_SWEEP_TRIALS_PER_POD = 8
MAX_TRIALS = 100_000
_MAX_TRIALS = number("self.maxTrials", largest=MAX_TRIALS)


class Algorithm(StrEnum):
    """The samplers."""

    ADAPTIVE = "Adaptive"
    """Evolution on a Pareto archive, screened by a cheap surrogate: nascale's own."""
    RANDOM = "Random"
    """Uniform draws."""
    REGULARIZED_EVOLUTION = "RegularizedEvolution"
    """Evolution with ageing (Real et al., 2019)."""
    TPE = "TPE"
    """Optuna's multi-objective tree-structured Parzen estimator."""
    NSGA2 = "NSGAII"
    """Optuna's NSGA-II."""
    NSGA3 = "NSGAIII"
    """Optuna's NSGA-III."""
    GP = "GP"
    """Optuna's Gaussian process; the operator's image needs the extra gp."""


class AlgorithmSetting(ApiModel):
    """A setting of the chosen sampler; docs/samplers.md lists them."""

    name: str = Field(pattern=r"^[a-z][a-zA-Z0-9]{0,62}$", max_length=63)
    """Name of the setting."""
    value: str = Field(max_length=64)
    """Value of the setting, as text."""


class SearchAlgorithm(ApiModel):
    """How the next candidates are chosen."""

    name: Algorithm = Algorithm.ADAPTIVE
    seed: int = Field(default=0, ge=0, le=2_147_483_647)
    """Seed of all random choices: the same seed and the same measurements give the same candidates."""
    settings: tuple[AlgorithmSetting, ...] = Field(
        default=(), max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Settings of the sampler; docs/samplers.md lists them."""


def _at_most_max_trials(name: str, *, largest: int, default: int = 0) -> Rule:
    """Make the rule that a count is at most maxTrials.

    A default may exceed a very small maxTrials: it was not the user's choice.
    """
    return Rule(
        cel=(f"self.{name} <= {default} || " if default else "") + f"self.{name} <= self.maxTrials",
        message="must be at most maxTrials",
        detail=f"""'must be at most maxTrials (' + {_MAX_TRIALS} + '), not '
            + {number(f"self.{name}", largest=largest)}""",
        path=f".{name}",
    )


_PARALLEL_TRIALS = _at_most_max_trials("parallelTrials", largest=1000)
_FAILED_TRIALS = _at_most_max_trials("maxFailedTrials", largest=MAX_TRIALS, default=DEFAULT_MAX_FAILED_TRIALS)


class Budget(ApiModel):
    """When to stop, and how much at once."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _PARALLEL_TRIALS,
        _at_most_max_trials("trialsPerPod", largest=MAX_CANDIDATES_PER_ORDER),
        _FAILED_TRIALS,
    )

    max_trials: int = Field(ge=1, le=MAX_TRIALS)
    """Trials in all, those of every rung and outcome counted. May change while it runs."""
    parallel_trials: int = Field(default=1, ge=1, le=1000)
    """Pods of trials at the same time, at most maxTrials. May change while it runs."""
    max_failed_trials: int = Field(default=DEFAULT_MAX_FAILED_TRIALS, ge=0, le=MAX_TRIALS)
    """Trials that may fail by their own error, at most maxTrials; one more and the search or sweep
    fails. May change while it runs."""
    trials_per_pod: int = Field(
        default=1, ge=1, le=MAX_CANDIDATES_PER_ORDER, json_schema_extra=guarded(IMMUTABLE)
    )
    """Candidates that share one pod, one after the other."""
    trial_retries: int = Field(default=1, ge=0, le=10, json_schema_extra=guarded(IMMUTABLE))
    """Times that a trial that failed by its own error is run again."""
    trial_deadline_seconds: int = Field(default=3600, ge=1, le=604_800, json_schema_extra=guarded(IMMUTABLE))
    """Longest run of one pod, seconds."""
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """Longest run of the whole search or sweep, seconds, time in suspension not counted; absent: no limit.
    May change while it runs."""
    device_seconds: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Most seconds that all pods may hold their devices, in sum; absent: no limit. May change while it
    runs."""


class SweepBudget(Budget):
    """When to stop, and how much at once."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _PARALLEL_TRIALS,
        _at_most_max_trials(
            "trialsPerPod", largest=MAX_CANDIDATES_PER_ORDER, default=DEFAULT_SWEEP_TRIALS_PER_POD
        ),
        _FAILED_TRIALS,
    )

    trials_per_pod: int = Field(
        default=DEFAULT_SWEEP_TRIALS_PER_POD,
        ge=2,
        le=MAX_CANDIDATES_PER_ORDER,
        json_schema_extra=guarded(IMMUTABLE),
    )
    """Networks whose latency one pod measures, one after the other, the unscaled base among them; each
    training has a pod of its own. A pod takes fewer where its report has no room for so many; the event
    TrialsPerPodCapped says how many."""


class MetricsCollection(ApiModel):
    """How values are fetched from Prometheus."""

    max_linger_seconds: int = Field(default=20, ge=0, le=600)
    """Longest time that a finished trial, or a training at its end, waits for Prometheus to scrape its final
    values, seconds."""
    timeout_seconds: int = Field(default=30, ge=0, le=3600)
    """Longest time after a pod's end in which the operator asks Prometheus, seconds, before it takes the
    report's value or, where there is none, ends the trial as MetricsUnavailable."""
