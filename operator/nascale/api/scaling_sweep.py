"""``ScalingSweep``: a base network in, latency-aware scaling coefficients and a family of networks out."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import Field

from nascale.api.architecture_search import MetricValue, ParameterSetting, TrialCounts
from nascale.api.budget import MetricsCollection, SweepBudget
from nascale.api.objectives import (
    EACH_METRIC_ONCE,
    QUERIES_OF_SHARED_PODS,
    REPORTED_METRICS,
    Objective,
)
from nascale.api.pod_template import BUILT_IN_TRAINER, TrialTemplate
from nascale.api.resource import (
    MAX_GENERATION,
    MAX_SECONDS,
    ApiModel,
    Condition,
    DecimalText,
    DnsLabel,
    ObjectMeta,
)
from nascale.api.rules import EACH_ONCE, IMMUTABLE, NAME_IS_A_LABEL, Rule, guarded, kept
from nascale.api.scaling import (
    MAX_MEMBERS,
    Axis,
    Baseline,
    CoefficientMode,
    CoefficientRange,
    Coefficients,
    Exploration,
    FamilyMember,
    ScaledParameter,
    SweepBase,
    increasing,
)
from nascale.api.training import (
    TRAINING_DATA_GIVEN,
    Checkpoints,
    Fidelities,
    FidelityLevel,
    Measurement,
    Target,
    Training,
    TrainingData,
)
from nascale.contract.architecture import Architecture
from nascale.contract.metric_names import BUILT_IN, LATENCIES, MEASURED_BEFORE_TRAINING

__all__ = [
    "KIND",
    "MAX_MEMBERS",
    "Axis",
    "Baseline",
    "BaselineFamily",
    "CoefficientMode",
    "CoefficientRange",
    "Coefficients",
    "Exploration",
    "FamilyMember",
    "PhaseSeconds",
    "ReferenceState",
    "ScaledMember",
    "ScaledParameter",
    "ScalingSweep",
    "ScalingSweepSpec",
    "ScalingSweepStatus",
    "SweepBase",
    "SweepBudget",
    "VectorValue",
]

KIND = "ScalingSweep"
MAX_COUNT = 1_000_000

_LATENCIES = str(sorted(LATENCIES))
_LATENCY_NAMES = ", ".join(sorted(LATENCIES))
_AFTER_TRAINING = str(sorted(BUILT_IN - MEASURED_BEFORE_TRAINING))
_AFTER_TRAINING_NAMES = ", ".join(sorted(BUILT_IN - MEASURED_BEFORE_TRAINING))
_NAMES_HARDWARE = """((has(self.nodeSelector) && self.nodeSelector.size() > 0)
    || (has(self.resources.requests) && self.resources.requests.size() > 0)
    || (has(self.resources.limits) && self.resources.limits.size() > 0))"""
_GROWING_AXES = " || ".join(
    f"(p.scaledBy == '{axis.value}' && double(self.coefficients.{axis.value.lower()}.max) > 1.0)"
    for axis in Axis
)

_OBJECTIVE_RULES = (
    EACH_METRIC_ONCE,
    Rule(
        cel=f"self.exists(o, o.metric in {_LATENCIES})",
        message=f"must have a latency among the metrics ({_LATENCY_NAMES}): the members' budgets bound it",
    ),
    Rule(
        cel=f"!self.exists(o, o.metric in {_LATENCIES} && o.direction != 'Minimize')",
        message="must have direction Minimize for a latency",
        detail=f"""'must have direction Minimize for ' + self.map(o,
            o.metric in {_LATENCIES} && o.direction != 'Minimize', o.metric + ', not ' + o.direction)[0]""",
    ),
    Rule(
        cel="!self.exists(o, has(o.goal))",
        message="must not have a goal: a sweep ends with its family, whose budgets are spec.family",
        detail="""'must not have a goal, as ' + self.map(o, has(o.goal), o.metric)[0]
            + ' has: a sweep ends with its family, whose budgets are spec.family'""",
    ),
)


class ScalingSweepSpec(ApiModel):
    """What a person asks for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        kept("trainingData"),
        kept("checkpoints"),
        kept("reuseTrialsFrom"),
        TRAINING_DATA_GIVEN,
        Rule(
            cel=f"!{BUILT_IN_TRAINER} || !has(self.base.parameters)",
            message=(
                "must be searchName or architecture, unless trialTemplate has an image or a command of its "
                "own: the built-in trainer does not know the user's parameters"
            ),
            path=".base",
        ),
        Rule(
            cel=f"!has(self.base.parameters) || self.base.parameters.exists(p, {_GROWING_AXES})",
            message="must have a parameter scaled by a coefficient whose max is above 1: nothing would grow",
            path=".base.parameters",
        ),
        REPORTED_METRICS,
        Rule(
            cel=f"""self.objectives.exists(o, !(o.metric in {_LATENCIES})
                && (!{BUILT_IN_TRAINER} || o.metric in {_AFTER_TRAINING} || has(o.query)))""",
            message=(
                "must have a quality that decides at equal latency, a metric known only after training: "
                f"{_AFTER_TRAINING_NAMES}; with a query or a container of your own any but a latency"
            ),
            path=".objectives",
        ),
        QUERIES_OF_SHARED_PODS,
    )

    base: SweepBase = Field(json_schema_extra=guarded(IMMUTABLE))
    coefficients: Coefficients = Field(default=Coefficients(), json_schema_extra=guarded(IMMUTABLE))
    family: tuple[FamilyMember, ...] = Field(
        min_length=1,
        max_length=MAX_MEMBERS,
        json_schema_extra=guarded(
            IMMUTABLE,
            increasing("latencySeconds"),
            increasing("latencyMultiple"),
            list_type="map",
            list_map_keys=["name"],
        ),
    )
    """Members from small to large."""
    training_data: TrainingData | None = Field(default=None, json_schema_extra=guarded(IMMUTABLE))
    """What the scaled networks are trained on: exactly one of embedded, folder, volumeClaim. Required by the
    built-in trainer; a container of the user's own may do without."""
    target: Target = Field(
        json_schema_extra=guarded(
            IMMUTABLE,
            Rule(
                cel=_NAMES_HARDWARE,
                message="must name the target hardware by nodeSelector or resources",
            ),
        )
    )
    objectives: tuple[Objective, ...] = Field(
        min_length=2, max_length=8, json_schema_extra=guarded(IMMUTABLE, *_OBJECTIVE_RULES)
    )
    """Quantities that count, each metric once. The first latency is what members' budgets bound; the first
    other objective that is known only after training is the quality that decides at equal latency."""
    baselines: tuple[Baseline, ...] = Field(
        default=(Baseline.EFFICIENTNET,), max_length=5, json_schema_extra={**guarded(IMMUTABLE), **EACH_ONCE}
    )
    """Ways of scaling to compare with at equal latency, each once."""
    exploration: Exploration = Field(default=Exploration(), json_schema_extra=guarded(IMMUTABLE))
    fidelities: Fidelities = Field(
        default=Fidelities(levels=(FidelityLevel(epochs=1),)),
        json_schema_extra=guarded(
            IMMUTABLE,
            Rule(
                cel="self.levels.all(level, level.epochs >= 1)",
                message="must have at least 1 epoch at every level: latency is measured in pods of its own",
            ),
            Rule(
                cel="!self.levels.exists(level, has(level.resolution))",
                message="must not set a resolution: each network has its own, which is what is scaled",
            ),
        ),
    )
    budget: SweepBudget
    reuse_trials_from: DnsLabel | None = Field(default=None, json_schema_extra=guarded(IMMUTABLE))
    """Name of an ended ScalingSweep of the same namespace with the same base, data and training: its
    trainings count here as well (they don't depend on the device), and only latency is measured again."""
    trial_template: TrialTemplate = Field(default=TrialTemplate(), json_schema_extra=guarded(IMMUTABLE))
    measurement: Measurement = Field(default=Measurement(), json_schema_extra=guarded(IMMUTABLE))
    training: Training = Field(default=Training(), json_schema_extra=guarded(IMMUTABLE))
    metrics_collection: MetricsCollection = Field(
        default=MetricsCollection(), json_schema_extra=guarded(IMMUTABLE)
    )
    checkpoints: Checkpoints | None = Field(default=None, json_schema_extra=guarded(IMMUTABLE))
    suspend: bool = False
    """Stops new trials and suspends those that run; false goes on. May change while the sweep runs."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    """Seconds after its end at which the sweep and its trials are deleted; absent: never. May change
    while the sweep runs."""

    @property
    def latency_objective(self) -> Objective | None:
        """The objective that the members' budgets bound; ``None``: there is none."""
        return next((o for o in self.objectives if o.metric in LATENCIES), None)

    @property
    def quality_objective(self) -> Objective | None:
        """The objective that decides at equal latency; ``None``: there is none."""
        template = self.trial_template
        built_in = template.image is None and template.command is None
        known_later = BUILT_IN - MEASURED_BEFORE_TRAINING
        return next(
            (
                o
                for o in self.objectives
                if o.metric not in LATENCIES
                and (not built_in or o.metric in known_later or o.query is not None)
            ),
            None,
        )


class VectorValue(ApiModel):
    """A coefficient vector, normalised to alpha * beta^2 * gamma^2 = 2."""

    depth: DecimalText
    """Alpha, the factor of the depth per unit of the compound coefficient."""
    width: DecimalText
    """Beta, the factor of the width."""
    resolution: DecimalText
    """Gamma, the factor of the resolution."""
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
    trainings: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trainings at the last rung that the quality is the mean of."""
    metrics: tuple[MetricValue, ...] = Field(
        default=(), max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Measured values: latency p50 and p90, throughput, quality, parameters, FLOPs and further objectives."""
    parameters: tuple[ParameterSetting, ...] = Field(
        default=(), max_length=32, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Scaled sizes of the user's own model."""
    architecture: Architecture | None = None
    """The network, where the base is one of the built-in space."""
    gain: DecimalText | None = None
    """Quality over that of plain compound scaling (baseline EfficientNet) at the same budget, in the
    quality's unit, positive where ours is better; absent without that baseline."""
    taken_from: Baseline | None = None
    """Baseline whose network this is: it turned out better than the sweep's own candidates at this budget, in
    as many trainings with the same seeds; absent: the sweep's own."""
    same_as: str | None = Field(default=None, max_length=63)
    """Smaller member whose network this is as well: none that was trained for this budget is slower. Absent:
    it is slower than every smaller member."""


class BaselineFamily(ApiModel):
    """What another way of scaling gives at the same budgets."""

    name: Baseline
    """The way."""
    members: tuple[ScaledMember, ...] = Field(
        default=(), max_length=MAX_MEMBERS, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
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

    measurements: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Measurements of the reference."""
    latency_seconds: DecimalText | None = None
    """Its latency: the median of all its measurements, seconds."""
    last_ratio: DecimalText | None = None
    """Its latest latency over that median."""
    remeasured_pods: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Measuring pods whose measurements were repeated because the reference had moved."""
    corrected_pods: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Measuring pods that still drifted after the last repetition: values are corrected by the ratio."""


class ScalingSweepStatus(ApiModel):
    """What has been found so far. The operator writes it."""

    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["type"])
    )
    """State in metav1 form: Succeeded, Failed, Suspended, Progressing, MetricsAvailable, LatencySteady,
    DevicesExclusive."""
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
    finished: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trials that have ended, of any outcome."""
    reused: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Trainings taken over from another sweep."""
    device_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time that the sweep's pods held their devices so far, seconds in sum."""
    phase_seconds: PhaseSeconds = PhaseSeconds()
    estimated_remaining_seconds: int | None = Field(default=None, ge=0, le=MAX_SECONDS)
    """Estimate of the time that the trainings still to come will take, seconds; absent before the first one
    has ended. Rather too long than too short: networks that vectors share are trained once."""
    vectors: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Coefficient vectors looked at so far."""
    latency_model_error: DecimalText | None = None
    """Median relative error of the latency model's predictions, each made before its measurement."""
    reference: ReferenceState = ReferenceState()
    coefficients: VectorValue | None = None
    """The family's vector (mode Compound)."""
    members: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Members of the family found so far."""
    family: tuple[ScaledMember, ...] = Field(
        default=(), max_length=MAX_MEMBERS, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """The members found so far, from small to large."""
    baselines: tuple[BaselineFamily, ...] = Field(
        default=(), max_length=5, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Other ways of scaling at the same budgets."""
    summary: str | None = Field(default=None, max_length=256)
    """The family in a line, for people (s: accuracy=0.94 latency=0.0021; m: ...)."""


class ScalingSweep(ApiModel):
    """A sweep over scaling coefficients under measured latency.

    In: a base network, coefficient ranges, a latency budget per member, target hardware, two or more
    objectives of which one is a latency. Out (status): the coefficients and a family of scaled networks,
    each measured on the target.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        NAME_IS_A_LABEL,
        Rule(
            cel="!has(self.spec.reuseTrialsFrom) || self.spec.reuseTrialsFrom != self.metadata.name",
            message="must be another sweep, not this one",
            path=".spec.reuseTrialsFrom",
        ),
    )

    api_version: str = "nascale.io/v1alpha1"
    kind: str = KIND
    metadata: ObjectMeta
    spec: ScalingSweepSpec
    status: ScalingSweepStatus = ScalingSweepStatus()
