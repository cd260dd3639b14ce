"""``ProgressiveTraining``: a network, data and stages in, a trained model out."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from nascale.api.budget import MetricsCollection
from nascale.api.generation import SCHEDULE_RULES, Schedule
from nascale.api.optimization import Divergence, Evaluation, Optimizer, RunCheckpoints
from nascale.api.pod_template import NodeSelector, Resources, Toleration, TrialTemplate
from nascale.api.resource import ApiModel, DnsLabel, ObjectMeta
from nascale.api.rules import IMMUTABLE, NAME_IS_A_LABEL, Rule, exactly_one_of, guarded, kept
from nascale.api.scaling import AT_LEAST_THE_STRIDE
from nascale.api.stages import (
    EVERY_STAGE_HAS_A_LENGTH,
    LENGTHS_SUM_UP,
    MAX_STAGES,
    NOT_EMPTY,
    ModelParameter,
    SpanText,
    StageDefaults,
    TrainingStage,
)
from nascale.api.training import TrainingData
from nascale.api.training_status import ProgressiveTrainingStatus
from nascale.contract.architecture import Architecture

KIND = "ProgressiveTraining"

_BUILT_IN_TRAINER = "(!has(self.podTemplate.image) && !has(self.podTemplate.command))"


class SweepMember(ApiModel):
    """A member of the family that a ScalingSweep of the same namespace has found."""

    sweep_name: DnsLabel
    """Name of the ScalingSweep; the training waits until it has the member."""
    name: DnsLabel
    """Name of the member."""


class TrainedModel(ApiModel):
    """What is trained: exactly one of searchName, member, architecture, parameters."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one_of("searchName", "member", "architecture", "parameters"),
    )

    search_name: DnsLabel | None = None
    """Name of an ArchitectureSearch of the same namespace; the training waits until it has a base network."""
    member: SweepMember | None = None
    architecture: Architecture | None = Field(default=None, json_schema_extra=guarded(AT_LEAST_THE_STRIDE))
    """A network, as a search's status.baseNetwork.architecture holds it."""
    parameters: tuple[ModelParameter, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        json_schema_extra=guarded(list_type="map", list_map_keys=["name"]),
    )
    """What a container of the user's own builds its model from (podTemplate)."""


class RunVolume(ApiModel):
    """The volume that holds the run: checkpoints, and in the end the model. All pods mount it."""

    claim_name: DnsLabel
    """Name of the PersistentVolumeClaim; with several workers on several nodes one of ReadWriteMany."""
    path: str = Field(
        default="nascale",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
        max_length=512,
    )
    """Folder on the volume, relative to its root; the run's own folder lies in it."""


class Placement(ApiModel):
    """Where the pods run, and on what."""

    node_selector: NodeSelector = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=16)
    """Taints that the pods tolerate."""
    resources: Resources = Resources()
    """Added to the template's resources, for example nvidia.com/gpu in limits; a stage's resources go over
    them."""


class Restarts(ApiModel):
    """What counts as a failure of pods, and what as a stall. May change while it runs."""

    max_restarts: int = Field(default=6, ge=0, le=1000)
    """Restarts by the training's own errors (a crash, no memory) within a generation; one more and it fails.
    Eviction and preemption don't count."""
    start_timeout_seconds: int = Field(default=600, ge=10, le=86_400)
    """Longest time from the creation of a generation's Job to its first step, seconds, images and waiting for
    a node included; after that the run goes back to the workers and resources before."""
    stall_factor: int = Field(default=10, ge=2, le=10_000)
    """Multiple of the stage's median step time without a step that counts as a stall; nothing is killed."""
    min_stall_seconds: int = Field(default=60, ge=1, le=86_400)
    """Shortest time without a step that counts as a stall, seconds."""


class ProgressiveTrainingSpec(ApiModel):
    """What a person asks for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        kept("trainingData"),
        kept("schedule"),
        Rule(
            cel=f"!{_BUILT_IN_TRAINER} || has(self.trainingData)",
            message="must have trainingData, unless podTemplate has an image or a command of its own",
        ),
        Rule(
            cel=f"!{_BUILT_IN_TRAINER} || !has(self.model.parameters)",
            message=(
                "must be searchName, member or architecture, unless podTemplate has an image or a command of "
                "its own: the built-in trainer does not know the user's parameters"
            ),
            path=".model",
        ),
        Rule(
            cel=f"""!{_BUILT_IN_TRAINER}
                || !has(self.stages) || !self.stages.exists(s, has(s.model) && has(s.model.parameters))""",
            message=(
                "must not have parameters, unless podTemplate has an image or a command of its own: the "
                "built-in trainer does not know the user's parameters"
            ),
            path=".stages",
        ),
        *LENGTHS_SUM_UP,
        *SCHEDULE_RULES,
    )

    model: TrainedModel = Field(json_schema_extra=guarded(IMMUTABLE))
    training_data: TrainingData | None = Field(default=None, json_schema_extra=guarded(IMMUTABLE))
    """What the network is trained on: exactly one of embedded, folder, volumeClaim. Required by the built-in
    trainer; a container of the user's own may do without."""
    seed: int = Field(default=0, ge=0, le=2_147_483_647, json_schema_extra=guarded(IMMUTABLE))
    """Seed of all random choices: sample order, augmentation, first weights."""
    length: SpanText = Field(
        json_schema_extra=guarded(
            IMMUTABLE,
            NOT_EMPTY,
            Rule(
                cel="!self.endsWith('dur')",
                message="must have the unit ep, sp or ba: it is the whole that dur is a share of",
                detail="'must have the unit ep, sp or ba, not ' + self",
            ),
        )
    )
    """Length of the whole run as a number with a unit: ep (epochs), sp (samples), ba (optimizer steps at the
    first stage's global batch), for example 30ep."""
    defaults: StageDefaults = Field(default=StageDefaults(), json_schema_extra=guarded(IMMUTABLE))
    stages: tuple[TrainingStage, ...] = Field(
        default=(),
        min_length=1,
        max_length=MAX_STAGES,
        json_schema_extra=guarded(EVERY_STAGE_HAS_A_LENGTH, list_type="map", list_map_keys=["name"]),
    )
    """The stages in order; their lengths sum to the whole one. Those that have not begun may change while the
    training runs. Either they or spec.schedule must be set."""
    schedule: Schedule | None = Field(default=None, json_schema_extra=guarded(IMMUTABLE))
    """In place of stages: the operator measures, and makes a schedule for the hardware."""
    optimizer: Optimizer = Field(default=Optimizer(), json_schema_extra=guarded(IMMUTABLE))
    evaluation: Evaluation = Field(default=Evaluation(), json_schema_extra=guarded(IMMUTABLE))
    checkpoints: RunCheckpoints = Field(default=RunCheckpoints(), json_schema_extra=guarded(IMMUTABLE))
    divergence: Divergence = Field(default=Divergence(), json_schema_extra=guarded(IMMUTABLE))
    volume: RunVolume = Field(json_schema_extra=guarded(IMMUTABLE))
    pod_template: TrialTemplate = Field(default=TrialTemplate(), json_schema_extra=guarded(IMMUTABLE))
    placement: Placement = Field(default=Placement(), json_schema_extra=guarded(IMMUTABLE))
    restarts: Restarts = Restarts()
    metrics_collection: MetricsCollection = Field(
        default=MetricsCollection(), json_schema_extra=guarded(IMMUTABLE)
    )
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """Longest run, seconds, time in suspension not counted; absent: no limit. May change while it runs."""
    suspend: bool = False
    """Saves at the next step boundary and ends the pods; false goes on at the same step. May change while it
    runs."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    """Seconds after its end at which the training is deleted, though not its folder on the volume; absent:
    never. May change while it runs."""


_BEGUN = "oldSelf.status.stages"
_NONE_BEGUN = "!has(oldSelf.status) || !has(oldSelf.status.stages)"
# Where the stages stay as they are nothing is compared: whatever a status holds, the object can be written.
_STAGES_STAY = """!has(self.spec.stages) || !has(oldSelf.spec.stages)
    || self.spec.stages == oldSelf.spec.stages"""
_MOVED = """(i >= self.spec.stages.size() || i >= oldSelf.spec.stages.size()
    || self.spec.stages[i].name != begun.name)"""
_ENDED_AND_CHANGED = """(has(begun.endSamples) && i < self.spec.stages.size()
    && i < oldSelf.spec.stages.size() && self.spec.stages[i] != oldSelf.spec.stages[i])"""


def _part_changed(part: str) -> str:
    new, old = f"self.spec.stages[i].{part}", f"oldSelf.spec.stages[i].{part}"
    return f"(has({new}) != has({old}) || (has({new}) && {new} != {old}))"


_BEGUN_AND_CHANGED = f"""(!has(begun.endSamples) && i < self.spec.stages.size()
    && i < oldSelf.spec.stages.size() && ({_part_changed("model")} || {_part_changed("hardware")}))"""


def _frozen(breach: str, message: str) -> Rule:
    """Make a rule about stages that have begun; ``breach`` says of one (i, begun) that it breaks it."""
    return Rule(
        cel=f"{_NONE_BEGUN} || {_STAGES_STAY} || !{_BEGUN}.exists(i, begun, {breach})",
        message=message,
        detail=f"""'{message}, not ' + {_BEGUN}.transformList(i, begun, {breach}, begun.name)[0]""",
        path=".spec.stages",
    )


class ProgressiveTraining(ApiModel):
    """A training that moves from stage to stage while it runs, and loses nothing on the way.

    In: a network, training data, a length, stages with model-level and hardware-level settings. Out: the
    trained model on the run's volume; in status what each stage and each switch has cost. Stages that have
    not begun can be edited meanwhile.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        NAME_IS_A_LABEL,
        Rule(
            cel="""!has(self.spec.schedule) || !has(self.spec.schedule.generate.reuseProfileFrom)
                || self.spec.schedule.generate.reuseProfileFrom != self.metadata.name""",
            message="must name another training",
            detail="'must name another training, not ' + self.metadata.name",
            path=".spec.schedule.generate.reuseProfileFrom",
        ),
        _frozen(_MOVED, "must keep stages that have begun in their places"),
        _frozen(_ENDED_AND_CHANGED, "must change no stage that has ended"),
        _frozen(_BEGUN_AND_CHANGED, "must change nothing but length and until of the stage that is trained"),
    )

    api_version: str = "nascale.io/v1alpha1"
    kind: str = KIND
    metadata: ObjectMeta
    spec: ProgressiveTrainingSpec
    status: ProgressiveTrainingStatus = ProgressiveTrainingStatus()
