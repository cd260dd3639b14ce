"""metav1 conditions: set by type, with a transition time that moves only when the status does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from nascale.api.resource import Condition, ConditionStatus

LONGEST_MESSAGE: Final = 1024


class OwnerCondition(StrEnum):
    """Condition types of a search, sweep or training."""

    SUCCEEDED = "Succeeded"
    """It ended and has found what it was for: a base network, a whole family."""
    FAILED = "Failed"
    """It ended without, or its spec can't be carried out."""
    SUSPENDED = "Suspended"
    PROGRESSING = "Progressing"
    """Trials run, or are about to."""
    METRICS_AVAILABLE = "MetricsAvailable"
    """Every value of the last ended trial was read where its objective says."""
    CHECKPOINTS_PRUNED = "CheckpointsPruned"
    """Only after the end, with ``checkpoints``: what shall not stay is gone from the volume."""
    LATENCY_STEADY = "LatencySteady"
    """Only of a sweep: the target's latency does not drift while it is measured."""
    DEVICES_EXCLUSIVE = "DevicesExclusive"
    """Only where measuring pods ask for devices of which pods can have shares: they have theirs alone."""
    STAGE_APPLIED = "StageApplied"
    """Only of a training, as those that follow: the run follows the stages that the spec states."""
    CHECKPOINTS_HEALTHY = "CheckpointsHealthy"
    """Checkpoints are made in time, and none was found damaged."""
    DEGRADED = "Degraded"
    """It goes on with less than a stage asks for."""
    DIVERGED = "Diverged"
    """A loss was not finite."""
    STALLED = "Stalled"
    """Steps don't come, or come far slower than usual."""
    QUALITY_SAFE = "QualitySafe"
    """The last stage has hardware settings that don't cost quality."""


class TrialCondition(StrEnum):
    """Condition types of a trial."""

    RUNNING = "Running"
    ENDED = "Ended"
    """The trial has its outcome, which is also the reason's cause."""
    METRICS_AVAILABLE = "MetricsAvailable"


@dataclass(frozen=True)
class Assertion:
    """What a condition shall say."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""


def assertion(kind: str, holds: bool | None, reason: str, message: str = "") -> Assertion:  # noqa: FBT001 - True, False, Unknown are the condition's own values
    """Say that a condition holds, does not (``False``), or can't be known yet (``None``)."""
    status = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[holds]
    return Assertion(kind, status, reason, message)


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of one type, if it is set."""
    return next((entry for entry in conditions if entry.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Say whether a condition is set and true."""
    found = find(conditions, kind)
    return found is not None and found.status is ConditionStatus.TRUE


def updated(
    conditions: tuple[Condition, ...],
    assertions: Iterable[Assertion],
    *,
    generation: int | None,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return the conditions with the assertions in place; others, and their order, stay.

    Args:
        conditions: As observed.
        assertions: What shall hold, one per type.
        generation: The owner's generation that this was decided for.
        now: The clock, whole seconds.
    """
    result = {entry.type: entry for entry in conditions}
    for wanted in assertions:
        old = result.get(wanted.type)
        moved = old is None or old.status is not wanted.status
        result[wanted.type] = Condition(
            type=wanted.type,
            status=wanted.status,
            reason=wanted.reason,
            message=shortened(wanted.message),
            observed_generation=generation,
            last_transition_time=now if moved or old is None else old.last_transition_time,
        )
    return tuple(result.values())


def shortened(message: str, limit: int = LONGEST_MESSAGE) -> str:
    """Cut a message, visibly."""
    return message if len(message) <= limit else message[: limit - 1] + "…"
