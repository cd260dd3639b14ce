"""``ArchitectureSearch``: from an observation to actions and status.

The plan reads as a list of steps. Everything follows from the observation, nothing from how it came to be,
so that a repeated, a late or an interrupted plan leads to the same end (``docs/design/0002-reconcile.md``).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from nascale.api.architecture_search import ArchitectureSearch, ArchitectureSearchStatus
from nascale.contract.document import describe
from nascale.reconcile import validation
from nascale.reconcile.actions import Plan
from nascale.reconcile.attempts import follow_trials, stop
from nascale.reconcile.draft import Draft
from nascale.reconcile.ending import Ending, ending, nothing_left
from nascale.reconcile.launch import free_indices, launch_jobs
from nascale.reconcile.observed import Observed
from nascale.reconcile.owner_course import after_the_end, look_after_the_end, tidy_jobs, unreadable
from nascale.reconcile.owner_events import tell_transitions
from nascale.reconcile.results import base_network, nearest_to_feasible, observed_results, results
from nascale.reconcile.search_context import SearchContext, history, search_problem
from nascale.reconcile.search_proposals import create_proposed
from nascale.reconcile.search_status import SearchCourse, gauges, search_status
from nascale.reconcile.snapshot import Children, read_children
from nascale.reconcile.trial_course import Attempt, Circumstances
from nascale.search import engine
from nascale.search.engine import Summary
from nascale.search.errors import SearchError
from nascale.search.history import TrialRecord


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
        return after_the_end(context, children, draft, gauges(context, search.status, children.trials))
    return _Step(context, children, draft, observed).plan()


def _context(search: ArchitectureSearch, observed: Observed) -> SearchContext:
    return SearchContext(
        search=search,
        problem=search_problem(search),
        settings=observed.settings,
        now=observed.now.replace(microsecond=0),
        sharing_nodes=observed.sharing_nodes,
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
        course = SearchCourse(draft.trials, attempts, faults=faults, created=draft.created, results=found)
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
        attempts = tidy_jobs(context, self._children, attempts, draft)
        if context.search.spec.suspend or not go:
            return attempts, None
        launched = launch_jobs(context, attempts, draft)
        allowed = bool(free_indices(context, self._children))
        exhausted = False
        if launched.free and allowed:
            exhausted = create_proposed(context, self._children, records, launched.free, draft)
        if draft.created:
            return attempts, None
        return attempts, nothing_left(context, attempts, allowed=allowed, exhausted=exhausted)

    def _finish(
        self, end: Ending, attempts: Sequence[Attempt], records: Sequence[TrialRecord], course: SearchCourse
    ) -> SearchCourse:
        context, draft = self._context, self._draft
        stop(context, self._children, attempts, draft)
        base = base_network(context, draft.trials, records)
        if end.failed:
            verdict = end.message
        elif base is None:
            verdict = f"{end.message}; {nearest_to_feasible(context, draft.trials, records)}"
        else:
            verdict = f"{end.message}; the base network is {base.trial}"
        return SearchCourse(
            draft.trials,
            (),
            end=end,
            found=base is not None,
            verdict=verdict,
            results=course.results,
            base=base,
        )

    def _conclude(self, course: SearchCourse) -> Plan:
        context, draft = self._context, self._draft
        old = context.search.status
        new = search_status(context, course)
        if new.base_network is not None and old.base_network is None:
            base = new.base_network
            draft.tell("BaseNetworkChosen", f"{base.trial}: {base.reason}")
        tell_transitions(draft, context.noun, old, new)
        if new.completion_time is not None:
            look_after_the_end(context, draft)
        return draft.plan(None if new == old else new.to_dict(), gauges(context, new, draft.trials))


def _unreadable(observed: Observed, faults: Sequence[str]) -> Plan:
    return unreadable(observed, ArchitectureSearchStatus, SearchContext.noun, faults)
