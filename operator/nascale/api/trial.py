"""``Trial``: the durable record of one measurement. The operator writes it, people read it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from nascale.api.architecture_search import FidelityLevel, MetricValue, ParameterSetting
from nascale.api.resource import MAX_SECONDS, ApiModel, Condition, ObjectMeta
from nascale.api.rules import IMMUTABLE, guarded

KIND = "Trial"


class TrialOutcome(StrEnum):
    """How a trial ended."""

    SUCCEEDED = "Succeeded"
    """With a value for every objective."""
    INFEASIBLE = "Infeasible"
    """A hard constraint is broken, or the network can't be built."""
    EARLY_STOPPED = "EarlyStopped"
    """Going on could not pay."""
    FAILED = "Failed"
    """By its own error, after the last retry."""
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    """Without a value for every objective."""


class TrialPurpose(StrEnum):
    """What a trial of a sweep or a training is for."""

    REFERENCE = "Reference"
    """Measures the unscaled base beside the other networks of its pod: shows drift."""
    LATENCY = "Latency"
    """Measures a scaled network, trains nothing."""
    TRAINING = "Training"
    """Trains a candidate vector's network at one rung."""
    VERIFICATION = "Verification"
    """Trains a chosen vector's network at a member, at the last rung."""
    BASELINE = "Baseline"
    """Trains a baseline's network."""
    CONFIRMATION = "Confirmation"
    """Trains a network that is too close to another one to call, with a further seed."""
    PROFILE = "Profile"
    """Measures settings of a training that is to be generated."""
    PROXY = "Proxy"
    """Trains a candidate schedule over a short length."""


class TrialSpec(ApiModel):
    """What is measured. Never changed after creation."""

    index: int = Field(ge=0, le=1_000_000)
    """Position in the search or sweep: the order in which trials were asked for."""
    candidate: int = Field(ge=0, le=1_000_000)
    """Index of the first trial with these parameters: trials of one candidate at several rungs share it."""
    rung: int = Field(default=0, ge=0, le=5)
    """Position in spec.fidelities.levels of the search or sweep."""
    lead: int = Field(ge=0, le=1_000_000)
    """Index of the first trial that shares this one's pod: its own, unless trialsPerPod is above 1."""
    fidelity: FidelityLevel
    parameters: tuple[ParameterSetting, ...] = Field(
        min_length=1, max_length=128, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """The candidate's parameters; of a sweep: multipliers of depth, width and resolution, scaled sizes; of a
    training: the settings that are measured, or the schedule that is tried."""
    origin: str = Field(default="", max_length=63)
    """What proposed it, for people: a step of the sampler (mutation, random, promotion), a vector's or a
    baseline's name."""
    purpose: TrialPurpose | None = None
    """What a trial of a sweep or a training is for; absent: a trial of a search."""
    member: str | None = Field(default=None, max_length=63)
    """Member of the family that it was asked for; absent: none in particular."""
    repeat: int | None = Field(default=None, ge=0, le=1_000_000)
    """Which of several trainings of one network at the last rung, from 0; absent: the only one."""
    remeasures: int | None = Field(default=None, ge=0, le=1_000_000)
    """Index of the trial whose measurement this one repeats because the device had drifted."""


class DeviceUsed(ApiModel):
    """Where the trial ran."""

    node: str | None = Field(default=None, max_length=253)
    """Name of the node."""
    type: str | None = Field(default=None, max_length=16)
    """Kind of device: cpu or cuda."""
    name: str | None = Field(default=None, max_length=64)
    """A GPU's name as its driver gives it; a processor's model, and its fastest instructions."""
    software: str | None = Field(default=None, max_length=64)
    """Library that ran the network, with its version."""
    clock_megahertz: int | None = Field(default=None, ge=0, le=1_000_000)
    """Clock of the device when it was measured, MHz."""


class TrialStatus(ApiModel):
    """What was measured. The operator writes it."""

    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, json_schema_extra=guarded(list_type="map", list_map_keys=["type"])
    )
    """State in metav1 form."""
    outcome: TrialOutcome | None = None
    """How the trial ended; absent while it has not."""
    attempt: int = Field(default=0, ge=0, le=1_000_000)
    """Runs begun after the first one: by the trial's own error or by the infrastructure."""
    own_failures: int = Field(default=0, ge=0, le=1_000_000)
    """Attempts that ended by the trial's own error; only these count against trialRetries."""
    next_attempt_time: datetime | None = None
    """Earliest start of the next attempt (back-off)."""
    job_name: str | None = Field(default=None, max_length=63)
    """Name of the Job of the latest attempt."""
    pod_name: str | None = Field(default=None, max_length=253)
    """Name of the pod of the latest attempt."""
    start_time: datetime | None = None
    """When the pod of the latest attempt started."""
    completion_time: datetime | None = None
    """When the trial ended."""
    device_seconds: int = Field(default=0, ge=0, le=MAX_SECONDS)
    """Time that the trial held its device over all attempts, seconds."""
    summary: str | None = Field(default=None, max_length=256)
    """Values of the objectives, for people (accuracy=0.98 latency_p50_seconds=0.0021)."""
    metrics: tuple[MetricValue, ...] = Field(
        default=(), max_length=24, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Measured values, and where each was read."""
    device: DeviceUsed | None = None


class Trial(ApiModel):
    """One measurement of one candidate at one fidelity: written by the operator, for people to read."""

    api_version: str = "nascale.io/v1alpha1"
    kind: str = KIND
    metadata: ObjectMeta
    spec: TrialSpec = Field(json_schema_extra=guarded(IMMUTABLE))
    status: TrialStatus = TrialStatus()
