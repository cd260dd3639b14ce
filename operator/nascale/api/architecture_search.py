"""``ArchitectureSearch``: training data and target hardware in, Pareto front and base network out."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import Field

from nascale.api.budget import Algorithm, AlgorithmSetting, Budget, MetricsCollection, SearchAlgorithm
from nascale.api.objectives import (
    EACH_METRIC_ONCE,
    QUERIES_OF_SHARED_PODS,
    REPORTED_METRICS,
    Constraint,
    Direction,
    Enforcement,
    MetricText,
    Objective,
    Scalarisation,
    Selection,
    SelectionMethod,
)
from nascale.api.pod_template import BUILT_IN_TRAINER, TrialTemplate
from nascale.api.resource import (
    MAX_GENERATION,
    MAX_SECONDS,
    ApiModel,
    Condition,
    DecimalText,
    ObjectMeta,
)
from nascale.api.rules import IMMUTABLE, NAME_IS_A_LABEL, Rule, guarded, kept, number
from nascale.api.space import MAX_TOTAL_STRIDE, Space
from nascale.api.training import (
    TRAINING_DATA_GIVEN,
    CheckpointRetention,
    Checkpoints,
    EmbeddedDataSet,
    Fidelities,
    FidelityLevel,
    FolderData,
    Measurement,
    Target,
    Training,
    TrainingData,
    VolumeClaimData,
)
from nascale.contract.architecture import Architecture
from nascale.contract.work_order import MetricSource

__all__ = [
    "KIND",
    "MAX_FRONT",
    "Algorithm",
    "AlgorithmSetting",
    "ArchitectureSearch",
    "ArchitectureSearchSpec",
    "ArchitectureSearchStatus",
    "BaseNetwork",
    "Budget",
    "CheckpointRetention",
    "Checkpoints",
    "Constraint",
    "Direction",
    "EmbeddedDataSet",
    "Enforcement",
    "Fidelities",
    "FidelityLevel",
    "FolderData",
    "FrontPoint",
    "Measurement",
    "MetricText",
    "MetricValue",
    "MetricsCollection",
    "Objective",
    "ParameterSetting",
    "Scalarisation",
    "SearchAlgorithm",
    "Selection",
    "SelectionMethod",
    "Target",
    "Training",
    "TrainingData",
    "TrialCounts",
    "VolumeClaimData",
]

KIND = "ArchitectureSearch"
MAX_FRONT = 32
"""Most points of the Pareto front in status; the Trial objects hold all."""
MAX_COUNT = 1_000_000

_TOTAL_STRIDE = """(self.space.mbconv.stemStride * [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096][
    self.space.mbconv.stages.filter(stage, stage.stride == 2).size()])"""


def _scalarised(name: str, direction: Direction) -> Rule:
    """Make the rule that a metric of the scalarisation is one of the objectives, in the right direction."""
    value = f"self.selection.scalarisation.{name}"
    verb = direction.value.lower()
    return Rule(
        cel=f"""!has(self.selection.scalarisation) || self.objectives.exists(o,
            o.direction == '{direction.value}' && o.metric == {value})""",
        message=f"must be the metric of an objective to {verb}",
        detail=f"'must be the metric of an objective to {verb}, not ' + {value}",
        path=f".selection.scalarisation.{name}",
    )


class ArchitectureSearchSpec(ApiModel):
    """What a person asks for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        kept("trainingData"),
        kept("checkpoints"),
        TRAINING_DATA_GIVEN,
        Rule(
            cel=f"!{BUILT_IN_TRAINER} || !has(self.space.parameters)",
            message=(
                "must be mbconv, unless trialTemplate has an image or a command of its own: "
                "the built-in trainer does not know the user's parameters"
            ),
            path=".space",
        ),
        REPORTED_METRICS,
        Rule(
            cel=f"""!has(self.space.mbconv) || self.fidelities.levels.all(level,
                !has(level.resolution) || level.resolution >= {_TOTAL_STRIDE})""",
            message="must have resolutions of at least the network's total stride",
            detail=f"""'must have resolutions of at least the network\\'s total stride, '
                + {number(_TOTAL_STRIDE, largest=MAX_TOTAL_STRIDE)} + ' pixels'""",
            path=".fidelities",
        ),
        QUERIES_OF_SHARED_PODS,
        _scalarised("qualityMetric", Direction.MAXIMIZE),
        _scalarised("costMetric", Direction.MINIMIZE),
    )

    training_data: TrainingData | None = Field(default=None, json_schema_extra=guarded(IMMUTABLE))
    """What the candidates are trained on: exactly one of embedded, folder, volumeClaim. Required by the
    built-in trainer; a container of the user's own may do without."""
    target: Target = Field(default=Target(), json_schema_extra=guarded(IMMUTABLE))
    space: Space = Field(json_schema_extra=guarded(IMMUTABLE))
    objectives: tuple[Objective, ...] = Field(
        min_length=2,
        max_length=8,
        json_schema_extra=guarded(
            IMMUTABLE,
            EACH_METRIC_ONCE,
        ),
    )
    """Quantities that the search trades off, each metric once. The first one decides where selection asks
    for the best of one."""
    algorithm: SearchAlgorithm = Field(default=SearchAlgorithm(), json_schema_extra=guarded(IMMUTABLE))
    fidelities: Fidelities = Field(
        default=Fidelities(levels=(FidelityLevel(epochs=1),)), json_schema_extra=guarded(IMMUTABLE)
    )
    budget: Budget
    selection: Selection = Field(default=Selection(), json_schema_extra=guarded(IMMUTABLE))
    trial_template: TrialTemplate = Field(default=TrialTemplate(), json_schema_extra=guarded(IMMUTABLE))
    measurement: Measurement = Field(default=Measurement(), json_schema_extra=guarded(IMMUTABLE))
    training: Training = Field(default=Training(), json_schema_extra=guarded(IMMUTABLE))
    metrics_collection: MetricsCollection = Field(
        default=MetricsCollection(), json_schema_extra=guarded(IMMUTABLE)
    )
    checkpoints: Checkpoints | None = Field(default=None, json_schema_extra=guarded(IMMUTABLE))
    suspend: bool = False
    """Stops new trials and suspends those that run; false goes on. May change while the search runs."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    """Seconds after its end at which the search and its trials are deleted; absent: never. May change
    while the search runs."""


class MetricValue(ApiModel):
    """A measured value and where it was read."""

    name: MetricText
    """Name of the metric."""
    value: DecimalText
    """Value in the metric's unit, a decimal as text."""
    source: MetricSource = MetricSource.REPORT
    """Where it was read."""


class ParameterSetting(ApiModel):
    """One parameter of a candidate."""

    name: str = Field(max_length=63)
    """Name of the parameter."""
    value: str = Field(max_length=128)
    """Value of the parameter, as text."""


class TrialCounts(ApiModel):
    """Trials by state and outcome."""

    pending: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that wait for their pod."""
    running: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials whose pod runs."""
    succeeded: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that ended with every value."""
    infeasible: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that broke a hard constraint."""
    early_stopped: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that were stopped because going on could not pay."""
    failed: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that failed by their own error."""
    metrics_unavailable: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that ended without a value for every objective."""


class FrontPoint(ApiModel):
    """A trial that no other one beats in every objective."""

    trial: str = Field(max_length=253)
    """Name of the Trial."""
    metrics: tuple[MetricValue, ...] = Field(
        max_length=8, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Values of the objectives."""
    feasible: bool = True
    """Whether it keeps every bound, the soft ones included."""


class BaseNetwork(ApiModel):
    """The chosen network: what a ScalingSweep starts from."""

    trial: str = Field(max_length=253)
    """Name of the Trial."""
    selection: SelectionMethod
    """How it was chosen."""
    reason: str = Field(max_length=512)
    """Why it was chosen, as a sentence."""
    metrics: tuple[MetricValue, ...] = Field(
        max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """All its values."""
    parameters: tuple[ParameterSetting, ...] = Field(
        max_length=128, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """The candidate's parameters."""
    architecture: Architecture | None = None
    """The network that they describe, where the space is mbconv."""


class ArchitectureSearchStatus(ApiModel):
    """What has been found so far. The operator writes it."""

    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["type"])
    )
    """State in metav1 form: Succeeded, Failed, Suspended, Progressing, MetricsAvailable, DevicesExclusive."""
    observed_generation: int | None = Field(default=None, ge=0, le=MAX_GENERATION)
    """Generation (metadata.generation) that this status was computed for."""
    start_time: datetime | None = None
    """When the operator took up the search."""
    completion_time: datetime | None = None
    """When the search ended."""
    suspended_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time in suspension so far, seconds; it does not count against the deadline."""
    suspended_since: datetime | None = None
    """When the current suspension began."""
    trials: TrialCounts = TrialCounts()
    finished: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that have ended, of any outcome."""
    device_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time that the search's pods held their devices so far, seconds in sum."""
    estimated_remaining_seconds: int | None = Field(default=None, ge=0, le=MAX_SECONDS)
    """Estimate of the time to the end, seconds."""
    hypervolume: DecimalText | None = None
    """Hypervolume of the front, with objectives scaled to the range of all trials so far: 0 to 1 as text."""
    front_size: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Points of the whole Pareto front."""
    front: tuple[FrontPoint, ...] = Field(
        default=(), max_length=MAX_FRONT, json_schema_extra=guarded(list_type="map", list_map_keys=["trial"])
    )
    """Points of the Pareto front, the best of the first objective first; the Trial objects hold all."""
    best: str | None = Field(default=None, max_length=256)
    """Best value of each objective so far, for people (accuracy=0.98 latency_p50_seconds=0.0021)."""
    base_network: BaseNetwork | None = None


class ArchitectureSearch(ApiModel):
    """A multi-objective search for a network architecture on given hardware.

    In: training data, target hardware, a search space, two or more objectives. Out (status): the Pareto
    front and one base network.
    """

    rules: ClassVar[tuple[Rule, ...]] = (NAME_IS_A_LABEL,)

    api_version: str = "nascale.io/v1alpha1"
    kind: str = KIND
    metadata: ObjectMeta
    spec: ArchitectureSearchSpec
    status: ArchitectureSearchStatus = ArchitectureSearchStatus()
