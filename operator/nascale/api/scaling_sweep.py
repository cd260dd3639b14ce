"""``ScalingSweep``: a base network in, latency-aware scaling coefficients and a family of networks out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from nascale.api.architecture_search import MetricValue, ParameterSetting, TrialCounts
from nascale.api.budget import Budget, MetricsCollection
from nascale.api.objectives import Objective
from nascale.api.pod_template import TrialTemplate
from nascale.api.resource import (
    MAX_GENERATION,
    MAX_SECONDS,
    ApiModel,
    Condition,
    DecimalText,
    DnsLabel,
    ObjectMeta,
    RatioText,
)
from nascale.api.training import Checkpoints, Fidelities, FidelityLevel, Measurement, Target, Training, TrainingData
from nascale.contract.architecture import Architecture

KIND = "ScalingSweep"
MAX_MEMBERS = 8


class Axis(StrEnum):
    """What a coefficient scales."""

    DEPTH = "Depth"
    """Layers."""
    WIDTH = "Width"
    """Channels, hidden units, heads."""
    RESOLUTION = "Resolution"
    """Side of the input, length of the sequence."""


class ScaledParameter(ApiModel):
    """A whole number of the user's own model that grows with one of the coefficients."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_.]{0,62}$", max_length=63)]
    """Name under which trials find the value in their work order."""
    value: int = Field(ge=1, le=1_000_000)
    """Value in the base network."""
    scaled_by: Axis
    """Coefficient that it grows with."""
    multiple_of: int = Field(default=1, ge=1, le=4096)
    """Scaled values are multiples of this."""


class SweepBase(ApiModel):
    """What is scaled: exactly one of searchName, architecture, parameters."""

    search_name: DnsLabel | None = None
    """Name of an ArchitectureSearch of the same namespace; the sweep waits until it has a base network."""
    architecture: Architecture | None = None
    """A network, as a search's status.baseNetwork.architecture holds it."""
    parameters: tuple[ScaledParameter, ...] | None = Field(default=None, min_length=1, max_length=16)
    """Sizes of the user's own model, for a container that builds it by itself (trialTemplate)."""


class CoefficientRange(ApiModel):
    """Range of one coefficient: the factor per unit of the compound coefficient."""

    min: DecimalText
    """Smallest factor, at least 1 as text: a family's members never shrink the base."""
    max: DecimalText
    """Largest factor, at most 4 as text."""


class CoefficientMode(StrEnum):
    """How far one vector reaches."""

    COMPOUND = "Compound"
    """One vector for the whole family, found at its small end and verified at every member."""
    PER_LEVEL = "PerLevel"
    """A vector for each member."""


class Coefficients(ApiModel):
    """Where coefficient vectors are looked for: only their direction matters, each member has its own length."""

    mode: CoefficientMode = CoefficientMode.COMPOUND
    depth: CoefficientRange = CoefficientRange(min="1", max="1.5")
    """Range of alpha, the factor of the depth."""
    width: CoefficientRange = CoefficientRange(min="1", max="1.4")
    """Range of beta, the factor of the width."""
    resolution: CoefficientRange = CoefficientRange(min="1", max="1.3")
    """Range of gamma, the factor of the resolution."""


class FamilyMember(ApiModel):
    """A member that is wanted: exactly one of latencySeconds, latencyMultiple."""

    name: DnsLabel
    """Name of the member, once per family."""
    latency_seconds: DecimalText | None = None
    """Budget of the first latency objective, seconds, above 0 as text."""
    latency_multiple: DecimalText | None = None
    """The same budget as a multiple of the base network's measured latency, at least 1 as text."""


class Baseline(StrEnum):
    """Ways of scaling that the family is compared with at equal latency."""

    EFFICIENTNET = "EfficientNet"
    """Alpha 1.2, beta 1.1, gamma 1.15 (Tan and Le, ICML 2019)."""
    FAST_SCALING = "FastScaling"
    """Mostly by width, dWr (Dollar et al., CVPR 2021)."""
    LACS_GPU = "LACSGPU"
    """EfficientNet-X's vector for V100 GPUs (Li et al., CVPR 2021)."""
    LACS_TPU = "LACSTPU"
    """EfficientNet-X's vector for TPUv3 (Li et al., CVPR 2021)."""
    ACCURACY_FLOPS = "AccuracyFLOPs"
    """The vector that a sweep for quality at equal FLOPs finds here, blind to latency."""


class Exploration(ApiModel):
    """How many vectors are looked at, and how closely budgets are met."""

    seed: int = Field(default=0, ge=0, le=2_147_483_647)
    """Seed of all random choices: the same seed and the same measurements give the same candidates."""
    vectors: int = Field(default=12, ge=2, le=64)
    """Coefficient vectors whose networks are measured, the known ones included."""
    trained_vectors: int = Field(default=6, ge=2, le=64)
    """Most vectors whose networks are trained at the smallest member; larger members train fewer."""
    finalists: int = Field(default=2, ge=1, le=8)
    """Vectors that reach the last rung, and that are verified at every member."""
    repeats: int = Field(default=1, ge=1, le=10)
    """Trainings with different seeds at the last rung; their mean counts."""
    tolerance_ratio: RatioText = "0.05"
    """Relative excess over a latency budget that is accepted, above 0 and below 1 as text."""
    drift_ratio: RatioText = "0.03"
    """Relative change of the reference network's latency from which a pod's measurements are repeated,
    above 0 and below 1 as text."""
    max_remeasurements: int = Field(default=2, ge=0, le=10)
    """Repetitions of one pod's measurements for drift; after that its values are corrected by the drift."""


class ScalingSweepSpec(ApiModel):
    """What a person asks for."""

    base: SweepBase
    coefficients: Coefficients = Coefficients()
    family: tuple[FamilyMember, ...] = Field(min_length=1, max_length=MAX_MEMBERS)
    """Members from small to large."""
    training_data: TrainingData | None = None
    """What the scaled networks are trained on: exactly one of embedded, folder, volumeClaim. Required by the
    built-in trainer; a container of the user's own may do without."""
    target: Target
    objectives: tuple[Objective, ...] = Field(min_length=2, max_length=8)
    """Quantities that count, each metric once. The first latency is what members' budgets bound; the first
    other objective that is known only after training is the quality that decides at equal latency."""
    baselines: tuple[Baseline, ...] = Field(default=(Baseline.EFFICIENTNET,), max_length=5)
    """Ways of scaling to compare with at equal latency, each once."""
    exploration: Exploration = Exploration()
    fidelities: Fidelities = Fidelities(levels=(FidelityLevel(epochs=1),))
    budget: Budget
    reuse_trials_from: DnsLabel | None = None
    """Name of an ended ScalingSweep of the same namespace with the same base, data and training: its
    trainings count here as well (they don't depend on the device), and only latency is measured again."""
    trial_template: TrialTemplate = TrialTemplate()
    measurement: Measurement = Measurement()
    training: Training = Training()
    metrics_collection: MetricsCollection = MetricsCollection()
    checkpoints: Checkpoints | None = None
    suspend: bool = False
    """Stops new trials and suspends those that run; false goes on. May change while the sweep runs."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    """Seconds after its end at which the sweep and its trials are deleted; absent: never. May change
    while the sweep runs."""


class VectorValue(ApiModel):
    """A coefficient vector, normalised to alpha * beta^2 * gamma^2 = 2."""

    depth: DecimalText
    """Alpha."""
    width: DecimalText
    """Beta."""
    resolution: DecimalText
    """Gamma."""
    width_per_depth: DecimalText | None = None
    """Its direction: log(beta) / log(alpha); absent where alpha is 1."""
    resolution_per_depth: DecimalText | None = None
    """Its direction: log(gamma) / log(alpha); absent where alpha is 1."""


class ScaledMember(ApiModel):
    """A member of a family: the concrete network and what was measured of it."""

    name: str = Field(max_length=63)
    """Name of the member."""
    vector: VectorValue
    """Coefficients that it was scaled with."""
    depth: DecimalText
    """Multiplier of the depth: alpha to the power of the compound coefficient."""
    width: DecimalText
    """Multiplier of the width."""
    resolution: DecimalText
    """Multiplier of the resolution."""
    compound_coefficient: DecimalText
    """Exponent of the vector."""
    budget_seconds: DecimalText
    """Its latency budget, seconds."""
    trial: str | None = Field(default=None, max_length=253)
    """Trial that trained it at the last rung, where its weights are kept; absent: values were taken over."""
    trainings: int = Field(default=0, ge=0, le=1_000_000)
    """Trainings at the last rung that the quality is the mean of."""
    metrics: tuple[MetricValue, ...] = Field(default=(), max_length=16)
    """Measured values: latency p50 and p90, throughput, quality, parameters, FLOPs and further objectives."""
    parameters: tuple[ParameterSetting, ...] = Field(default=(), max_length=32)
    """Scaled sizes of the user's own model."""
    architecture: Architecture | None = None
    """The network, where the base is one of the built-in space."""
    gain: DecimalText | None = None
    """Quality over that of plain compound scaling (baseline EfficientNet) at the same budget, in the quality's
    unit, positive where ours is better; absent without that baseline."""


class BaselineFamily(ApiModel):
    """What another way of scaling gives at the same budgets."""

    name: Baseline
    """The way."""
    members: tuple[ScaledMember, ...] = Field(default=(), max_length=MAX_MEMBERS)
    """Its members; the architecture is left out."""


class PhaseSeconds(ApiModel):
    """Device-seconds by phase."""

    measuring: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Latency of scaled networks, and of the reference beside them."""
    training: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Successive halving among candidate vectors."""
    verifying: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Training the chosen vectors' networks at the members."""
    baselines: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Training the baselines' networks."""


class ReferenceState(ApiModel):
    """Drift of the target, seen by the base network that every measuring pod measures."""

    measurements: int = Field(default=0, ge=0, le=1_000_000)
    """Measurements of the reference."""
    latency_seconds: DecimalText | None = None
    """Its latency: the median of all its measurements, seconds."""
    last_ratio: DecimalText | None = None
    """Its latest latency over that median."""
    remeasured_pods: int = Field(default=0, ge=0, le=1_000_000)
    """Measuring pods whose measurements were repeated because the reference had moved."""
    corrected_pods: int = Field(default=0, ge=0, le=1_000_000)
    """Measuring pods that still drifted after the last repetition: their values are corrected by the ratio."""


class ScalingSweepStatus(ApiModel):
    """What has been found so far. The operator writes it."""

    conditions: tuple[Condition, ...] = Field(default=(), max_length=16)
    """State in metav1 form: Succeeded, Failed, Suspended, Progressing, MetricsAvailable, LatencySteady."""
    observed_generation: int | None = Field(default=None, ge=0, le=MAX_GENERATION)
    """Generation (metadata.generation) that this status was computed for."""
    start_time: datetime | None = None
    """When the operator took up the sweep."""
    completion_time: datetime | None = None
    """When the sweep ended."""
    suspended_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time in suspension so far, seconds; it does not count against the deadline."""
    suspended_since: datetime | None = None
    """When the current suspension began."""
    base_trial: str | None = Field(default=None, max_length=253)
    """Trial of the search that found the base network."""
    base_architecture: Architecture | None = None
    """The base network, kept from when the sweep began: a search that is deleted later changes nothing."""
    trials: TrialCounts = TrialCounts()
    finished: int = Field(default=0, ge=0, le=1_000_000)
    """Trials that have ended, of any outcome."""
    reused: int = Field(default=0, ge=0, le=1_000_000)
    """Trainings taken over from another sweep."""
    device_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time that the sweep's pods held their devices so far, seconds in sum."""
    phase_seconds: PhaseSeconds = PhaseSeconds()
    vectors: int = Field(default=0, ge=0, le=1_000_000)
    """Coefficient vectors looked at so far."""
    latency_model_error: DecimalText | None = None
    """Median relative error of the latency model's predictions, each made before its measurement."""
    reference: ReferenceState = ReferenceState()
    coefficients: VectorValue | None = None
    """The family's vector (mode Compound)."""
    family: tuple[ScaledMember, ...] = Field(default=(), max_length=MAX_MEMBERS)
    """The members found so far, from small to large."""
    baselines: tuple[BaselineFamily, ...] = Field(default=(), max_length=5)
    """Other ways of scaling at the same budgets."""
    summary: str | None = Field(default=None, max_length=256)
    """The family in a line, for people (s: accuracy=0.94 latency=0.0021; m: ...)."""


class ScalingSweep(ApiModel):
    """A sweep over scaling coefficients under measured latency.

    In: a base network, coefficient ranges, a latency budget per member, target hardware, two or more
    objectives of which one is a latency. Out (status): the coefficients and a family of scaled networks,
    each measured on the target.
    """

    api_version: str = "nascale.io/v1alpha1"
    kind: str = KIND
    metadata: ObjectMeta
    spec: ScalingSweepSpec
    status: ScalingSweepStatus = ScalingSweepStatus()
