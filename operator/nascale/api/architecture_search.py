"""``ArchitectureSearch``: training data and target hardware in, Pareto front and base network out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from nascale.api.pod_template import LabelKey, LabelValue, Resources, Toleration, TrialTemplate
from nascale.api.resource import ApiModel, Condition, DecimalText, DnsLabel, ObjectMeta, RatioText
from nascale.api.space import Space
from nascale.contract.architecture import Architecture
from nascale.contract.metric_names import METRIC_PATTERN
from nascale.contract.work_order import MAX_CANDIDATES_PER_ORDER, DataFormat, MetricSource, Precision

KIND = "ArchitectureSearch"
MAX_FRONT = 32
"""Most points of the Pareto front in status; the Trial objects hold all."""

MetricText = Annotated[str, Field(pattern=METRIC_PATTERN, max_length=48)]


class EmbeddedDataSet(StrEnum):
    """Data sets that need no download by the user."""

    DIGITS = "Digits"
    """scikit-learn's 1,797 images of 8x8, shipped with it."""
    FASHION_MNIST = "FashionMNIST"
    """70,000 images of 28x28, where the machine or image has its IDX files."""


class FolderData(ApiModel):
    """A folder in the trial's container (part of its image, or of a mounted volume)."""

    path: str = Field(pattern=r"^/[^:]*$", max_length=512)
    format: DataFormat = DataFormat.IMAGE_FOLDER


class VolumeClaimData(ApiModel):
    """A folder on a PersistentVolumeClaim of the same namespace; mounted read-only."""

    claim_name: DnsLabel
    path: str = Field(
        default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*)?$", max_length=512
    )
    format: DataFormat = DataFormat.IMAGE_FOLDER


class TrainingData(ApiModel):
    """What the candidates are trained on: exactly one of embedded, folder, volumeClaim."""

    embedded: EmbeddedDataSet | None = None
    folder: FolderData | None = None
    volume_claim: VolumeClaimData | None = None
    validation_fraction: RatioText = "0.2"
    """Share of the training part that is held out to compare candidates, above 0 and below 1."""


class Target(ApiModel):
    """The hardware that the network is for, and how it will be served there."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=16)
    resources: Resources = Resources()
    """Added to the template's resources, for example ``nvidia.com/gpu: "1"``."""
    batch_size: int = Field(default=1, ge=1, le=65_536)
    """Samples per forward pass when latency is measured."""
    precision: Precision = Precision.FP32


class Direction(StrEnum):
    """Which way is better."""

    MINIMIZE = "Minimize"
    MAXIMIZE = "Maximize"


class Enforcement(StrEnum):
    """What a broken bound means."""

    HARD = "Hard"
    """The trial ends as Infeasible, before training where the metric is known by then."""
    SOFT = "Soft"
    """The trial counts, but ranks behind every one that keeps the bound."""


class Constraint(ApiModel):
    """A bound on an objective's metric: exactly one of atMost, atLeast."""

    at_most: DecimalText | None = None
    at_least: DecimalText | None = None
    enforcement: Enforcement = Enforcement.HARD


class Objective(ApiModel):
    """One of the quantities that the search trades off."""

    metric: MetricText
    """A metric that trials report, for example ``accuracy`` or ``latency_p50_seconds``."""
    direction: Direction
    goal: DecimalText | None = None
    """Good enough: the search ends early once one trial reaches the goal of every objective that has one."""
    constraint: Constraint | None = None
    source: MetricSource = MetricSource.REPORT
    query: str | None = Field(default=None, min_length=1, max_length=2048)
    """PromQL that yields one value for a finished trial; ``$trial``, ``$pod`` and ``$namespace`` are
    filled in. Only with source Prometheus; by default the trainer's own series."""


class Algorithm(StrEnum):
    """The samplers."""

    ADAPTIVE = "Adaptive"
    """nascale's own: evolution on a Pareto archive, screened by a cheap surrogate."""
    RANDOM = "Random"
    REGULARIZED_EVOLUTION = "RegularizedEvolution"
    TPE = "TPE"
    NSGA2 = "NSGAII"
    NSGA3 = "NSGAIII"
    GP = "GP"


class AlgorithmSetting(ApiModel):
    """A setting of the chosen sampler; docs/samplers.md lists them."""

    name: str = Field(pattern=r"^[a-z][a-zA-Z0-9]{0,62}$", max_length=63)
    value: str = Field(max_length=64)


class SearchAlgorithm(ApiModel):
    """How the next candidates are chosen."""

    name: Algorithm = Algorithm.ADAPTIVE
    seed: int = Field(default=0, ge=0, le=2_147_483_647)
    settings: tuple[AlgorithmSetting, ...] = Field(default=(), max_length=16)


class FidelityLevel(ApiModel):
    """How much training a trial of one rung gets."""

    epochs: int = Field(ge=0, le=10_000)
    data_fraction: RatioText = "1"
    """Share of the training part, above 0."""
    resolution: int | None = Field(default=None, ge=4, le=1024)
    """Input side in pixels; absent: the candidate's own."""


class Fidelities(ApiModel):
    """Successive halving for several objectives: the best of each rung get the next one."""

    levels: tuple[FidelityLevel, ...] = Field(min_length=1, max_length=6)
    """From cheap to full; the last one is what the result is judged by."""
    reduction_factor: int = Field(default=3, ge=2, le=16)
    """One in so many trials of a rung is promoted."""


class Budget(ApiModel):
    """When to stop, and how much at once."""

    max_trials: int = Field(ge=1, le=100_000)
    """Trials in all, those of every rung and outcome counted."""
    parallel_trials: int = Field(default=1, ge=1, le=1000)
    max_failed_trials: int = Field(default=3, ge=0, le=100_000)
    """The search fails when more trials than this have failed by their own error."""
    trials_per_pod: int = Field(default=1, ge=1, le=MAX_CANDIDATES_PER_ORDER)
    """Candidates that share one pod, one after the other."""
    trial_retries: int = Field(default=1, ge=0, le=10)
    """How often a trial that failed by its own error is run again."""
    trial_deadline_seconds: int = Field(default=3600, ge=1, le=604_800)
    """Longest run of one pod."""
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """Longest run of the whole search, time in suspension not counted."""
    device_seconds: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Most seconds that pods of this search may hold their devices, in sum."""


class SelectionMethod(StrEnum):
    """How the base network is chosen from the front."""

    KNEE = "Knee"
    """The point farthest from the line (plane) through the front's extremes."""
    BEST_UNDER_CONSTRAINTS = "BestUnderConstraints"
    """The best of the first objective among those that keep every bound."""
    MNASNET = "MnasNet"
    """Largest accuracy * (latency / target) ^ weight (Tan et al., CVPR 2019)."""
    TUNAS = "TuNAS"
    """Largest accuracy + weight * |latency / target - 1| (Bender et al., CVPR 2020)."""


class Scalarisation(ApiModel):
    """Parameters of MnasNet's and TuNAS's reward."""

    quality_metric: MetricText
    cost_metric: MetricText
    target: DecimalText
    """The cost that is aimed at, in the cost metric's unit."""
    weight: DecimalText = "-0.07"


class Selection(ApiModel):
    """How the base network is chosen from the front."""

    method: SelectionMethod = SelectionMethod.KNEE
    scalarisation: Scalarisation | None = None


class CheckpointRetention(StrEnum):
    """Whose checkpoints stay on the volume when the search has ended."""

    ALL = "All"
    PARETO_FRONT = "ParetoFront"
    NONE = "None"


class Checkpoints(ApiModel):
    """A volume that outlives the pods: evicted trials go on from it, weights stay on it."""

    claim_name: DnsLabel
    path: str = Field(
        default="nascale",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
        max_length=512,
    )
    retention: CheckpointRetention = CheckpointRetention.PARETO_FRONT


class Measurement(ApiModel):
    """How latency is measured (docs/measuring.md)."""

    min_calls: int = Field(default=200, ge=20, le=1_000_000)
    min_milliseconds: int = Field(default=1000, ge=0, le=3_600_000)
    max_spread_ratio: RatioText = "0.1"
    """Widest accepted relative difference between the medians of the last three windows."""


class Training(ApiModel):
    """Settings of the built-in training recipe."""

    batch_size: int = Field(default=64, ge=1, le=65_536)
    learning_rate: DecimalText = "0.003"
    weight_decay: DecimalText = "0.02"
    label_smoothing: RatioText = "0"


class MetricsCollection(ApiModel):
    """How values are fetched from Prometheus."""

    max_linger_seconds: int = Field(default=20, ge=0, le=600)
    """Longest time that a finished trial waits for Prometheus to scrape its final values."""
    timeout_seconds: int = Field(default=30, ge=0, le=3600)
    """Longest time after a pod's end in which the operator asks Prometheus, before it takes the
    report's value or, where there is none, ends the trial as MetricsUnavailable."""


class ArchitectureSearchSpec(ApiModel):
    """What a person asks for."""

    training_data: TrainingData | None = None
    """Required by the built-in trainer; a container of the user's own may do without."""
    target: Target = Target()
    space: Space
    objectives: tuple[Objective, ...] = Field(min_length=2, max_length=8)
    algorithm: SearchAlgorithm = SearchAlgorithm()
    fidelities: Fidelities = Fidelities(levels=(FidelityLevel(epochs=1),))
    budget: Budget
    selection: Selection = Selection()
    trial_template: TrialTemplate = TrialTemplate()
    measurement: Measurement = Measurement()
    training: Training = Training()
    metrics_collection: MetricsCollection = MetricsCollection()
    checkpoints: Checkpoints | None = None
    suspend: bool = False
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)


class MetricValue(ApiModel):
    """A measured value and where it was read."""

    name: MetricText
    value: DecimalText
    source: MetricSource = MetricSource.REPORT


class ParameterSetting(ApiModel):
    """One parameter of a candidate."""

    name: str = Field(max_length=63)
    value: str = Field(max_length=128)


class TrialCounts(ApiModel):
    """Trials by state and outcome."""

    pending: int = Field(default=0, ge=0)
    running: int = Field(default=0, ge=0)
    succeeded: int = Field(default=0, ge=0)
    infeasible: int = Field(default=0, ge=0)
    early_stopped: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)
    metrics_unavailable: int = Field(default=0, ge=0)


class FrontPoint(ApiModel):
    """A trial that no other one beats in every objective."""

    trial: str = Field(max_length=253)
    metrics: tuple[MetricValue, ...] = Field(max_length=8)
    feasible: bool = True


class BaseNetwork(ApiModel):
    """The chosen network: what a ScalingSweep starts from."""

    trial: str = Field(max_length=253)
    selection: SelectionMethod
    reason: str = Field(max_length=512)
    metrics: tuple[MetricValue, ...] = Field(max_length=16)
    parameters: tuple[ParameterSetting, ...] = Field(max_length=128)
    architecture: Architecture | None = None


class ArchitectureSearchStatus(ApiModel):
    """What has been found so far."""

    conditions: tuple[Condition, ...] = Field(default=(), max_length=16)
    observed_generation: int | None = Field(default=None, ge=0)
    start_time: datetime | None = None
    completion_time: datetime | None = None
    suspended_seconds: int = Field(default=0, ge=0)
    """Time in suspension so far; it does not count against the deadline."""
    suspended_since: datetime | None = None
    trials: TrialCounts = TrialCounts()
    finished: int = Field(default=0, ge=0)
    """Trials that have ended, of any outcome."""
    device_seconds: int = Field(default=0, ge=0)
    estimated_remaining_seconds: int | None = Field(default=None, ge=0)
    hypervolume: DecimalText | None = None
    """Of the front, in objectives scaled to the range seen so far by all trials, 0 to 1."""
    front_size: int = Field(default=0, ge=0)
    front: tuple[FrontPoint, ...] = Field(default=(), max_length=MAX_FRONT)
    best: str | None = Field(default=None, max_length=256)
    """The best value of each objective so far, for people (``accuracy=0.98 latency_p50_seconds=0.0021``)."""
    base_network: BaseNetwork | None = None


class ArchitectureSearch(ApiModel):
    """A multi-objective search for a network architecture on given hardware."""

    api_version: str = "nascale.io/v1alpha1"
    kind: str = KIND
    metadata: ObjectMeta
    spec: ArchitectureSearchSpec
    status: ArchitectureSearchStatus = ArchitectureSearchStatus()
