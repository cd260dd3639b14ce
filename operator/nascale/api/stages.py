"""``spec.stages`` of a progressive training: how long each stage is, and which settings are its own."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.config import JsonDict

from nascale.api.objectives import MetricText, named
from nascale.api.pod_template import ResourceList
from nascale.api.resource import ApiModel, DecimalText, RatioText
from nascale.api.rules import Rule, exactly_one_of, guarded, number
from nascale.contract.run_order import MAX_STAGES, Goal
from nascale.contract.spans import SPAN_PATTERN
from nascale.contract.stage_settings import (
    MAX_GLOBAL_BATCH,
    MAX_PROCESSES_PER_WORKER,
    MAX_WORKERS,
    CommunicationHook,
    Compilation,
    GradientCheckpointing,
    MatmulPrecision,
    MemoryFormat,
    Parallelism,
)
from nascale.contract.work_order import Precision

COMMUNICATION_PREFIXES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "TORCH_GLOO_", "UCX_", "FI_", "MPI_", "OMPI_")
"""Variables that a stage may set: those of the libraries through which the processes talk."""

_LONGEST_BATCH = 65_536 * MAX_WORKERS * MAX_PROCESSES_PER_WORKER


def above(bound: str, most: str) -> JsonDict:
    """Return the schema keys of a decimal text with an open lower and a closed upper bound."""
    return guarded(
        Rule(
            cel=f"double(self) > {bound}.0 && double(self) <= {most}.0",
            message=f"must be above {bound} and at most {most}",
            detail=f"'must be above {bound} and at most {most}, not ' + self",
        )
    )


def _from(bound: str, most: str) -> JsonDict:
    return guarded(
        Rule(
            cel=f"double(self) >= {bound}.0 && double(self) <= {most}.0",
            message=f"must be from {bound} to {most}",
            detail=f"'must be from {bound} to {most}, not ' + self",
        )
    )


ABOVE_ZERO_TO_ONE = above("0", "1")
FROM_ZERO_TO_TEN = _from("0", "10")
FROM_ZERO_BELOW_ONE = guarded(
    Rule(
        cel="double(self) < 1.0", message="must be below 1", detail="'must be from 0 to below 1, not ' + self"
    )
)
NOT_EMPTY = Rule(
    cel="!self.matches('^0+([.]0+)?(e[0-9]+)?[a-z]+$')",
    message="must be above 0",
    detail="'must be above 0, not ' + self",
)
"""For a span."""

SpanText = Annotated[str, Field(pattern=SPAN_PATTERN, max_length=32, json_schema_extra=guarded(NOT_EMPTY))]
"""A length with its unit."""

SettingText = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", max_length=63)]
StageText = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$", max_length=32)]


class ModelParameter(ApiModel):
    """A value for the user's own model."""

    name: SettingText
    """Name of the parameter."""
    value: str = Field(max_length=128)
    """Value of the parameter, as text; what reads as a number reaches the container as one."""


class CommunicationVariable(ApiModel):
    """A variable of the library through which the processes talk."""

    name: str = Field(
        pattern=r"^[A-Z][A-Z0-9_]*$",
        max_length=127,
        json_schema_extra=guarded(
            Rule(
                cel=f"{list(COMMUNICATION_PREFIXES)}.exists(prefix, self.startsWith(prefix))",
                message=f"must start with one of {', '.join(COMMUNICATION_PREFIXES)}",
                detail=f"'must start with one of {', '.join(COMMUNICATION_PREFIXES)}, not ' + self",
            )
        ),
    )
    """Name of the variable."""
    value: str = Field(default="", max_length=256)
    """Value of the variable."""


class StageModel(ApiModel):
    """Model-level settings: they shape the network and how it learns.

    What a stage leaves out has the value of spec.defaults, and what that leaves out the one named here.
    """

    resolution: int | None = Field(default=None, ge=4, le=1024)
    """Side of the training images, pixels; otherwise the network's own."""
    depth: RatioText | None = Field(default=None, json_schema_extra=ABOVE_ZERO_TO_ONE)
    """Share of the blocks of each of the network's stages that is active, above 0 to 1 as text; the first
    block always is. Blocks that join begin as the identity. Otherwise 1."""
    stochastic_depth: RatioText | None = Field(default=None, json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Probability that the last block is skipped in a step, 0 to below 1 as text; it grows linearly from
    the first block. Otherwise 0."""
    dropout: RatioText | None = Field(default=None, json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Probability that an input of the classifier is dropped, 0 to below 1 as text. Otherwise 0."""
    augmentation: RatioText | None = None
    """Magnitude of the random changes to a training image, 0 (none) to 1 (strong) as text. Otherwise 0."""
    mixup: DecimalText | None = Field(default=None, json_schema_extra=FROM_ZERO_TO_TEN)
    """Alpha of the Beta distribution that two images are mixed by, 0 (not at all) to 10 as text.
    Otherwise 0."""
    label_smoothing: RatioText | None = Field(default=None, json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Share of a label's probability that is spread over all classes, 0 to below 1 as text. Otherwise 0."""
    learning_rate_factor: DecimalText | None = Field(default=None, json_schema_extra=above("0", "1000"))
    """Multiplies the learning rate of the run's own course, above 0 to 1000 as text. Otherwise 1."""
    weight_decay: DecimalText | None = Field(default=None, json_schema_extra=FROM_ZERO_TO_TEN)
    """Decoupled weight decay, on weights alone, 0 to 10 as text. Otherwise 0.02."""
    momentum: RatioText | None = Field(default=None, json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Momentum of SGD, or AdamW's first beta, 0 to below 1 as text. Otherwise 0.9."""
    global_batch: int | None = Field(default=None, ge=1, le=MAX_GLOBAL_BATCH)
    """Samples per optimizer step over all processes, whatever their number. Otherwise 64."""
    parameters: tuple[ModelParameter, ...] | None = Field(
        default=None, max_length=32, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Settings of the user's own model (a sequence length, say); a stage's list takes the place of that of
    spec.defaults as a whole."""


class StageHardware(ApiModel):
    """Hardware-level settings: they shape how the device works on the network.

    What a stage leaves out has the value of spec.defaults, and what that leaves out the one named here.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.accumulation) || !has(self.maxMicroBatch)",
            message="must have at most one of accumulation, maxMicroBatch",
        ),
    )

    precision: Precision | None = None
    """Number format of the forward and backward pass; parameters stay in FP32. Otherwise FP32."""
    matmul_precision: MatmulPrecision | None = None
    """How FP32 matrices are multiplied. Otherwise Highest."""
    compilation: Compilation | None = None
    """Whether the network is compiled. Otherwise None."""
    memory_format: MemoryFormat | None = None
    """Order of a picture's numbers in memory. Otherwise Contiguous."""
    gradient_checkpointing: GradientCheckpointing | None = None
    """Whether activations are computed again in the backward pass instead of kept. Otherwise None."""
    accumulation: int | None = Field(default=None, ge=1, le=65_536)
    """Micro-batches per optimizer step in each process. Otherwise 1."""
    max_micro_batch: int | None = Field(default=None, ge=1, le=MAX_GLOBAL_BATCH)
    """In place of accumulation: most samples of one forward pass in one process. The operator takes the
    smallest accumulation that keeps to it and divides the batch."""
    parallelism: Parallelism | None = None
    """How several processes share the training. Otherwise DDP."""
    communication_hook: CommunicationHook | None = None
    """How gradients travel between the processes of DDP. Otherwise None."""
    environment: tuple[CommunicationVariable, ...] | None = Field(
        default=None, max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Variables of the library through which the processes talk, read when a process starts; a stage's list
    takes the place of that of spec.defaults as a whole."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of each process; otherwise what the container's CPU limit allows."""
    workers: int | None = Field(default=None, ge=1, le=MAX_WORKERS)
    """Pods. Otherwise 1."""
    processes_per_worker: int | None = Field(default=None, ge=1, le=MAX_PROCESSES_PER_WORKER)
    """Training processes in each pod: one for each GPU. Otherwise 1."""
    resources: ResourceList | None = None
    """Resources of each pod, request and limit alike, by name (cpu, memory, nvidia.com/gpu); they take the
    place of those of podTemplate and placement with the same names."""


class StageDefaults(ApiModel):
    """Settings of every stage that does not state its own."""

    model: StageModel | None = None
    hardware: StageHardware | None = None


class MetricReached(ApiModel):
    """The stage ends when an evaluation's metric has reached a value: exactly one of atLeast, atMost."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("atLeast", "atMost"),)

    name: MetricText
    """Name of the metric, for example accuracy."""
    at_least: DecimalText | None = None
    """Ends the stage at this value or above, in the metric's unit as text."""
    at_most: DecimalText | None = None
    """Ends the stage at this value or below, in the metric's unit as text."""


class Plateau(ApiModel):
    """The stage ends when a metric has not improved for several evaluations."""

    metric: MetricText
    """Name of the metric, for example accuracy."""
    goal: Goal
    """Which way the metric should go."""
    evaluations: int = Field(ge=1, le=1000)
    """Evaluations without an improvement that end the stage."""
    min_change: DecimalText = Field(
        default="0",
        json_schema_extra=guarded(
            Rule(
                cel="double(self) >= 0.0",
                message="must be 0 or more",
                detail="'must be 0 or more, not ' + self",
            )
        ),
    )
    """Smallest change that counts as an improvement, in the metric's unit, 0 or more as text."""


class QueryReached(ApiModel):
    """The stage ends when a query to Prometheus has reached a value: exactly one of atLeast, atMost.

    The operator asks while the stage is trained, and tells the training to go on. Where Prometheus is away
    the stage takes its length.
    """

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("atLeast", "atMost"),)

    promql: str = Field(
        min_length=1,
        max_length=2048,
        json_schema_extra=guarded(
            Rule(
                cel=f"self.matches('{named('pod')}')",
                message="must name $pod: a query of another's series says nothing of this training",
            )
        ),
    )
    """PromQL that yields one value; $pod (that of the first worker) and $namespace are filled in."""
    at_least: DecimalText | None = None
    """Ends the stage at this value or above."""
    at_most: DecimalText | None = None
    """Ends the stage at this value or below."""


class StageEnd(ApiModel):
    """What ends a stage before its length: exactly one of metric, plateau, query."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("metric", "plateau", "query"),)

    metric: MetricReached | None = None
    plateau: Plateau | None = None
    query: QueryReached | None = None


def _given(field: str) -> str:
    part = field.split(".", maxsplit=1)[0]
    return f"(has(self.{part}) && has(self.{field}) ? self.{field} : 1)"


_PROCESSES = f"({_given('hardware.workers')} * {_given('hardware.processesPerWorker')})"
_PARTS = f"({_given('hardware.accumulation')} * {_PROCESSES})"
_DIVISIBLE = Rule(
    # What a stage leaves out counts as 1: the product of what it states must divide the batch all the same.
    cel=f"""!has(self.model) || !has(self.model.globalBatch)
        || self.model.globalBatch % {_PARTS} == 0""",
    message="must be divisible by workers times processesPerWorker times accumulation",
    detail=f"""'must be divisible by workers times processesPerWorker times accumulation ('
        + {number(_PARTS, largest=_LONGEST_BATCH)} + '), not '
        + {number("self.model.globalBatch", largest=MAX_GLOBAL_BATCH)}""",
    path=".model.globalBatch",
)


class TrainingStage(ApiModel):
    """One stage: how long it is, and which settings are its own."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.until) || has(self.length)",
            message="must have a length beside until: it bounds a stage whose metric never gets there",
        ),
        _DIVISIBLE,
    )

    name: StageText
    """Name of the stage, once in the schedule."""
    length: SpanText | None = None
    """Length of the stage as a number with a unit: ep (epochs), sp (samples), ba (optimizer steps), dur
    (share of the whole length), for example 10ep or 0.5dur. With until the longest one. The last stage may
    leave it out: it takes what is left. May change while the stage has not ended."""
    until: StageEnd | None = None
    model: StageModel | None = None
    hardware: StageHardware | None = None


def _number_of(span: str) -> str:
    """Return CEL for the number before a span's unit."""
    return f"double({span}.replace('ep', '').replace('sp', '').replace('ba', '').replace('dur', ''))"


def _sums_up(unit: str, whole: str, condition: str) -> Rule:
    """Make the rule that stages whose lengths all have one unit sum to the whole."""
    given = "self.stages.filter(s, has(s.length))"
    total = f"{given}.map(s, {_number_of('s.length')}).sum()"
    last_is_open = "self.stages.exists(s, !has(s.length))"
    # Shares such as a third are written with few digits: the trainer rounds, what it takes passes here.
    return Rule(
        cel=f"""!has(self.stages) || !({condition}) || {given}.exists(s, !s.length.endsWith('{unit}'))
            || ({last_is_open} ? {total} < {whole}
            : {total} >= {whole} * 0.999 && {total} <= {whole} * 1.001)""",
        message=(
            f"must have lengths in {unit} that sum to the whole length, or to less where the last stage "
            "leaves its own out"
        ),
        path=".stages",
    )


LENGTHS_SUM_UP = (
    _sums_up("dur", "1.0", "true"),
    _sums_up("ep", _number_of("self.length"), "self.length.endsWith('ep')"),
    _sums_up("sp", _number_of("self.length"), "self.length.endsWith('sp')"),
)
"""For a spec: where units are alike. Mixed ones take the size of the data: the trainer checks them."""
EVERY_STAGE_HAS_A_LENGTH = Rule(
    cel="!self.exists(i, stage, i < self.size() - 1 && !has(stage.length))",
    message="must have a length in every stage but the last one",
    detail="""'must have a length in every stage but the last one, as has not '
        + self.transformList(i, stage, i < self.size() - 1 && !has(stage.length), stage.name)[0]""",
)
"""For the list of stages."""

__all__ = [
    "ABOVE_ZERO_TO_ONE",
    "COMMUNICATION_PREFIXES",
    "EVERY_STAGE_HAS_A_LENGTH",
    "FROM_ZERO_BELOW_ONE",
    "FROM_ZERO_TO_TEN",
    "LENGTHS_SUM_UP",
    "MAX_STAGES",
    "NOT_EMPTY",
    "CommunicationVariable",
    "MetricReached",
    "ModelParameter",
    "Plateau",
    "QueryReached",
    "SettingText",
    "SpanText",
    "StageDefaults",
    "StageEnd",
    "StageHardware",
    "StageModel",
    "StageText",
    "TrainingStage",
]
