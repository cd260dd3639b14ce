"""The conditions of a training."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from nascale.api.resource import Condition
from nascale.api.training_status import ProgressiveTrainingStatus
from nascale.contract import training_series as series
from nascale.contract.run_report import RunOutcome
from nascale.progressive.schedule import quality_warnings
from nascale.reconcile.actions import ReadingProblem
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion, find
from nascale.reconcile.decimals import short
from nascale.reconcile.job_manifest import trial_resources
from nascale.reconcile.profiled_training import profiled
from nascale.reconcile.shared_devices import exclusiveness
from nascale.reconcile.training_context import NOUN, TrainingContext
from nascale.reconcile.training_course import Course
from nascale.reconcile.training_progress import RunStage
from nascale.reconcile.training_queries import problem
from nascale.reconcile.training_revisions import schedule_in_force

SLOW_SHARE: Final = 0.5
"""Throughput below this share of the stage's own median is called slow."""
OVERDUE_INTERVALS: Final = 3
"""Checkpoint intervals after which a missing checkpoint is told."""
SHORTEST_OVERDUE_SECONDS: Final = 60.0
FIRST_SCRAPE_SECONDS: Final = 90.0
"""A new pod's first samples may take that long; before, their absence says nothing."""


def assertions(
    context: TrainingContext, course: Course, status: ProgressiveTrainingStatus
) -> list[Assertion]:
    """Return what every condition shall say.

    Args:
        context: The training.
        course: Where it stands.
        status: Its status as it will be, but for the conditions.
    """
    said = [
        *_result(context, course),
        _suspended(context, course),
        _progressing(context, course),
        _stage_applied(context, course),
        _metrics_available(context, course),
        _checkpoints_healthy(context, course),
        _degraded(context, course),
        _diverged(context, course, status),
        _stalled(context, course),
        *_quality_safe(context, course),
        *_devices_exclusive(context),
    ]
    return [_kept_after_the_end(course, entry) for entry in said]


def _kept_after_the_end(course: Course, said: Assertion) -> Assertion:
    """Let what was true at the end of a run stay as it was, but for what can't go on."""
    if course.end is None or said.type != OwnerCondition.STALLED:
        return said
    return assertion(OwnerCondition.STALLED, False, "Ended", f"the {NOUN} has ended")


def _old(context: TrainingContext, kind: OwnerCondition) -> Condition | None:
    return find(context.training.status.conditions, kind)


def _as_before(context: TrainingContext, kind: OwnerCondition, otherwise: Assertion) -> Assertion:
    old = _old(context, kind)
    return otherwise if old is None else Assertion(kind, old.status, old.reason, old.message)


def _result(context: TrainingContext, course: Course) -> list[Assertion]:
    succeeded, failed = OwnerCondition.SUCCEEDED, OwnerCondition.FAILED
    if course.end is not None:
        reason, message = course.end.reason, course.end.message
        good = not course.end.failed
        return [
            assertion(succeeded, good, reason, message),
            assertion(failed, not good, reason, message if not good else f"the {NOUN} has succeeded"),
        ]
    if context.faults and course.number == 0:
        message = "; ".join(context.faults)
        return [
            assertion(succeeded, False, "InvalidSpec", message),
            assertion(failed, True, "InvalidSpec", message),
        ]
    going = f"the {NOUN} goes on"
    return [
        assertion(succeeded, False, "InProgress", going),
        assertion(failed, False, "InProgress", going),
    ]


def _suspended(context: TrainingContext, course: Course) -> Assertion:
    kind = OwnerCondition.SUSPENDED
    old = _old(context, kind)
    if course.suspended:
        return assertion(kind, True, "Suspended", "spec.suspend is true: nothing of it runs")
    if context.training.spec.suspend and course.end is None:
        return assertion(kind, False, "Pausing", "it saves at the next step boundary and stops")
    if old is None or old.reason == "NotSuspended":
        return assertion(kind, False, "NotSuspended")
    return assertion(kind, False, "Resumed", f"the {NOUN} goes on")


def _progressing(context: TrainingContext, course: Course) -> Assertion:
    kind = OwnerCondition.PROGRESSING
    if course.end is not None:
        return assertion(kind, False, course.end.reason, course.end.message)
    if course.suspended:
        return assertion(kind, False, "Suspended", "spec.suspend is true")
    if context.faults and course.number == 0:
        return assertion(kind, False, "InvalidSpec", "nothing is started")
    return course.activity


def _stage_applied(  # noqa: PLR0911 - a decision list: the first answer that fits
    context: TrainingContext, course: Course
) -> Assertion:
    kind = OwnerCondition.STAGE_APPLIED
    if context.faults and course.number:
        message = "; ".join(context.faults)
        return assertion(kind, False, "InvalidSpec", f"the run goes on as it is: {message}")
    generation, state, answer = course.generation, course.state, course.answer
    nothing = assertion(kind, None, "NothingApplied", "no stage has begun")
    if generation is None or generation.order is None:
        return _as_before(context, kind, nothing)
    if course.edit_faults:
        message = f"the run goes on as it is: {'; '.join(course.edit_faults)}"
        return assertion(kind, False, "EditRefused", message)
    if course.refused:
        message = f"the run has refused revision {answer.refused} ({answer.reason}) and goes on as before"
        return assertion(kind, False, "EditRefused", message)
    in_force = schedule_in_force(context, answer)
    if course.end is not None and not course.end.failed and course.schedule != in_force:
        message = "the edit came after the run's last look: the whole length was trained without it"
        return assertion(kind, False, "EditRefused", message)
    if state is not None and state.stages is not None and state.stages != in_force:
        if answer.applied >= state.revision:
            return assertion(kind, True, "Applied", f"the run follows revision {answer.applied}")
        return assertion(kind, None, "Pending", f"the run has not answered revision {state.revision} yet")
    if course.started or course.report is not None:
        return assertion(kind, True, "Applied", "the run follows the stages of the spec")
    return _as_before(context, kind, nothing)


def _metrics_available(context: TrainingContext, course: Course) -> Assertion:
    kind = OwnerCondition.METRICS_AVAILABLE
    generation, reading = course.generation, course.reading
    leader = None if generation is None else generation.leader
    if leader is None or reading is None:
        return _as_before(context, kind, assertion(kind, None, "NothingMeasured", "nothing has run yet"))
    young = leader.started is None or context.now - leader.started < timedelta(seconds=FIRST_SCRAPE_SECONDS)
    if reading.problem is None:
        unanswered = problem(context, course)
        if unanswered and not young:
            return assertion(kind, False, "StageQueryFailed", unanswered)
        return assertion(kind, True, "AllRead", "Prometheus has the run's series")
    if reading.problem is ReadingProblem.NO_SERIES and young:
        waits = assertion(kind, None, "NothingMeasured", "Prometheus has not scraped the run yet")
        return _as_before(context, kind, waits)
    message = f"{reading.message}; the {NOUN} is not disturbed, and its figures catch up"
    return assertion(kind, False, f"Prometheus{reading.problem.value}", message)


def _checkpoints_healthy(context: TrainingContext, course: Course) -> Assertion:
    kind = OwnerCondition.CHECKPOINTS_HEALTHY
    figures = course.figures
    if not figures.plain:
        unknown = assertion(kind, None, "NothingSaved", "no checkpoint is known of")
        if course.report is not None and course.report.outcome in _SAVED:
            return assertion(kind, True, "Saved", "the last checkpoint was committed")
        return _as_before(context, kind, unknown)
    damaged = figures.count(series.DAMAGED_CHECKPOINTS)
    saved = figures.checkpoint_time
    begun = course.generation.leader.started if course.generation and course.generation.leader else None
    every = float(context.training.spec.checkpoints.every_seconds)
    longest = timedelta(seconds=max(SHORTEST_OVERDUE_SECONDS, OVERDUE_INTERVALS * every))
    last = max([moment for moment in (saved, begun) if moment is not None], default=None)
    if last is not None and context.now - last > longest:
        message = f"the last checkpoint should be at most {longest.total_seconds():.0f} s old, and is older"
        return assertion(kind, False, "Overdue", f"{message}; the run goes on")
    if damaged:
        return assertion(kind, False, "Damaged", f"damaged checkpoints were skipped: {damaged}")
    if saved is None:
        return assertion(kind, None, "NothingSaved", "no checkpoint was due yet")
    return assertion(kind, True, "Saved", "checkpoints are made in time")


_SAVED: Final = (RunOutcome.COMPLETED, RunOutcome.SWITCH, RunOutcome.PAUSED)


def _degraded(context: TrainingContext, course: Course) -> Assertion:
    kind = OwnerCondition.DEGRADED
    if course.degraded is not None:
        return course.degraded
    if course.fallback is not None:
        return assertion(kind, True, "FellBack", course.fallback.message)
    if course.started:
        return assertion(kind, False, "AsPlanned", "every worker that the stage asks for runs")
    return _as_before(context, kind, assertion(kind, False, "AsPlanned"))


def _diverged(context: TrainingContext, course: Course, status: ProgressiveTrainingStatus) -> Assertion:
    kind = OwnerCondition.DIVERGED
    report = course.report
    if report is not None and report.outcome is RunOutcome.FAILED and report.reason == "Diverged":
        return assertion(kind, True, "Stopped", report.message or "the loss was not finite")
    if status.roll_backs:
        times = "once" if status.roll_backs == 1 else f"{status.roll_backs} times"
        went_back = f"the run went back to a checkpoint {times}"
        if _has_recovered(context, course, status):
            return assertion(kind, False, "Recovered", f"the loss is finite again: {went_back}")
        return assertion(kind, True, "RolledBack", f"the loss was not finite: {went_back}")
    if course.figures.count(series.NON_FINITE):
        return assertion(kind, True, "NotFinite", "the loss was not finite")
    return _as_before(context, kind, assertion(kind, False, "Finite", "every loss was finite"))


def _has_recovered(context: TrainingContext, course: Course, status: ProgressiveTrainingStatus) -> bool:
    """Say whether a run that went back has trained past the step at which its loss was not finite."""
    if course.report is not None and course.report.outcome in _SAVED:
        # Its weights and every loss were looked at before it saved.
        return True
    if course.figures.recovered:
        return True
    # A crash may lead behind that step again, and what is not said leaves things as they are.
    old, before = _old(context, OwnerCondition.DIVERGED), context.training.status.roll_backs
    return old is not None and old.reason == "Recovered" and status.roll_backs == before


def stall_limit(context: TrainingContext, course: Course) -> timedelta | None:
    """Return how long a running training may make no step; ``None``: the usual step is not known."""
    place = course.figures.place
    stage = None if place is None else course.figures.stages.get(place)
    usual = None if stage is None else stage.values.get("p50_seconds")
    if usual is None or usual <= 0:
        return None
    restarts = context.training.spec.restarts
    return timedelta(seconds=max(float(restarts.min_stall_seconds), restarts.stall_factor * usual))


def _stalled(context: TrainingContext, course: Course) -> Assertion:
    kind = OwnerCondition.STALLED
    running = course.progress is not None and course.progress.stage is RunStage.RUNNING
    limit = stall_limit(context, course)
    reading = course.reading
    if not running or reading is None or reading.still_since is None or limit is None:
        return _as_before(context, kind, assertion(kind, False, "NotStalled", "nothing is known of a stall"))
    if reading.problem is not None:
        # Nobody knows whether it goes on.
        return _as_before(context, kind, assertion(kind, False, "NotStalled"))
    if context.now - reading.still_since >= limit:
        message = f"no step for more than {limit.total_seconds():.0f} s; nothing is killed"
        return assertion(kind, True, "NoSteps", message)
    slow = _slow(course)
    if slow is not None:
        return assertion(kind, True, "SlowSteps", slow)
    return assertion(kind, False, "StepsGoOn", "steps come as usual")


def _slow(course: Course) -> str | None:
    figures = course.figures
    now = figures.number(series.THROUGHPUT)
    stage = figures.stages.get(-1 if figures.place is None else figures.place)
    usual = None if stage is None else stage.values.get("p50_seconds")
    batch = figures.settings.get("global_batch")
    if now is None or not usual or not batch or now >= SLOW_SHARE * batch / usual:
        return None
    return (
        f"throughput must be at least {SLOW_SHARE:g} of the stage's median, {short(batch / usual)} samples/s"
    )


def _quality_safe(context: TrainingContext, course: Course) -> Iterator[Assertion]:
    kind = OwnerCondition.QUALITY_SAFE
    stages = course.schedule or context.stages
    if not stages:
        return
    pinned = context.model.pinned
    warnings = quality_warnings(stages, None if pinned is None else pinned.architecture)
    if warnings:
        yield assertion(kind, False, "UnsafeLastStage", "; ".join(warnings))
    else:
        yield assertion(kind, True, "SafeLastStage", "the last stage has quality-safe settings")


def _devices_exclusive(context: TrainingContext) -> Iterator[Assertion]:
    """Say whether a profile is measured on devices that nobody else has shares of."""
    if context.training.spec.schedule is None:
        return
    owner = profiled(context.training)
    said = exclusiveness(trial_resources(owner), owner.spec.target.node_selector, context.sharing_nodes)
    if said is not None:
        yield said
