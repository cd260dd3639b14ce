"""Trials that have not ended: following them, stopping them, and Jobs that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

from nascale.api.trial import TrialOutcome
from nascale.reconcile import trial_status
from nascale.reconcile.actions import DeleteJob
from nascale.reconcile.draft import Draft
from nascale.reconcile.owner_context import OwnerContext
from nascale.reconcile.snapshot import Children, JobView, PodView, TrialView
from nascale.reconcile.trial_course import (
    WAITING,
    Attempt,
    Circumstances,
    TrialCourse,
    device_share,
    end_foreign,
)
from nascale.reconcile.trial_progress import Stage, follow
from nascale.reconcile.verdict import Verdict

LEAVING_SECONDS: Final = 60.0
"""So long the other pods of a group may take to end, once the first one is through: nothing is left to do."""


def present_jobs(children: Children) -> dict[tuple[str, int], JobView]:
    """Return the Job of each attempt of each trial; of several, the oldest."""
    found: dict[tuple[str, int], JobView] = {}
    for job in sorted(children.jobs.values(), key=lambda job: (job.created, job.name)):
        for trial in job.trials:
            found.setdefault((trial, job.attempt), job)
    return found


def follow_trials(
    context: OwnerContext, children: Children, circumstances: Circumstances, draft: Draft
) -> list[Attempt]:
    """Record what has become of every trial that has not ended; return those that still have not."""
    jobs = present_jobs(children)
    attempts: list[Attempt] = []
    for view in children.trials:
        if view.outcome is not None:
            continue
        job = jobs.get((view.name, view.status.attempt))
        if job is None and not context.knows(view):
            end_foreign(context, view, draft)
            continue
        pods = () if job is None else children.pods.get(job.name, ())
        progress = follow(
            job,
            pods,
            problem=None if job is None else circumstances.problems.get(job.name),
            was_running=view.status.start_time is not None,
            now=context.now,
        )
        course = TrialCourse(context, draft, view, job, pods, circumstances)
        attempt = course.take(progress)
        if attempt is not None:
            attempts.append(attempt)
    return attempts


def stop(context: OwnerContext, children: Children, attempts: Sequence[Attempt], draft: Draft) -> None:
    """End what has not ended, because its owner has: record it, then delete its Jobs."""
    message = f"the {context.noun} ended before the trial"
    for attempt in attempts:
        job = attempt.job
        pods = () if job is None else children.pods.get(job.name, ())
        verdict = Verdict(TrialOutcome.EARLY_STOPPED, None, f"{context.noun.capitalize()}Ended", message)
        status = trial_status.ended(
            attempt.view.status,
            verdict,
            TrialOutcome.EARLY_STOPPED,
            job=None if job is None else job.name,
            pod=None,
            objectives=(),
            device_seconds=0 if job is None else device_share(context, attempt.view.name, job, pods),
            now=context.now,
        )
        draft.write(attempt.view, status)
        draft.count("trials_finished", {"outcome": TrialOutcome.EARLY_STOPPED.value})
    delete_jobs_without_use(context, children, draft)


def delete_jobs_without_use(context: OwnerContext, children: Children, draft: Draft) -> None:
    """Delete Jobs that still run, or would, although each of their trials has ended or moved on.

    A Job whose pod has ended is left to its TTL: its log is still there to be read. So is one of a trial
    that this snapshot does not know: the Trial may be newer than the snapshot. Pods that have worked together
    end one after the other: the last ones get time for it.
    """
    views = {view.name: view for view in draft.trials}
    jobs = present_jobs(children)
    for job in children.jobs.values():
        pods = children.pods.get(job.name, ())
        over = bool(pods) and all(pod.over for pod in pods) and not job.suspended
        if job.finished or job.deleting or over or not job.trials:
            continue
        if not all(_has_left(views.get(name), job, jobs) for name in job.trials):
            continue
        seconds = _leaving(context, job, pods)
        if seconds > 0:
            draft.look_again(seconds)
        else:
            draft.act(DeleteJob(job.name, job.uid))


def _leaving(context: OwnerContext, job: JobView, pods: Sequence[PodView]) -> float:
    """Return how long a group's other pods still have, once the first one is through, seconds."""
    through = [pod.finished for pod in pods if pod.exit_code == 0 and pod.finished is not None]
    if job.workers == 1 or not through:
        return 0.0
    return LEAVING_SECONDS - (context.now - min(through)).total_seconds()


def _has_left(view: TrialView | None, job: JobView, jobs: Mapping[tuple[str, int], JobView]) -> bool:
    if view is None:
        return False
    if view.outcome is not None or view.status.attempt != job.attempt:
        # A Job of a later attempt than the trial's is newer than what we know of the trial.
        return view.outcome is not None or view.status.attempt > job.attempt
    return jobs[view.name, job.attempt].name != job.name


def release(
    context: OwnerContext, children: Children, attempts: Sequence[Attempt], draft: Draft
) -> Iterator[Attempt]:
    """Take trials back from Jobs that a queue manages, because its owner is suspended.

    Suspending such a Job would only make its queue start it again: it is deleted instead, which also gives
    its quota back. The trial begins again, or goes on from its checkpoint, when the owner is resumed.
    """
    for attempt in attempts:
        job = attempt.job
        busy = attempt.progress.stage in (Stage.QUEUED, Stage.PENDING, Stage.BLOCKED, Stage.RUNNING)
        if job is None or not job.queue or not busy:
            yield attempt
            continue
        after = trial_status.repeated(
            attempt.view.status,
            reason=f"{context.noun.capitalize()}Suspended",
            message=f"the {context.noun} is suspended",
            own_failure=False,
            wait=timedelta(),
            device_seconds=device_share(context, attempt.view.name, job, children.pods.get(job.name, ())),
            now=context.now,
        )
        yield Attempt(draft.write(attempt.view, after), None, WAITING)
