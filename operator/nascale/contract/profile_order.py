"""The profile order: one JSON document that asks a container what settings cost, or what a schedule brings.

It stands where a trial finds its work order; its version tells them apart. Each of its candidates is a list
of stages. ``MeasureSteps`` takes a few optimizer steps in each of them, in order and with as many processes
as they ask for, and reports how long they take; ``TrainSchedule`` trains the candidate's stages as a whole,
shortened run and reports time and quality. The answer is a ``Report``, as for a work order.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from nascale.contract.architecture import Architecture
from nascale.contract.document import Document, parse_document
from nascale.contract.run_order import MAX_STAGES, EvaluationOrder, OptimizerOrder, StageOrder
from nascale.contract.spans import Span
from nascale.contract.stage_settings import MAX_PROCESSES_PER_WORKER, MAX_WORKERS, SettingName
from nascale.contract.work_order import (
    MAX_CANDIDATES_PER_ORDER,
    DataOrder,
    ExporterOrder,
    MeasurementOrder,
    MetricName,
    ObjectName,
    ParameterValue,
    RunIdentity,
)

PROFILE_ORDER_VERSION: Final = "nascale.io/profile-order/v1"

STEP_P50: Final = "step_p50_seconds"
"""Median optimizer step, seconds: data, forward and backward passes, update."""
STEP_SPREAD: Final = "step_spread_ratio"
"""How steady that is: difference between the medians of the measurement's windows, relative to the median."""
SETTLE: Final = "settle_seconds"
"""What the switch into the settings costs beyond usual steps, seconds: resized data, compilation, warm-up."""
START: Final = "start_seconds"
"""From the start of the container's process until it could take a step: imports, data, network."""
EPOCH_SAMPLES: Final = "epoch_samples"
"""Size of the training part, samples."""
LOSS_DEVIATION: Final = "loss_deviation_ratio"
"""How far the training loss after a short run has moved from that of the reference settings, relative to how
far that one has fallen; 0: not at all. Only where the order states a reference."""
NON_FINITE_LOSS: Final = "NonFiniteLoss"
"""Reason of a candidate that is infeasible because a loss was no number with its settings."""


class ProfileTask(StrEnum):
    """What the container is asked for."""

    MEASURE_STEPS = "MeasureSteps"
    """Measure the steps of each candidate's only stage."""
    TRAIN_SCHEDULE = "TrainSchedule"
    """Train each candidate's stages from the first to the last, and evaluate."""


class ProfileCandidate(Document):
    """Settings to measure, or a schedule to try."""

    trial: ObjectName
    """Name of the Trial object; the report repeats it."""
    index: int = Field(ge=0)
    """Position of the trial among those of its owner."""
    stages: tuple[StageOrder, ...] = Field(min_length=1, max_length=MAX_STAGES)
    """Stages; exactly one where steps are measured. All have the order's workers and processes."""
    guarded: bool = False
    """Whether the settings are also tried against the order's reference: ``loss_deviation_ratio``."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all random choices of this trial."""


class ProfileOrder(Document):
    """Everything that a container needs to know to profile settings or try schedules."""

    version: Literal["nascale.io/profile-order/v1"] = PROFILE_ORDER_VERSION
    """Version of the document."""
    run: RunIdentity
    """Whose work this is."""
    attempt: int = Field(default=0, ge=0)
    """Runs of this work before this one; the report repeats it."""
    task: ProfileTask = ProfileTask.MEASURE_STEPS
    """What the container is asked for."""
    candidates: tuple[ProfileCandidate, ...] = Field(min_length=1, max_length=MAX_CANDIDATES_PER_ORDER)
    """Worked on one after the other, in the same process; the report holds one result for each."""
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    """Pods that measure together; the first one reports. 1 where schedules are tried."""
    processes_per_worker: int = Field(default=1, ge=1, le=MAX_PROCESSES_PER_WORKER)
    """Processes in each of these pods. 1 where schedules are tried."""
    metrics: tuple[MetricName, ...] = Field(min_length=1, max_length=16)
    """What the report must hold for each candidate that succeeds."""
    architecture: Architecture | None = None
    """The network, for the built-in trainer."""
    parameters: dict[SettingName, ParameterValue] = Field(default_factory=dict, max_length=64)
    """What a container of the user's own builds its model from."""
    data: DataOrder | None = None
    """What the network is trained on."""
    length: Span = "1ep"
    """Length of a schedule that is tried; its stages' lengths sum to it. Its unit is not ``dur``."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the network's first weights and of the sample order, where steps are measured."""
    optimizer: OptimizerOrder = OptimizerOrder()
    evaluation: EvaluationOrder = EvaluationOrder()
    measurement: MeasurementOrder = MeasurementOrder(min_calls=20, min_seconds=0.5)
    """How steps are measured: its calls are optimizer steps."""
    reference: StageOrder | None = None
    """Quality-safe settings that guarded candidates are compared with."""
    reference_steps: int = Field(default=40, ge=8, le=100_000)
    """Optimizer steps of that comparison, from the same weights and over the same samples."""
    exporter: ExporterOrder = ExporterOrder()

    @property
    def world(self) -> int:
        """Number of processes that measure together."""
        return self.workers * self.processes_per_worker


def parse_profile_order(text: str) -> ProfileOrder:
    """Read a profile order.

    Raises:
        UnknownVersionError: the document's version is not the one that this release reads.
        ContractError: the document is not JSON, or a field is out of range; every fault is named.
    """
    return parse_document(text, ProfileOrder, PROFILE_ORDER_VERSION, "profile order")
