"""The status of a search: counts, conditions, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from nascale.api.architecture_search import ArchitectureSearchStatus, BaseNetwork, TrialCounts
from nascale.api.resource import Condition
from nascale.api.trial import TrialOutcome
from nascale.reconcile.conditions import Assertion, SearchCondition, TrialCondition, assertion, find, updated
from nascale.reconcile.ending import Ending, running_time
from nascale.reconcile.results import Results, best_values
from nascale.reconcile.search_context import SearchContext
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.trial_course import BLOCKED_SHOWN_AFTER, Attempt
from nascale.reconcile.trial_progress import Stage, blocked_for

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
    """Where a search stands.

    Attributes:
        trials: All trials, as they will be.
        attempts: Those that have not ended.
        results: What has been found.
        end: Why it ends now; ``None``: it goes on.
        base: The base network of a search that ends.
        verdict: Message of the condition that a search ends with.
        faults: What is wrong with the spec.
        created: Trials that are created now: they are pending.
    """

    trials: Sequence[TrialView]
    attempts: Sequence[Attempt]
    results: Results
    end: Ending | None = None
    base: BaseNetwork | None = None
    verdict: str = ""
    faults: Sequence[str] = ()
    created: int = 0


def search_status(context: SearchContext, course: Course) -> ArchitectureSearchStatus:
    """Compute the whole status."""
    old, spec, now = context.search.status, context.search.spec, context.now
    start = old.start_time or (None if course.faults else now)
    counts = trial_counts(course.trials, created=course.created)
    finished = sum(1 for view in course.trials if view.outcome is not None)
    since, seconds = _suspension(old, suspend=spec.suspend, now=now)
    update: dict[str, Any] = {
        "observed_generation": context.search.metadata.generation,
        "start_time": start,
        "completion_time": now if course.end is not None else old.completion_time,
        "suspended_seconds": seconds,
        "suspended_since": None if course.end is not None else since,
        "trials": counts,
        "finished": finished,
        "device_seconds": sum(view.status.device_seconds for view in course.trials),
        "estimated_remaining_seconds": _remaining_seconds(context, course, finished),
        "front": course.results.front,
        "front_size": course.results.front_size,
        "hypervolume": course.results.hypervolume,
        "best": course.results.best,
        "base_network": course.base or old.base_network,
        "conditions": updated(
            old.conditions,
            _assertions(context, course),
            generation=context.search.metadata.generation,
            now=now,
        ),
    }
    return old.model_copy(update=update)


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


def gauges(context: SearchContext, status: ArchitectureSearchStatus) -> dict[str, float]:
    """Return the search's figures for the operator's exporter."""
    figures = {
        "pareto_size": float(status.front_size),
        "hypervolume": float(status.hypervolume or 0.0),
        "device_seconds": float(status.device_seconds),
    }
    for name, value in status.trials.model_dump().items():
        figures[f"trials/{name}"] = float(value)
    for metric, best in best_values(context, status.front).items():
        figures[f"best/{metric}"] = best
    return figures


def invalid_status(
    status: ArchitectureSearchStatus, faults: Sequence[str], generation: int, now: datetime
) -> ArchitectureSearchStatus:
    """Say that a spec can't be carried out; everything else stays."""
    message = "; ".join(faults)
    said = [
        assertion(SearchCondition.SUCCEEDED, False, "InvalidSpec", message),
        assertion(SearchCondition.FAILED, True, "InvalidSpec", message),
        assertion(SearchCondition.PROGRESSING, False, "InvalidSpec", "no trial is started"),
    ]
    if find(status.conditions, SearchCondition.SUSPENDED) is None:
        said.append(assertion(SearchCondition.SUSPENDED, False, "NotSuspended"))
    if find(status.conditions, SearchCondition.METRICS_AVAILABLE) is None:
        said.append(assertion(SearchCondition.METRICS_AVAILABLE, None, "NothingMeasured"))
    conditions = updated(status.conditions, said, generation=generation, now=now)
    return status.model_copy(update={"conditions": conditions, "observed_generation": generation})


def _assertions(context: SearchContext, course: Course) -> list[Assertion]:
    return [
        *_result(course),
        _suspended(context),
        _progressing(context, course),
        _metrics_available(course.trials),
    ]


def _result(course: Course) -> list[Assertion]:
    succeeded, failed = SearchCondition.SUCCEEDED, SearchCondition.FAILED
    if course.faults:
        message = "; ".join(course.faults)
        return [
            assertion(succeeded, False, "InvalidSpec", message),
            assertion(failed, True, "InvalidSpec", message),
        ]
    if course.end is None:
        return [
            assertion(succeeded, False, "InProgress", "the search goes on"),
            assertion(failed, False, "InProgress", "the search goes on"),
        ]
    if course.end.failed or course.base is None:
        reason = course.end.reason if course.end.failed else "NoFeasibleTrial"
        return [
            assertion(succeeded, False, reason, course.verdict),
            assertion(failed, True, reason, course.verdict),
        ]
    return [
        assertion(succeeded, True, course.end.reason, course.verdict),
        assertion(failed, False, course.end.reason, "the search has succeeded"),
    ]


def _suspended(context: SearchContext) -> Assertion:
    kind = SearchCondition.SUSPENDED
    old = find(context.search.status.conditions, kind)
    if context.search.spec.suspend:
        return assertion(kind, True, "Suspended", "spec.suspend is true: no trial starts or runs")
    if old is None or old.reason == "NotSuspended":
        return assertion(kind, False, "NotSuspended")
    return assertion(kind, False, "Resumed", "the search goes on")


def _progressing(context: SearchContext, course: Course) -> Assertion:
    kind = SearchCondition.PROGRESSING
    if course.end is not None:
        return assertion(kind, False, course.end.reason, course.end.message)
    if course.faults:
        return assertion(kind, False, "InvalidSpec", "no new trial is started; those that run go on")
    if context.search.spec.suspend:
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
    return assertion(kind, True, "Searching", "trials run, or are about to")


def _trouble(context: SearchContext, attempts: Sequence[Attempt]) -> str | None:
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


def _metrics_available(trials: Sequence[TrialView]) -> Assertion:
    kind = SearchCondition.METRICS_AVAILABLE
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


def _suspension(
    status: ArchitectureSearchStatus, *, suspend: bool, now: datetime
) -> tuple[datetime | None, int]:
    since, seconds = status.suspended_since, status.suspended_seconds
    if suspend:
        return since or now, seconds
    if since is None:
        return None, seconds
    return None, seconds + max(0, int((now - since).total_seconds()))


def _remaining_seconds(context: SearchContext, course: Course, finished: int) -> int | None:
    old = context.search.status
    if course.end is not None:
        return None
    if finished == old.finished:
        # Between two ends nothing is learnt, and a figure that changes with the clock alone costs writes.
        return old.estimated_remaining_seconds
    most = context.search.spec.budget.max_trials
    return round(running_time(context).total_seconds() / max(1, finished) * max(0, most - finished))
