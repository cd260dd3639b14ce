"""A sweep: what is scaled, under which budgets, by which objectives; and what has been measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from nascale.contract.architecture import Architecture
from nascale.search.history import TrialState
from nascale.search.problem import Objective

_DECIMALS: Final = 4


class Axis(StrEnum):
    """What a coefficient scales."""

    DEPTH = "Depth"
    WIDTH = "Width"
    RESOLUTION = "Resolution"


class Purpose(StrEnum):
    """What a trial of a sweep is for."""

    REFERENCE = "Reference"
    """Measures the unscaled base beside the candidates of a measuring pod: shows drift."""
    LATENCY = "Latency"
    """Measures a scaled network, trains nothing."""
    TRAINING = "Training"
    """Trains a candidate vector's network at one rung."""
    VERIFICATION = "Verification"
    """Trains a chosen vector's network at a member, at the last rung."""
    BASELINE = "Baseline"
    """Trains a baseline's network, at the last rung (AccuracyFLOPs: at any)."""
    CONFIRMATION = "Confirmation"
    """Trains a network that is too close to another one to call, with a further seed, at the last rung."""


MEASURE_ONLY = frozenset({Purpose.REFERENCE, Purpose.LATENCY})


@dataclass(frozen=True, order=True)
class Multipliers:
    """Factors of the base's depth, width and resolution, each at least 1, with four decimals."""

    depth: float
    width: float
    resolution: float


UNSCALED = Multipliers(1.0, 1.0, 1.0)


@dataclass(frozen=True, order=True)
class Vector:
    """Coefficients per unit of the compound coefficient: alpha (depth), beta (width), gamma (resolution)."""

    depth: float
    width: float
    resolution: float

    def at(self, coefficient: float) -> Multipliers:
        """Return alpha^phi, beta^phi, gamma^phi with four decimals (EfficientNet, section 3.3).

        Args:
            coefficient: The compound coefficient phi, 0 or more.
        """
        return Multipliers(
            round(self.depth**coefficient, _DECIMALS),
            round(self.width**coefficient, _DECIMALS),
            round(self.resolution**coefficient, _DECIMALS),
        )


@dataclass(frozen=True)
class ScaledParameter:
    """A whole number of the user's own model."""

    name: str
    value: int
    axis: Axis
    multiple_of: int = 1


Base: TypeAlias = Architecture | tuple[ScaledParameter, ...]
"""What is scaled: a network, or the sizes of the user's own model."""


@dataclass(frozen=True)
class Member:
    """A wanted member: a budget in seconds, or as a multiple of the base's latency."""

    name: str
    seconds: float | None = None
    multiple: float | None = None


@dataclass(frozen=True)
class Range:
    """Smallest and largest factor."""

    low: float
    high: float


@dataclass(frozen=True)
class ScalingProblem:
    """A sweep, complete but for what has been measured.

    Attributes:
        base: The base network, or the sizes of the user's own model.
        per_level: Whether each member has a vector of its own (mode PerLevel).
        depth: Range of alpha.
        width: Range of beta.
        resolution: Range of gamma.
        members: From small to large.
        objectives: All of them.
        latency_metric: Metric that the members' budgets bound.
        quality: Objective that decides at equal latency.
        baselines: Names (``Baseline`` of the API).
        rungs: Number of fidelities.
        reduction_factor: One in so many networks of a rung is promoted to the next.
        seed: Of all random choices.
        vectors: How many are measured, the known ones included.
        trained_vectors: How many are trained at the smallest member.
        finalists: How many reach the last rung and are verified at every member.
        repeats: Trainings per network at the last rung.
        most_repeats: Most trainings there of a network that is too close to another one to call, at least
            ``repeats``; as many: none is trained further.
        tolerance: Accepted relative excess over a budget.
        drift: Relative change of the reference from which a pod's measurements are repeated.
        max_remeasurements: Repetitions of one pod's measurements.
        per_pod: Most candidates of a measuring pod, the reference included (at least 2).
        largest_side: Largest side of an input that the data can give, pixels; ``None``: not known.
        known: Trainings taken over from another sweep, values by (network, rung, repeat).
    """

    base: Base
    members: tuple[Member, ...]
    objectives: tuple[Objective, ...]
    latency_metric: str
    quality: Objective
    per_level: bool = False
    depth: Range = Range(1.0, 1.5)
    width: Range = Range(1.0, 1.4)
    resolution: Range = Range(1.0, 1.3)
    baselines: tuple[str, ...] = ("EfficientNet",)
    rungs: int = 1
    reduction_factor: int = 3
    seed: int = 0
    vectors: int = 12
    trained_vectors: int = 6
    finalists: int = 2
    repeats: int = 1
    most_repeats: int = 1
    tolerance: float = 0.05
    drift: float = 0.03
    max_remeasurements: int = 2
    per_pod: int = 8
    largest_side: int | None = None
    known: Mapping[tuple[str, int, int], Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScalingRecord:
    """One trial of a sweep.

    Attributes:
        index: Position in the sweep; unique, in the order of creation.
        lead: Index of the first trial of its pod.
        purpose: What it is for.
        multipliers: What was scaled by how much.
        rung: Fidelity; 0 for measure-only trials.
        repeat: Which of several trainings of a network at the last rung, from 0.
        remeasures: Index of the trial whose measurement this one repeats because of drift; ``None``: of none.
        state: Its course.
        values: Finite values by metric name; complete for SUCCEEDED.
        member: Member that it was asked for; empty: for none in particular.
        origin: What proposed it (a vector's name, a baseline's).
        device_seconds: What it has cost so far.
    """

    index: int
    lead: int
    purpose: Purpose
    multipliers: Multipliers
    state: TrialState
    rung: int = 0
    repeat: int = 0
    remeasures: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    member: str = ""
    origin: str = ""
    device_seconds: float = 0.0


@dataclass(frozen=True)
class ScalingProposal:
    """A trial that the sweep asks for; attributes as in ``ScalingRecord``."""

    purpose: Purpose
    multipliers: Multipliers
    rung: int = 0
    repeat: int = 0
    remeasures: int | None = None
    member: str = ""
    origin: str = ""
