"""``ArchitectureSearch``: from an observation to actions and status.

The plan reads as a list of steps. Everything follows from the observation, nothing from how it came to be,
so that a repeated, a late or an interrupted plan leads to the same end (``docs/design/0002-reconcile.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from pydantic import ValidationError

from nascale.api.architecture_search import ArchitectureSearch, ArchitectureSearchStatus
from nascale.api.resource import Condition
from nascale.contract.document import describe
from nascale.reconcile import checkpoint_retention, validation
from nascale.reconcile.actions import DeleteOwner, Manifest, Plan, SuspendJob
from nascale.reconcile.attempts import (
    delete_jobs_without_use,
    follow_trials,
    present_jobs,
    release,
    stop,
)
from nascale.reconcile.conditions import Assertion, SearchCondition, find, updated
from nascale.reconcile.draft import Draft
from nascale.reconcile.ending import Ending, ending, nothing_left
from nascale.reconcile.launch import create_trials, free_indices, launch_jobs
from nascale.reconcile.observed import Observed
from nascale.reconcile.results import base_network, nearest_to_feasible, observed_results, results
from nascale.reconcile.search_context import SearchContext, history, search_problem
from nascale.reconcile.search_events import tell_end, tell_transitions
from nascale.reconcile.search_status import Course, gauges, invalid_status, search_status
from nascale.reconcile.snapshot import Children, JobView, read_children
from nascale.reconcile.trial_course import Attempt, Circumstances
from nascale.reconcile.trial_progress import Progress, Stage
from nascale.search import engine
from nascale.search.engine import Summary
from nascale.search.errors import SearchError
from nascale.search.history import TrialRecord

_AFTER_STATUS_SECONDS: Final = 0.1


def plan(observed: Observed) -> Plan:
    """Decide what to do for one search."""
    if observed.owner["metadata"].get("deletionTimestamp"):
        # Trials and Jobs go with their owner.
        return Plan()
    try:
        search = ArchitectureSearch.model_validate(observed.owner)
    except ValidationError as error:
        return _unreadable(observed, [describe(error)])
    try:
        context = _context(search, observed)
    except SearchError as error:
        return _unreadable(observed, validation.faults_of_unbuildable(search, observed.settings, error))
    children = read_children(observed.trials, observed.jobs, observed.pods)
    draft = Draft(children.trials)
    if context.search.status.completion_time is not None:
        return _after_the_end(context, children, draft)
    return _Step(context, children, draft, observed).plan()


def _context(search: ArchitectureSearch, observed: Observed) -> SearchContext:
    return SearchContext(
        search=search,
        problem=search_problem(search),
        settings=observed.settings,
        now=observed.now.replace(microsecond=0),
    )


class _Step:
    """One look at a search that has not ended."""

    def __init__(self, context: SearchContext, children: Children, draft: Draft, observed: Observed) -> None:
        self._context = context
        self._children = children
        self._draft = draft
        self._circumstances = Circumstances(observed.readings, observed.job_problems)

    def plan(self) -> Plan:
        """Go through the steps."""
        context, draft = self._context, self._draft
        faults = validation.faults(context)
        attempts = follow_trials(context, self._children, self._circumstances, draft)
        records, summary = self._measured()
        found = (
            observed_results(context.search.status)
            if summary is None
            else results(context, draft.trials, summary)
        )
        end = None
        if not faults:
            goals = summary is not None and summary.goals_reached
            end = ending(context, self._children, attempts, draft, goals_reached=goals)
        if end is None:
            attempts, end = self._go_on(attempts, records, go=not faults)
        course = Course(draft.trials, attempts, found, faults=faults, created=draft.created)
        if end is not None:
            course = self._finish(end, attempts, records, course)
        return self._conclude(course)

    def _measured(self) -> tuple[list[TrialRecord], Summary | None]:
        """Return the history, and its summary where a trial has ended since the status was written."""
        search, trials = self._context.search, self._draft.trials
        generation = f"{search.metadata.uid}/{search.metadata.generation}"
        records = history(self._context.problem, trials, generation)
        ended = sum(1 for view in trials if view.outcome is not None)
        if ended == search.status.finished and search.status.observed_generation is not None:
            return records, None
        return records, engine.summarise(self._context.problem, records)

    def _go_on(
        self, attempts: list[Attempt], records: Sequence[TrialRecord], *, go: bool
    ) -> tuple[list[Attempt], Ending | None]:
        context, draft = self._context, self._draft
        if context.search.spec.suspend:
            attempts = list(release(context, self._children, attempts, draft))
        self._suspend_or_resume(attempts)
        delete_jobs_without_use(self._children, draft)
        if context.search.spec.suspend or not go:
            return attempts, None
        launched = launch_jobs(context, attempts, draft)
        allowed = bool(free_indices(context, self._children))
        exhausted = False
        if launched.free and allowed:
            exhausted = create_trials(context, self._children, records, launched.free, draft)
        if draft.created:
            return attempts, None
        return attempts, nothing_left(context, attempts, allowed=allowed, exhausted=exhausted)

    def _suspend_or_resume(self, attempts: Sequence[Attempt]) -> None:
        wanted = self._context.search.spec.suspend
        jobs = {attempt.job.name: attempt.job for attempt in attempts if attempt.job is not None}
        for job in jobs.values():
            if job.queue or job.finished or job.deleting or job.suspended == wanted:
                continue
            if wanted or self._suspended_by_us(job):
                self._draft.act(SuspendJob(job.name, job.uid, wanted))

    def _suspended_by_us(self, job: JobView) -> bool:
        # Others may suspend Jobs as well (a queue that takes in Jobs without its label): theirs stay.
        said = find(self._context.search.status.conditions, SearchCondition.SUSPENDED)
        if said is None:
            return False
        resumed = said.reason == "Resumed" and said.last_transition_time >= job.created
        return said.reason == "Suspended" or resumed

    def _finish(
        self, end: Ending, attempts: Sequence[Attempt], records: Sequence[TrialRecord], course: Course
    ) -> Course:
        context, draft = self._context, self._draft
        stop(context, self._children, attempts, draft)
        base = base_network(context, draft.trials, records)
        if end.failed:
            verdict = end.message
        elif base is None:
            verdict = f"{end.message}; {nearest_to_feasible(context, draft.trials, records)}"
        else:
            verdict = f"{end.message}; the base network is {base.trial}"
        return Course(draft.trials, (), course.results, end=end, base=base, verdict=verdict)

    def _conclude(self, course: Course) -> Plan:
        context, draft = self._context, self._draft
        old = context.search.status
        new = search_status(context, course)
        tell_transitions(draft, old, new)
        if new.completion_time is not None:
            self._look_after_the_end()
        return draft.plan(None if new == old else new.to_dict(), gauges(context, new))

    def _look_after_the_end(self) -> None:
        ttl = self._context.search.spec.ttl_seconds_after_finished
        if not checkpoint_retention.is_settled(self._context):
            # Soon, but not at once: that look must see the status which is written after this plan's actions.
            self._draft.look_again(_AFTER_STATUS_SECONDS)
        elif ttl is not None:
            self._draft.look_again(max(_AFTER_STATUS_SECONDS, float(ttl)))


def _after_the_end(context: SearchContext, children: Children, draft: Draft) -> Plan:
    """Clean up what a crash or an old snapshot may have left, and the volume; then wait for the TTL."""
    jobs = present_jobs(children)
    stray = [
        Attempt(view, jobs.get((view.name, view.status.attempt)), Progress(Stage.SETTLING, "SearchEnded"))
        for view in children.trials
        if view.outcome is None
    ]
    stop(context, children, stray, draft)
    old = context.search.status
    new = old
    if not checkpoint_retention.is_settled(context):
        said = checkpoint_retention.prune(context, children, draft)
        if said is None:
            return draft.plan(None, gauges(context, old))
        new = old.model_copy(update={"conditions": _with_condition(context, said)})
    _wait_for_ttl(context, draft)
    return draft.plan(None if new == old else new.to_dict(), gauges(context, new))


def _with_condition(context: SearchContext, said: Assertion) -> tuple[Condition, ...]:
    generation = context.search.metadata.generation
    return updated(context.search.status.conditions, [said], generation=generation, now=context.now)


def _wait_for_ttl(context: SearchContext, draft: Draft) -> None:
    ttl, ended = context.search.spec.ttl_seconds_after_finished, context.search.status.completion_time
    if ttl is None or ended is None:
        return
    left_seconds = (ended + timedelta(seconds=ttl) - context.now).total_seconds()
    if left_seconds <= 0:
        draft.act(DeleteOwner(context.search.metadata.uid))
    else:
        draft.look_again(left_seconds)


def _unreadable(observed: Observed, faults: Sequence[str]) -> Plan:
    """Say what is wrong with a spec that can't even be read; nothing that runs is touched."""
    owner: Manifest = observed.owner
    try:
        old = ArchitectureSearchStatus.model_validate(owner.get("status") or {})
    except ValidationError:
        old = ArchitectureSearchStatus()
    if old.completion_time is not None:
        return Plan()
    generation = int(owner["metadata"].get("generation", 0))
    new = invalid_status(old, faults, generation, observed.now.replace(microsecond=0))
    draft = Draft(())
    tell_end(draft, old, new)
    return draft.plan(None if new == old else new.to_dict(), {})
