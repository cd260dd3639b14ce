"""``ScalingSweep``: from an observation to actions and status.

The same steps as for a search (``docs/design/0002-reconcile.md``); what comes next is the scaling engine's
decision (``docs/design/0003-scaling.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from nascale.api.scaling_sweep import ScalingSweep, ScalingSweepStatus
from nascale.contract.document import describe
from nascale.reconcile import sweep_decisions, sweep_validation
from nascale.reconcile.actions import Plan
from nascale.reconcile.attempts import follow_trials, stop
from nascale.reconcile.draft import AFTER_STATUS_SECONDS, Draft
from nascale.reconcile.ending import Ending, ending, nothing_left
from nascale.reconcile.launch import free_indices, launch_jobs
from nascale.reconcile.observed import Observed
from nascale.reconcile.owner_course import after_the_end, look_after_the_end, tidy_jobs, unreadable
from nascale.reconcile.owner_events import tell_transitions
from nascale.reconcile.snapshot import Children, read_children
from nascale.reconcile.sweep_context import SweepContext, cap_of_pods, sweep_context
from nascale.reconcile.sweep_proposals import create_proposed, tell_drift
from nascale.reconcile.sweep_results import family_text, missing_members, repeated_members
from nascale.reconcile.sweep_status import SweepCourse, gauges, sweep_status
from nascale.reconcile.trial_course import Attempt, Circumstances
from nascale.scaling.engine import FaultReason, Proposals, Summary


def plan(observed: Observed) -> Plan:
    """Decide what to do for one sweep."""
    if observed.owner["metadata"].get("deletionTimestamp"):
        # Trials and Jobs go with their owner.
        return Plan()
    try:
        sweep = ScalingSweep.model_validate(observed.owner)
    except ValidationError as error:
        return unreadable(observed, ScalingSweepStatus, SweepContext.noun, [describe(error)])
    context = sweep_context(sweep, observed)
    children = read_children(observed.trials, observed.jobs, observed.pods)
    draft = Draft(children.trials)
    if sweep.status.completion_time is not None:
        return after_the_end(context, children, draft, gauges(context, sweep.status))
    return _Step(context, children, draft, observed).plan()


@dataclass(frozen=True)
class _Next:
    """What follows from the trials so far."""

    attempts: Sequence[Attempt]
    end: Ending | None = None
    proposals: Proposals | None = None


class _Step:
    """One look at a sweep that has not ended."""

    def __init__(self, context: SweepContext, children: Children, draft: Draft, observed: Observed) -> None:
        self._context = context
        self._children = children
        self._draft = draft
        self._circumstances = Circumstances(observed.readings, observed.job_problems)

    def plan(self) -> Plan:
        """Go through the steps."""
        context, draft = self._context, self._draft
        faults = sweep_validation.faults(context)
        attempts = follow_trials(context, self._children, self._circumstances, draft)
        end = None if faults else ending(context, self._children, attempts, draft, goals_reached=False)
        following = _Next(attempts, end)
        if end is None:
            following = self._go_on(attempts, go=not faults)
        course = SweepCourse(
            draft.trials,
            following.attempts,
            faults=faults,
            created=draft.created,
            proposals=following.proposals,
            summary=self._summary(),
            remeasuring=self._remeasuring(following.proposals),
        )
        if following.end is not None:
            course = self._finish(following.end, following.attempts, course)
        return self._conclude(course)

    def _summary(self) -> Summary | None:
        """Summarise, where a trial has ended since the status was written."""
        sweep = self._context.sweep
        ended = sum(1 for view in self._draft.trials if view.outcome is not None)
        unchanged = ended == sweep.status.finished and sweep.status.start_time is not None
        return None if unchanged else sweep_decisions.summary(self._context, self._draft.trials)

    def _go_on(self, attempts: list[Attempt], *, go: bool) -> _Next:
        context, draft = self._context, self._draft
        attempts = tidy_jobs(context, self._children, attempts, draft)
        if not go or context.problem is None:
            return _Next(attempts)
        if not context.pinned:
            # Soon, but not at once: that look must see the base in the status.
            draft.look_again(AFTER_STATUS_SECONDS)
            return _Next(attempts)
        if context.sweep.spec.suspend:
            return _Next(attempts, proposals=sweep_decisions.proposals(context, draft.trials, 0))
        launched = launch_jobs(context, attempts, draft)
        return self._propose(attempts, launched.free)

    def _propose(self, attempts: list[Attempt], free: int) -> _Next:
        context, draft = self._context, self._draft
        indices = free_indices(context, self._children)
        proposals = sweep_decisions.proposals(context, draft.trials, free)
        if proposals is None:
            return _Next(attempts)
        if proposals.fault is not None:
            fault = proposals.fault
            message = f"spec.{fault.message}" if fault.message.startswith("family[") else fault.message
            end = Ending(fault.reason.value, message, failed=True)
            return _Next(attempts, end, proposals)
        if proposals.finished:
            return _Next(attempts, Ending("FamilyComplete", "every member is trained"), proposals)
        create_proposed(context, proposals.pods, indices, draft)
        if draft.created:
            tell_drift(context, proposals.pods, draft)
            return _Next(attempts, None, proposals)
        exhausted = free > 0 and not proposals.pods
        return _Next(
            attempts,
            nothing_left(context, attempts, allowed=bool(indices), exhausted=exhausted),
            proposals,
        )

    def _remeasuring(self, proposals: Proposals | None) -> bool:
        pending = any(view.remeasures is not None and view.outcome is None for view in self._draft.trials)
        pods = () if proposals is None or not self._draft.created else proposals.pods
        return pending or any(entry.remeasures is not None for pod in pods for entry in pod)

    def _finish(
        self,
        end: Ending,
        attempts: Sequence[Attempt],
        course: SweepCourse,
    ) -> SweepCourse:
        context, draft = self._context, self._draft
        stop(context, self._children, attempts, draft)
        summary = course.summary
        if attempts or summary is None:
            summary = sweep_decisions.summary(context, draft.trials)
        missing = missing_members(context, summary)
        if missing and not end.failed:
            end = replace(end, failed=True)
        if missing and end.reason not in list(FaultReason):
            verdict = f"{end.message}; no trained network for: {', '.join(missing)}"
        elif end.failed or summary is None:
            verdict = end.message
        else:
            said = (end.message, repeated_members(summary), family_text(context, summary))
            verdict = "; ".join(part for part in said if part)
        return replace(
            course,
            trials=draft.trials,
            attempts=(),
            end=end,
            found=not missing,
            verdict=verdict,
            summary=summary,
        )

    def _conclude(self, course: SweepCourse) -> Plan:
        context, draft = self._context, self._draft
        old = context.sweep.status
        new = sweep_status(context, course)
        tell_transitions(draft, context.noun, old, new)
        cap = cap_of_pods(context.sweep)
        if cap and old.start_time is None and new.start_time is not None:
            draft.tell("TrialsPerPodCapped", cap)
        if new.completion_time is not None:
            look_after_the_end(context, draft)
        return draft.plan(None if new == old else new.to_dict(), gauges(context, new))
