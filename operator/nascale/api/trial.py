"""``Trial``: the durable record of one measurement. The operator writes it, people read it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from nascale.api.architecture_search import FidelityLevel, MetricValue, ParameterSetting
from nascale.api.resource import ApiModel, Condition, ObjectMeta

KIND = "Trial"


class TrialOutcome(StrEnum):
    """How a trial ended."""

    SUCCEEDED = "Succeeded"
    INFEASIBLE = "Infeasible"
    EARLY_STOPPED = "EarlyStopped"
    FAILED = "Failed"
    METRICS_UNAVAILABLE = "MetricsUnavailable"


class TrialSpec(ApiModel):
    """What is measured. Never changed after creation."""

    index: int = Field(ge=0, le=1_000_000)
    """Position in the search: the order in which trials were asked for."""
    candidate: int = Field(ge=0, le=1_000_000)
    """Index of the first trial with these parameters: trials of one candidate at several rungs share it."""
    rung: int = Field(default=0, ge=0, le=5)
    """Position in spec.fidelities.levels of the search."""
    lead: int = Field(ge=0, le=1_000_000)
    """Index of the first trial that shares this one's pod (itself, unless trialsPerPod is above 1)."""
    fidelity: FidelityLevel
    parameters: tuple[ParameterSetting, ...] = Field(min_length=1, max_length=128)
    origin: str = Field(default="", max_length=63)
    """Which step of the sampler proposed it, for people (``mutation``, ``random``, ``promotion``)."""


class DeviceUsed(ApiModel):
    """Where the trial ran."""

    node: str | None = Field(default=None, max_length=253)
    type: str | None = Field(default=None, max_length=16)
    name: str | None = Field(default=None, max_length=64)
    software: str | None = Field(default=None, max_length=64)
    clock_megahertz: int | None = Field(default=None, ge=0)


class TrialStatus(ApiModel):
    """What was measured."""

    conditions: tuple[Condition, ...] = Field(default=(), max_length=16)
    outcome: TrialOutcome | None = None
    attempt: int = Field(default=0, ge=0)
    """Runs begun after the first one: by the trial's own error or by the infrastructure."""
    own_failures: int = Field(default=0, ge=0)
    """Attempts that ended by the trial's own error; only these count against trialRetries."""
    next_attempt_time: datetime | None = None
    """Earliest start of the next attempt (back-off)."""
    job_name: str | None = Field(default=None, max_length=63)
    pod_name: str | None = Field(default=None, max_length=253)
    start_time: datetime | None = None
    completion_time: datetime | None = None
    device_seconds: int = Field(default=0, ge=0)
    metrics: tuple[MetricValue, ...] = Field(default=(), max_length=24)
    device: DeviceUsed | None = None


class Trial(ApiModel):
    """One measurement of one candidate at one fidelity."""

    api_version: str = "nascale.io/v1alpha1"
    kind: str = KIND
    metadata: ObjectMeta
    spec: TrialSpec
    status: TrialStatus = TrialStatus()
