"""What the status of a search and that of a sweep have in common: counts, times, conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from nascale.api.architecture_search import ArchitectureSearchStatus, TrialCounts
from nascale.api.resource import Condition
from nascale.api.scaling_sweep import ScalingSweepStatus
from nascale.api.training_status import ProgressiveTrainingStatus
from nascale.api.trial import TrialOutcome
from nascale.reconcile.conditions import Assertion, OwnerCondition, TrialCondition, assertion, find, updated
from nascale.reconcile.ending import Ending
from nascale.reconcile.job_manifest import trial_resources
from nascale.reconcile.owner_context import OwnerContext
from nascale.reconcile.shared_devices import exclusiveness
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.trial_course import BLOCKED_SHOWN_AFTER, Attempt
from nascale.reconcile.trial_progress import Stage, blocked_for

S = TypeVar("S", ArchitectureSearchStatus, ScalingSweepStatus, ProgressiveTrainingStatus)

_QUEUED_SHOWN_AFTER: Final = timedelta(seconds=10)
_TROUBLED_AFTER: Final = 3
"""Interruptions of one trial after which its back-off is called a trouble of the infrastructure."""
_COUNT_NAMES: Final[Mapping[TrialOutcome, str]] = {
    TrialOutcome.SUCCEEDED: "succeeded",
    TrialOutcome.INFEASIBLE: "infeasible",
    TrialOutcome.EARLY_STOPPED: "early_stopped",
    TrialOutcome.FAILED: "failed",
    TrialOutcome.METRICS_UNAVAILABLE: "metrics_unavailable",
}


@dataclass(frozen=True)
class Course:
    """Where a search or sweep stands.

    Attributes:
        trials: All trials, as they will be.
        attempts: Those that have not ended.
        end: Why it ends now; ``None``: it goes on.
        found: Whether it has found what it was for.
        verdict: Message of the condition that it ends with.
        faults: What is wrong with the spec.
        created: Trials that are created now: they are pending.
    """

    trials: Sequence[TrialView]
    attempts: Sequence[Attempt]
    end: Ending | None = None
    found: bool = False
    verdict: str = ""
    faults: Sequence[str] = ()
    created: int = 0


def shared_fields(context: OwnerContext, course: Course, activity: Assertion) -> dict[str, Any]:
    """Compute the fields that the status of every kind has.

    Args:
        context: The search or sweep.
        course: Where it stands.
        activity: What the condition Progressing says while nothing holds it up.
    """
    old, metadata, now = context.owner.status, context.owner.metadata, context.now
    since, seconds = suspension(old, suspend=context.owner.spec.suspend, now=now)
    said = [
        *result(context, course),
        _suspended(context),
        progressing(context, course, activity),
        metrics_available(course.trials),
        *devices_exclusive(context),
    ]
    return {
        "observed_generation": metadata.generation,
        "start_time": old.start_time or (None if course.faults else now),
        "completion_time": now if course.end is not None else old.completion_time,
        "suspended_seconds": seconds,
        "suspended_since": None if course.end is not None else since,
        "trials": trial_counts(course.trials, created=course.created),
        "finished": sum(1 for view in course.trials if view.outcome is not None),
        "device_seconds": sum(view.status.device_seconds for view in course.trials),
        "conditions": updated(old.conditions, said, generation=metadata.generation, now=now),
    }


def trial_counts(trials: Sequence[TrialView], *, created: int = 0) -> TrialCounts:
    """Count trials by state and outcome; those that are just being created are pending."""
    counts = dict.fromkeys(("pending", "running", *_COUNT_NAMES.values()), 0)
    counts["pending"] = created
    for view in trials:
        if view.outcome is not None:
            counts[_COUNT_NAMES[view.outcome]] += 1
        else:
            counts["running" if view.status.start_time is not None else "pending"] += 1
    return TrialCounts(**counts)


def invalid_status(status: S, faults: Sequence[str], generation: int, now: datetime) -> S:
    """Say that a spec can't be carried out; everything else stays."""
    message = "; ".join(faults)
    said = [
        assertion(OwnerCondition.SUCCEEDED, False, "InvalidSpec", message),
        assertion(OwnerCondition.FAILED, True, "InvalidSpec", message),
        assertion(OwnerCondition.PROGRESSING, False, "InvalidSpec", "nothing is started"),
    ]
    if find(status.conditions, OwnerCondition.SUSPENDED) is None:
        said.append(assertion(OwnerCondition.SUSPENDED, False, "NotSuspended"))
    if find(status.conditions, OwnerCondition.METRICS_AVAILABLE) is None:
        said.append(assertion(OwnerCondition.METRICS_AVAILABLE, None, "NothingMeasured"))
    conditions = updated(status.conditions, said, generation=generation, now=now)
    return status.model_copy(update={"conditions": conditions, "observed_generation": generation})


def result(context: OwnerContext, course: Course) -> list[Assertion]:
    """Say whether the owner has succeeded or failed."""
    succeeded, failed, noun = OwnerCondition.SUCCEEDED, OwnerCondition.FAILED, context.noun
    if course.faults:
        message = "; ".join(course.faults)
        return [
            assertion(succeeded, False, "InvalidSpec", message),
            assertion(failed, True, "InvalidSpec", message),
        ]
    if course.end is None:
        return [
            assertion(succeeded, False, "InProgress", f"the {noun} goes on"),
            assertion(failed, False, "InProgress", f"the {noun} goes on"),
        ]
    if course.end.failed or not course.found:
        reason = course.end.reason if course.end.failed else "NoFeasibleTrial"
        return [
            assertion(succeeded, False, reason, course.verdict),
            assertion(failed, True, reason, course.verdict),
        ]
    return [
        assertion(succeeded, True, course.end.reason, course.verdict),
        assertion(failed, False, course.end.reason, f"the {noun} has succeeded"),
    ]


def _suspended(context: OwnerContext) -> Assertion:
    kind = OwnerCondition.SUSPENDED
    old = find(context.owner.status.conditions, kind)
    if context.owner.spec.suspend:
        return assertion(kind, True, "Suspended", "spec.suspend is true: no trial starts or runs")
    if old is None or old.reason == "NotSuspended":
        return assertion(kind, False, "NotSuspended")
    return assertion(kind, False, "Resumed", f"the {context.noun} goes on")


def progressing(context: OwnerContext, course: Course, activity: Assertion) -> Assertion:
    """Say what the owner is at, or what holds it up."""
    kind = OwnerCondition.PROGRESSING
    if course.end is not None:
        return assertion(kind, False, course.end.reason, course.end.message)
    if course.faults:
        return assertion(kind, False, "InvalidSpec", "no new trial is started; those that run go on")
    if context.owner.spec.suspend:
        return assertion(kind, False, "Suspended", "spec.suspend is true")
    trouble = _trouble(context, course.attempts)
    if trouble is not None:
        return assertion(
            kind, False, "WaitingForInfrastructure", f"{trouble}; it goes on when that is solved"
        )
    if course.attempts and all(_long_queued(attempt, context.now) for attempt in course.attempts):
        return assertion(
            kind, False, "Queued", "every trial's Job is suspended: its queue has not admitted it"
        )
    return activity


def _trouble(context: OwnerContext, attempts: Sequence[Attempt]) -> str | None:
    """Say what holds up all trials at once; ``None`` while one gets on."""
    said: str | None = None
    for attempt in attempts:
        status, stage = attempt.view.status, attempt.progress.stage
        if stage is Stage.BLOCKED and blocked_for(attempt.progress, context.now) >= BLOCKED_SHOWN_AFTER:
            said = said or f"{attempt.view.name}: {attempt.progress.reason}"
        elif attempt.job is None and status.attempt - status.own_failures >= _TROUBLED_AFTER:
            condition = find(status.conditions, TrialCondition.RUNNING)
            reason = "interrupted" if condition is None else condition.reason
            said = said or f"{attempt.view.name}: interrupted again and again ({reason})"
        else:
            return None
    return said


def _long_queued(attempt: Attempt, now: datetime) -> bool:
    job = attempt.job
    return (
        job is not None
        and job.queue
        and attempt.progress.stage is Stage.QUEUED
        and now - job.created >= _QUEUED_SHOWN_AFTER
    )


def metrics_available(trials: Sequence[TrialView]) -> Assertion:
    """Repeat what the trial that ended last says of its values."""
    kind = OwnerCondition.METRICS_AVAILABLE
    latest: tuple[datetime, int] | None = None
    found: Condition | None = None
    for view in trials:
        ended = view.status.completion_time
        if ended is None or (latest is not None and (ended, view.index) < latest):
            continue
        said = find(view.status.conditions, TrialCondition.METRICS_AVAILABLE)
        if said is not None:
            latest, found = (ended, view.index), said
    if found is None:
        return assertion(kind, None, "NothingMeasured", "no trial has ended with values yet")
    return Assertion(kind, found.status, found.reason, found.message)


def devices_exclusive(context: OwnerContext) -> list[Assertion]:
    """Say whether measuring pods have their devices to themselves, where they ask for any."""
    owner = context.owner
    said = exclusiveness(trial_resources(owner), owner.spec.target.node_selector, context.sharing_nodes)
    return [] if said is None else [said]


def suspension(
    status: ArchitectureSearchStatus | ScalingSweepStatus | ProgressiveTrainingStatus,
    *,
    suspend: bool,
    now: datetime,
) -> tuple[datetime | None, int]:
    """Return since when the owner is suspended, and for how many seconds it was before."""
    since, seconds = status.suspended_since, status.suspended_seconds
    if suspend:
        return since or now, seconds
    if since is None:
        return None, seconds
    return None, seconds + max(0, int((now - since).total_seconds()))
