"""When a search or sweep ends, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from nascale.api.trial import TrialOutcome
from nascale.reconcile.draft import Draft
from nascale.reconcile.job_manifest import devices_per_pod
from nascale.reconcile.owner_context import OwnerContext
from nascale.reconcile.snapshot import Children, TrialView
from nascale.reconcile.trial_course import Attempt, device_share
from nascale.reconcile.trial_progress import Stage


@dataclass(frozen=True)
class Ending:
    """Why a search or sweep ends.

    Attributes:
        reason: CamelCase word.
        message: For people.
        failed: It has failed, whatever was found; else it depends on that.
    """

    reason: str
    message: str
    failed: bool = False


def ending(
    context: OwnerContext,
    children: Children,
    attempts: Sequence[Attempt],
    draft: Draft,
    *,
    goals_reached: bool,
) -> Ending | None:
    """Say why the owner ends now; ``None``: it goes on, as far as the budget is concerned."""
    return (
        _too_many_failures(context, draft.trials)
        or (Ending("GoalsReached", "one trial reaches every goal") if goals_reached else None)
        or _deadline(context, draft)
        or _device_seconds(context, children, attempts, draft)
    )


def _too_many_failures(context: OwnerContext, trials: Sequence[TrialView]) -> Ending | None:
    most = context.owner.spec.budget.max_failed_trials
    failed = [view for view in trials if view.outcome is TrialOutcome.FAILED]
    if len(failed) > most:
        return Ending(
            "MaxFailedTrialsReached",
            f"trials that failed must be at most maxFailedTrials ({most}), not {len(failed)}"
            f"{_why(failed[-1])}",
            failed=True,
        )
    # An owner whose metrics can't be read would otherwise spend its whole budget on nothing.
    lost = [view for view in trials if view.outcome is TrialOutcome.METRICS_UNAVAILABLE]
    succeeded = any(view.outcome is TrialOutcome.SUCCEEDED for view in trials)
    if len(lost) > most and not succeeded:
        return Ending(
            "MetricsUnavailable",
            f"no trial has a value for every objective, and {len(lost)} have ended without: more than "
            f"maxFailedTrials ({most}){_why(lost[-1])}",
            failed=True,
        )
    return None


def _why(view: TrialView) -> str:
    """Say how a trial ended, to be added to a sentence; empty: it does not say so."""
    reason = next((entry for entry in view.status.conditions if entry.type == "Ended"), None)
    return "" if reason is None else f"; {view.name}: {reason.reason}: {reason.message}"


def running_time(context: OwnerContext) -> timedelta:
    """Return how long the owner has run, suspensions left out."""
    status = context.owner.status
    begun = status.start_time or context.now
    suspended = timedelta(seconds=status.suspended_seconds)
    if status.suspended_since is not None:
        suspended += max(timedelta(), context.now - status.suspended_since)
    return max(timedelta(), context.now - begun - suspended)


def _deadline(context: OwnerContext, draft: Draft) -> Ending | None:
    limit = context.owner.spec.budget.active_deadline_seconds
    if limit is None:
        return None
    left = limit - running_time(context).total_seconds()
    if left <= 0:
        return Ending("DeadlineReached", f"activeDeadlineSeconds ({limit} s) have passed")
    if not context.owner.spec.suspend:
        draft.look_again(left)
    return None


def _device_seconds(
    context: OwnerContext, children: Children, attempts: Sequence[Attempt], draft: Draft
) -> Ending | None:
    limit = context.owner.spec.budget.device_seconds
    if limit is None:
        return None
    used = sum(view.status.device_seconds for view in draft.trials)
    pods = 0
    for attempt in attempts:
        if attempt.job is not None:
            used += device_share(
                context, attempt.view.name, attempt.job, children.pods.get(attempt.job.name, ())
            )
            pods += attempt.progress.stage is Stage.RUNNING
    if used >= limit:
        return Ending("DeviceSecondsReached", f"deviceSeconds ({limit} s) are used up: {used} s")
    if pods:
        # No pod of ours holds more than its own share of what is left.
        draft.look_again(max(1.0, (limit - used) / (pods * devices_per_pod(context.owner))))
    return None


def nothing_left(
    context: OwnerContext, attempts: Sequence[Attempt], *, allowed: bool, exhausted: bool
) -> Ending | None:
    """Say why no trial follows and none runs; ``None`` where one does.

    Args:
        context: The search or sweep.
        attempts: Trials that have not ended.
        allowed: Whether ``maxTrials`` allows another trial.
        exhausted: Whether the space holds no further candidate.
    """
    if attempts:
        return None
    most = context.owner.spec.budget.max_trials
    if not allowed:
        return Ending("MaxTrialsReached", f"maxTrials ({most}) have ended")
    if exhausted:
        return Ending("SpaceExhausted", "every candidate of the space has been measured")
    return None
