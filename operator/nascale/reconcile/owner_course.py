"""Steps of a plan that are the same for searches and sweeps: suspension, and what comes after the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from pydantic import ValidationError

from nascale.api.resource import Condition
from nascale.reconcile import checkpoint_retention
from nascale.reconcile.actions import DeleteOwner, Plan, SuspendJob
from nascale.reconcile.attempts import delete_jobs_without_use, present_jobs, release, stop
from nascale.reconcile.conditions import Assertion, OwnerCondition, find, updated
from nascale.reconcile.draft import AFTER_STATUS_SECONDS, Draft
from nascale.reconcile.observed import Observed
from nascale.reconcile.owner_context import OwnerContext
from nascale.reconcile.owner_events import tell_end
from nascale.reconcile.owner_status import S, invalid_status
from nascale.reconcile.snapshot import Children, JobView
from nascale.reconcile.trial_course import Attempt
from nascale.reconcile.trial_progress import Progress, Stage


def tidy_jobs(
    context: OwnerContext, children: Children, attempts: Sequence[Attempt], draft: Draft
) -> list[Attempt]:
    """Suspend or resume Jobs as the spec says, and delete those that nobody needs; return the attempts."""
    kept = list(attempts)
    if context.owner.spec.suspend:
        kept = list(release(context, children, attempts, draft))
    _suspend_or_resume(context, kept, draft)
    delete_jobs_without_use(context, children, draft)
    return kept


def _suspend_or_resume(context: OwnerContext, attempts: Sequence[Attempt], draft: Draft) -> None:
    wanted = context.owner.spec.suspend
    jobs = {attempt.job.name: attempt.job for attempt in attempts if attempt.job is not None}
    for job in jobs.values():
        if job.queue or job.finished or job.deleting or job.suspended == wanted:
            continue
        if wanted or _suspended_by_us(context, job):
            draft.act(SuspendJob(job.name, job.uid, wanted))


def _suspended_by_us(context: OwnerContext, job: JobView) -> bool:
    # Others may suspend Jobs as well (a queue that takes in Jobs without its label): theirs stay.
    said = find(context.owner.status.conditions, OwnerCondition.SUSPENDED)
    if said is None:
        return False
    resumed = said.reason == "Resumed" and said.last_transition_time >= job.created
    return said.reason == "Suspended" or resumed


def look_after_the_end(context: OwnerContext, draft: Draft) -> None:
    """Ask for the look that cleans up after an end which is being written now."""
    ttl = context.owner.spec.ttl_seconds_after_finished
    if not checkpoint_retention.is_settled(context):
        # Soon, but not at once: that look must see the status which is written after this plan's actions.
        draft.look_again(AFTER_STATUS_SECONDS)
    elif ttl is not None:
        draft.look_again(max(AFTER_STATUS_SECONDS, float(ttl)))


def after_the_end(
    context: OwnerContext, children: Children, draft: Draft, gauges: Mapping[str, float]
) -> Plan:
    """Clean up what a crash or an old snapshot may have left, and the volume; then wait for the TTL."""
    jobs = present_jobs(children)
    ended = f"{context.noun.capitalize()}Ended"
    stray = [
        Attempt(view, jobs.get((view.name, view.status.attempt)), Progress(Stage.SETTLING, ended))
        for view in children.trials
        if view.outcome is None
    ]
    stop(context, children, stray, draft)
    status: dict[str, object] | None = None
    if not checkpoint_retention.is_settled(context):
        said = checkpoint_retention.prune(context, children, draft)
        if said is None:
            return draft.plan(None, gauges)
        old = context.owner.status
        status = old.model_copy(update={"conditions": _with_condition(context, said)}).to_dict()
    _wait_for_ttl(context, draft)
    return draft.plan(status, gauges)


def _with_condition(context: OwnerContext, said: Assertion) -> tuple[Condition, ...]:
    generation = context.owner.metadata.generation
    return updated(context.owner.status.conditions, [said], generation=generation, now=context.now)


def _wait_for_ttl(context: OwnerContext, draft: Draft) -> None:
    ttl, ended = context.owner.spec.ttl_seconds_after_finished, context.owner.status.completion_time
    if ttl is None or ended is None:
        return
    left_seconds = (ended + timedelta(seconds=ttl) - context.now).total_seconds()
    if left_seconds <= 0:
        draft.act(DeleteOwner(context.owner.metadata.uid))
    else:
        draft.look_again(left_seconds)


def unreadable(
    observed: Observed,
    kind: type[S],
    noun: str,
    faults: Sequence[str],
) -> Plan:
    """Say what is wrong with a spec that can't even be read; nothing that runs is touched."""
    owner = observed.owner
    try:
        old = kind.model_validate(owner.get("status") or {})
    except ValidationError:
        old = kind()
    if old.completion_time is not None:
        return Plan()
    generation = int(owner["metadata"].get("generation", 0))
    new = invalid_status(old, faults, generation, observed.now.replace(microsecond=0))
    draft = Draft(())
    tell_end(draft, noun, old, new)
    return draft.plan(None if new == old else new.to_dict(), {})
