"""``status.generated`` of a progressive training: what was measured, and the schedule made from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from nascale.api.architecture_search import MetricValue, ParameterSetting
from nascale.api.generation import MAX_PROFILE_TRIALS
from nascale.api.resource import MAX_SECONDS, ApiModel, DecimalText
from nascale.api.rules import EACH_ONCE, guarded
from nascale.api.stages import MAX_STAGES, StageText, TrainingStage
from nascale.api.trial import DeviceUsed, TrialOutcome

MAX_ALTERNATIVES = 16
MAX_LEFT_OUT = 32
LONGEST_LEFT_OUT = 256
MAX_SETTINGS_OF_A_STAGE = 40


class GenerationActivity(StrEnum):
    """How far a generation has come."""

    PROFILING = "Profiling"
    """Settings are measured on the hardware."""
    PROXIES = "Proxies"
    """Candidate schedules are trained over a short length."""
    PLANNED = "Planned"
    """There is a schedule."""


class PlannedStage(ApiModel):
    """A stage of the generated schedule: what it is expected to take."""

    name: StageText
    """Name of the stage."""
    settings: tuple[ParameterSetting, ...] = Field(
        default=(),
        max_length=MAX_SETTINGS_OF_A_STAGE,
        json_schema_extra=guarded(list_type="map", list_map_keys=["name"]),
    )
    """Settings that differ from those of spec.defaults."""
    throughput: DecimalText | None = None
    """Predicted samples per second, as text."""
    seconds: DecimalText | None = None
    """Predicted time, the switch into it included, seconds as text."""
    switch_seconds: DecimalText | None = None
    """Predicted time of the switch into it, seconds as text."""
    share_percentage: int = Field(default=0, ge=0, le=100)
    """Share of the whole predicted time, percent."""
    observed_ratio: DecimalText | None = None
    """Measured throughput over the predicted one, as text; absent: nothing is measured yet."""


class AlternativeSchedule(ApiModel):
    """A candidate schedule, and what is known of it."""

    name: str = Field(max_length=63)
    """Name of the candidate."""
    seconds: DecimalText | None = None
    """Predicted time, seconds as text."""
    quality: DecimalText | None = None
    """Value of the quality floor's metric, otherwise of the first one, in its proxy, as text; absent: it had
    none."""


class TakenMeasurement(ApiModel):
    """A measurement of another training, kept from when it was taken over."""

    trial: str = Field(max_length=253)
    """Name of the Trial that it was."""
    outcome: TrialOutcome
    """How that ended."""
    reason: str | None = Field(default=None, max_length=LONGEST_LEFT_OUT)
    """Why it did not succeed; absent: it did."""
    parameters: tuple[ParameterSetting, ...] = Field(
        default=(),
        max_length=MAX_SETTINGS_OF_A_STAGE,
        json_schema_extra=guarded(list_type="map", list_map_keys=["name"]),
    )
    """The settings that were measured."""
    metrics: tuple[MetricValue, ...] = Field(
        default=(), max_length=24, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Measured values."""


class GeneratedSchedule(ApiModel):
    """What was measured, which schedule was made from it, and why."""

    activity: GenerationActivity
    """How far the generation has come."""
    plan: int = Field(default=0, ge=0, le=1_000_000)
    """Number of the plan: raised each time that stages to come are planned again."""
    measured: int = Field(default=0, ge=0, le=1_000_000)
    """Combinations of settings that have been measured."""
    max_measured: int = Field(default=0, ge=0, le=1_000_000)
    """Combinations that are measured at most."""
    grid_size: int = Field(default=0, ge=0, le=1_000_000_000_000)
    """Combinations that the ranges allow."""
    reused: int = Field(default=0, ge=0, le=1_000_000)
    """Measurements that were taken over from another training."""
    taken_over: tuple[TakenMeasurement, ...] = Field(
        default=(),
        max_length=MAX_PROFILE_TRIALS,
        json_schema_extra=guarded(list_type="map", list_map_keys=["trial"]),
    )
    """These measurements: the other training may be deleted once they are here."""
    not_reused: str | None = Field(default=None, max_length=1024)
    """Why nothing was taken over from reuseProfileFrom; absent: something was, or nothing is asked for."""
    profile_device_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time that the measurements held their devices, seconds."""
    proxy_device_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time that the proxies held their devices, seconds."""
    prediction_error: DecimalText | None = None
    """Median relative error of the predicted step time over measurements that were held out, as text."""
    device: DeviceUsed | None = None
    candidate: str | None = Field(default=None, max_length=63)
    """Name of the chosen candidate."""
    seconds: DecimalText | None = None
    """Predicted time of the whole training, seconds as text."""
    constant_seconds: DecimalText | None = None
    """Predicted time with the settings of spec.defaults throughout, seconds as text."""
    reason: str | None = Field(default=None, max_length=1024)
    """Why this schedule, as a sentence."""
    left_out: tuple[Annotated[str, Field(max_length=LONGEST_LEFT_OUT)], ...] = Field(
        default=(), max_length=MAX_LEFT_OUT, json_schema_extra=EACH_ONCE
    )
    """Settings of the ranges that no candidate has, each with why: they move the training loss too much, or
    never worked."""
    considered: tuple[StageText, ...] = Field(default=(), max_length=MAX_STAGES, json_schema_extra=EACH_ONCE)
    """Stages that were off their prediction and have been a reason to plan the rest again, whether or not
    that was better."""
    ended_early: tuple[StageText, ...] = Field(default=(), max_length=MAX_STAGES, json_schema_extra=EACH_ONCE)
    """Stages that a plateau has ended early; what they have left is shared out among those after them."""
    lengthened: tuple[StageText, ...] = Field(default=(), max_length=MAX_STAGES, json_schema_extra=EACH_ONCE)
    """Stages that last longer, as far as those after them have room, because their metric still got better
    near their planned end; each one once."""
    table: tuple[PlannedStage, ...] = Field(
        default=(), max_length=MAX_STAGES, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Settings, predicted throughput and time of each stage, in order."""
    alternatives: tuple[AlternativeSchedule, ...] = Field(
        default=(),
        max_length=MAX_ALTERNATIVES,
        json_schema_extra=guarded(list_type="map", list_map_keys=["name"]),
    )
    """The other candidates."""
    stages: tuple[TrainingStage, ...] = Field(
        default=(), max_length=MAX_STAGES, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """The schedule in the form of spec.stages; it can be copied into another training."""
