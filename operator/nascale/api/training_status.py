"""``status`` of a progressive training: where it is, and what each stage and each switch has cost."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from nascale.api.architecture_search import MetricValue, ParameterSetting
from nascale.api.generated_schedule import GeneratedSchedule
from nascale.api.resource import MAX_GENERATION, MAX_SECONDS, ApiModel, Condition, DecimalText
from nascale.api.rules import guarded
from nascale.api.stages import StageText
from nascale.api.trial import DeviceUsed
from nascale.contract.architecture import Architecture
from nascale.contract.run_order import MAX_STAGES
from nascale.contract.run_report import SwitchPhase
from nascale.contract.stage_settings import MAX_PROCESSES_PER_WORKER, MAX_WORKERS
from nascale.contract.switch_class import SwitchClass

MAX_COUNT = 1_000_000
MAX_SAMPLES = 1_000_000_000_000_000
MAX_SETTINGS = 40
_BY_NAME = guarded(list_type="map", list_map_keys=["name"])

Samples = Annotated[int, Field(ge=0, le=MAX_SAMPLES)]
Seconds = Annotated[int, Field(ge=0, le=MAX_SECONDS)]


class PinnedModel(ApiModel):
    """The network, kept from when the training began: a source that is deleted later changes nothing."""

    origin: str | None = Field(default=None, max_length=253)
    """Where it came from: the search, or the sweep and its member; absent: the spec itself."""
    trial: str | None = Field(default=None, max_length=253)
    """Trial that found or trained it; absent: there is none."""
    architecture: Architecture | None = None
    """The network; absent: the container of the user's own builds it."""


class PhaseTime(ApiModel):
    """A part of a switch's time."""

    name: str = Field(max_length=32)
    """Name of the part: save, gap, start, restore, apply, firstStep."""
    seconds: DecimalText
    """Its time, seconds as text."""


class StageState(ApiModel):
    """A stage that has begun: its place, its settings in force, and what was measured of it."""

    name: StageText
    """Name of the stage."""
    begin_samples: Samples = 0
    """Samples of the run at which it began."""
    end_samples: Samples | None = None
    """Samples of the run at which it ended; absent: it has not ended."""
    begin_time: datetime | None = None
    """When it began; absent: not known."""
    end_time: datetime | None = None
    """When it ended; absent: not ended, or not known."""
    generation: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Generation of the Job in which it was last seen."""
    steps: int = Field(default=0, ge=0, le=MAX_SAMPLES)
    """Optimizer steps so far."""
    seconds: DecimalText | None = None
    """Time in steps, seconds as text."""
    throughput: DecimalText | None = None
    """Samples per second over those steps, as text."""
    step_p50_seconds: DecimalText | None = None
    """Median step, seconds as text."""
    step_p99_seconds: DecimalText | None = None
    """99th percentile of the steps, seconds as text."""
    loss: DecimalText | None = None
    """Mean training loss of its last part, as text."""
    metrics: tuple[MetricValue, ...] = Field(default=(), max_length=8, json_schema_extra=_BY_NAME)
    """Values of its last evaluation."""
    switch_class: SwitchClass | None = None
    """How much the switch into it disturbed the training."""
    switch_seconds: DecimalText | None = None
    """Time of that switch, seconds as text."""
    switch_phases: tuple[PhaseTime, ...] = Field(
        default=(), max_length=len(SwitchPhase), json_schema_extra=_BY_NAME
    )
    """What that time was spent on."""
    settings: tuple[ParameterSetting, ...] = Field(
        default=(), max_length=MAX_SETTINGS, json_schema_extra=_BY_NAME
    )
    """Settings in force, by the names that spec.stages uses."""


class SwitchCounts(ApiModel):
    """Switches between stages by class."""

    live: int = Field(default=0, ge=0, le=MAX_COUNT)
    """At a step boundary, nothing stands still."""
    recompile: int = Field(default=0, ge=0, le=MAX_COUNT)
    """In the same process."""
    restart: int = Field(default=0, ge=0, le=MAX_COUNT)
    """With new processes in the same pods."""
    reschedule: int = Field(default=0, ge=0, le=MAX_COUNT)
    """With other pods."""


class CommittedCheckpoint(ApiModel):
    """The newest checkpoint that is known to be whole."""

    step: int = Field(ge=0, le=MAX_SAMPLES)
    """Optimizer steps of the run that it holds."""
    samples: Samples = 0
    """Samples of the run that it holds."""
    time: datetime | None = None
    """When it was committed; absent: not known."""


class TrainingResult(ApiModel):
    """The trained model."""

    path: str = Field(max_length=1024)
    """Path of the weights (safetensors) on the run's volume, relative to the volume's root."""
    digest: str = Field(pattern=r"^([0-9a-f]{64})?$", max_length=64)
    """SHA-256 of the weights' file."""
    metrics: tuple[MetricValue, ...] = Field(default=(), max_length=16, json_schema_extra=_BY_NAME)
    """Final values."""


class Fallback(ApiModel):
    """A stage whose workers could not be had: the run goes on with those before."""

    stage: StageText
    """Name of the stage."""
    generation: int = Field(ge=0, le=MAX_COUNT)
    """Generation that made no first step."""
    workers: int = Field(ge=1, le=MAX_WORKERS)
    """Pods that the run goes on with."""
    message: str = Field(default="", max_length=1024)
    """Why, as a sentence."""


class ProgressiveTrainingStatus(ApiModel):
    """Where the training is. The operator writes it."""

    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["type"])
    )
    """State in metav1 form: Succeeded, Failed, Suspended, Progressing, StageApplied, MetricsAvailable,
    CheckpointsHealthy, Degraded, Diverged, Stalled, QualitySafe, DevicesExclusive."""
    observed_generation: int | None = Field(default=None, ge=0, le=MAX_GENERATION)
    """Generation (metadata.generation) that this status was computed for."""
    start_time: datetime | None = None
    """When the operator took up the training."""
    completion_time: datetime | None = None
    """When the training ended."""
    suspended_seconds: Seconds = 0
    """Time in suspension so far, seconds; it does not count against the deadline."""
    suspended_since: datetime | None = None
    """When the current suspension began."""
    summary: str | None = Field(default=None, max_length=128)
    """Last value of the accuracy, otherwise of the loss, for people (accuracy=0.98)."""
    model: PinnedModel | None = None
    generated: GeneratedSchedule | None = None
    run_generation: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Number of the latest Job of this training: its name ends with it, checkpoints carry it."""
    job_name: str | None = Field(default=None, max_length=63)
    """Name of that Job."""
    workers: int | None = Field(default=None, ge=1, le=MAX_WORKERS)
    """Pods of that Job."""
    processes_per_worker: int | None = Field(default=None, ge=1, le=MAX_PROCESSES_PER_WORKER)
    """Training processes in each of them."""
    revision: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Revision of the desired state (schedule, pause) that the pods were last told."""
    schedule_digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$", max_length=64)
    """Digest of the schedule that this revision holds."""
    applied_revision: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Revision that the training has last applied."""
    refused_revision: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """Revision that the training has last refused; the condition StageApplied says why."""
    current_stage: StageText | None = None
    """Name of the stage that is trained now, or was last."""
    progress_percentage: int | None = Field(default=None, ge=0, le=100)
    """Share of the whole length that is trained, percent, rounded down."""
    estimated_remaining_seconds: Seconds | None = None
    """Estimate of the time to the end, seconds."""
    step: int = Field(default=0, ge=0, le=MAX_SAMPLES)
    """Optimizer steps of the run so far."""
    samples: Samples = 0
    """Samples of the run so far."""
    whole_samples: Samples | None = None
    """Length of the run, samples."""
    throughput: DecimalText | None = None
    """Samples per second over the last steps, as text."""
    step_p50_seconds: DecimalText | None = None
    """Median step of the present stage, seconds as text."""
    step_p99_seconds: DecimalText | None = None
    """99th percentile of the present stage's steps, seconds as text."""
    loss: DecimalText | None = None
    """Training loss, mean of the last steps, as text."""
    metrics: tuple[MetricValue, ...] = Field(default=(), max_length=16, json_schema_extra=_BY_NAME)
    """Values of the last evaluation."""
    settings: tuple[ParameterSetting, ...] = Field(
        default=(), max_length=MAX_SETTINGS, json_schema_extra=_BY_NAME
    )
    """Settings that are in force now, by the names that spec.stages uses."""
    stages: tuple[StageState, ...] = Field(default=(), max_length=MAX_STAGES, json_schema_extra=_BY_NAME)
    """Stages that have begun, in order."""
    switches: SwitchCounts = SwitchCounts()
    lost_steps: int = Field(default=0, ge=0, le=MAX_SAMPLES)
    """Steps that had to be done again: those between the last checkpoint and a crash."""
    roll_backs: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Times that a loss which is not finite has sent the run back to a checkpoint."""
    restarts: int = Field(default=0, ge=0, le=MAX_COUNT)
    """Restarts by the training's own errors, over all generations."""
    device_seconds: Seconds = 0
    """Time that the training's pods held their devices so far, seconds in sum."""
    device: DeviceUsed | None = None
    checkpoint: CommittedCheckpoint | None = None
    fallback: Fallback | None = None
    result: TrainingResult | None = None
