"""The run order: one JSON document that tells a training's container the whole schedule.

It stands where a trial finds its work order (``NASCALE_WORK_ORDER``, or the file that
``NASCALE_WORK_ORDER_FILE`` names); its version tells them apart. One order is for one *generation* of a run:
one Job, one number of workers. What changes while the Job runs arrives as a ``DesiredState``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from nascale.contract.architecture import Architecture
from nascale.contract.document import Document, parse_document
from nascale.contract.spans import Span
from nascale.contract.stage_settings import (
    MAX_GLOBAL_BATCH,
    MAX_PROCESSES_PER_WORKER,
    MAX_WORKERS,
    HardwareSettings,
    ModelSettings,
    SettingName,
)
from nascale.contract.work_order import DataOrder, ExporterOrder, MetricName, ParameterValue, RunIdentity

RUN_ORDER_VERSION: Final = "nascale.io/run-order/v1"
DESIRED_STATE_VERSION: Final = "nascale.io/desired-state/v1"
MAX_STAGES: Final = 16

StageName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$", max_length=32)]


class Goal(StrEnum):
    """Which way a metric should go."""

    MAXIMIZE = "Maximize"
    MINIMIZE = "Minimize"


class MetricEnd(Document):
    """A stage ends when an evaluation's metric has reached a value: exactly one of the two bounds."""

    metric: MetricName
    """Name of the metric."""
    at_least: float | None = None
    """Ends the stage at this value or above."""
    at_most: float | None = None
    """Ends the stage at this value or below."""


class PlateauEnd(Document):
    """A stage ends when a metric has not improved for several evaluations."""

    metric: MetricName
    """Name of the metric."""
    goal: Goal
    """Which way the metric should go."""
    evaluations: int = Field(ge=1, le=1000)
    """Evaluations without an improvement that end the stage."""
    min_change: float = Field(default=0.0, ge=0)
    """Smallest change that counts as an improvement, in the metric's unit."""


class StageOrder(Document):
    """One stage, complete: every setting has its value."""

    name: StageName
    """Name of the stage, once in the schedule."""
    length: Span | None = None
    """Length, and with a metric's end the longest one; ``None``, for the last stage: what is left."""
    until_metric: MetricEnd | None = None
    """Ends the stage earlier."""
    until_plateau: PlateauEnd | None = None
    """Ends the stage earlier."""
    model: ModelSettings
    hardware: HardwareSettings


class OptimizerName(StrEnum):
    """The optimizers."""

    ADAMW = "AdamW"
    """Adam with decoupled weight decay."""
    SGD = "SGD"
    """Stochastic gradient descent with Nesterov momentum."""


class LearningRateCourse(StrEnum):
    """How the learning rate goes over the whole run, after the warm-up."""

    CONSTANT = "Constant"
    COSINE = "Cosine"
    """Half a cosine to zero."""
    LINEAR = "Linear"
    """A straight line to zero."""


class BatchRule(StrEnum):
    """How the learning rate follows a change of the global batch."""

    NONE = "None"
    """Not at all."""
    LINEAR = "Linear"
    """In proportion (Goyal et al., 2017)."""
    SQUARE_ROOT = "SquareRoot"
    """With the square root (Krizhevsky, 2014)."""


class OptimizerOrder(Document):
    """The optimizer and the course of its learning rate.

    The rate at a step is the product of ``learning_rate``, the course at ``samples / whole``, the stage's
    ``learning_rate_factor`` and the batch rule at ``global_batch / base_batch``.
    """

    name: OptimizerName = OptimizerName.ADAMW
    learning_rate: float = Field(default=0.003, gt=0, le=100)
    """Peak learning rate at the base batch."""
    course: LearningRateCourse = LearningRateCourse.COSINE
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """Share of the whole in which the rate rises linearly from a tenth of the peak."""
    batch_rule: BatchRule = BatchRule.LINEAR
    base_batch: int = Field(default=64, ge=1, le=MAX_GLOBAL_BATCH)
    """Global batch that the peak is meant for."""
    gradient_clip: float | None = Field(default=None, gt=0)
    """Largest norm of all gradients together; ``None``: no limit."""
    average_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the exponential moving average of the weights, which is then what is evaluated and
    kept; 0: none."""


class EvaluationOrder(Document):
    """When the network is evaluated on the validation part; the end of a stage always is."""

    every: Span = "1ep"
    """Distance of two evaluations."""


class CheckpointOrder(Document):
    """When checkpoints are made, beside those at switches and at the end."""

    every_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """Longest time between two."""
    every_steps: int | None = Field(default=None, ge=1, le=10**9)
    """Most optimizer steps between two; ``None``: no limit."""
    keep: int = Field(default=2, ge=2, le=100)
    """Committed checkpoints that stay."""


class DivergenceAction(StrEnum):
    """What is done when the loss is not finite."""

    ROLL_BACK = "RollBack"
    """Go back to the last checkpoint, and take the quality-safe hardware settings to the stage's end."""
    STOP = "Stop"
    """End the run as failed."""


class DivergenceOrder(Document):
    """What is done when the loss is not finite."""

    action: DivergenceAction = DivergenceAction.ROLL_BACK
    most_roll_backs: int = Field(default=2, ge=0, le=100)
    """Times that it goes back; one more ends the run as failed."""


class DesiredState(Document):
    """What the operator wants while a generation runs; it reaches each pod as an annotation.

    The higher revision counts; one that is applied or refused is never looked at again.
    """

    version: Literal["nascale.io/desired-state/v1"] = DESIRED_STATE_VERSION
    """Version of the document."""
    revision: int = Field(ge=0)
    """Counts the states of a run, over all its generations."""
    paused: bool = False
    """Save and stop at the next step boundary."""
    advance_to: StageName | None = None
    """Go on to this stage at the next step boundary, where it is later than the present one."""
    stages: tuple[StageOrder, ...] | None = Field(default=None, min_length=1, max_length=MAX_STAGES)
    """The whole schedule after an edit; ``None``: as before. Stages that have ended must be the same."""


class RunOrder(Document):
    """Everything that a training's container needs to know."""

    version: Literal["nascale.io/run-order/v1"] = RUN_ORDER_VERSION
    """Version of the document."""
    run: RunIdentity
    """Whose work this is."""
    generation: int = Field(ge=1)
    """Number of this Job in the run; names the checkpoints that it writes. A higher one ends its right to."""
    revision: int = Field(default=0, ge=0)
    """Revision of the desired state that this order includes."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all random choices of the run."""
    architecture: Architecture | None = None
    """The network, for the built-in trainer."""
    parameters: dict[SettingName, ParameterValue] = Field(default_factory=dict, max_length=64)
    """What a container of the user's own builds its model from."""
    data: DataOrder | None = None
    """What the network is trained on."""
    length: Span
    """Length of the whole run; its unit is not ``dur``."""
    stages: tuple[StageOrder, ...] = Field(min_length=1, max_length=MAX_STAGES)
    """The whole schedule, stages that have ended included."""
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    """Pods of this generation."""
    processes_per_worker: int = Field(default=1, ge=1, le=MAX_PROCESSES_PER_WORKER)
    """Training processes in each pod of this generation."""
    optimizer: OptimizerOrder = OptimizerOrder()
    evaluation: EvaluationOrder = EvaluationOrder()
    checkpoints: CheckpointOrder = CheckpointOrder()
    divergence: DivergenceOrder = DivergenceOrder()
    exporter: ExporterOrder = ExporterOrder()


def parse_run_order(text: str) -> RunOrder:
    """Read a run order.

    Raises:
        UnknownVersionError: the document's version is not the one that this release reads.
        ContractError: the document is not JSON, or a field is out of range; every fault is named.
    """
    return parse_document(text, RunOrder, RUN_ORDER_VERSION, "run order")


def parse_desired_state(text: str) -> DesiredState:
    """Read a desired state; raises like ``parse_run_order``."""
    return parse_document(text, DesiredState, DESIRED_STATE_VERSION, "desired state")
