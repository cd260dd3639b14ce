"""What starts next: Jobs for trials that wait for one, then new trials, as far as the budget allows.

``parallelTrials`` counts pods: a pod measures its candidates one after the other, so that it is the number
of trials that are measured at the same time. A trial in back-off keeps its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby, islice
from typing import Any, TypeAlias

from nascale.api import names
from nascale.api.trial import KIND, TrialSpec
from nascale.reconcile.actions import CreateJob, CreateTrial
from nascale.reconcile.draft import Draft
from nascale.reconcile.job_manifest import child_labels, job_manifest, owner_reference
from nascale.reconcile.naming import index_of, trial_name
from nascale.reconcile.owner_context import OwnerContext
from nascale.reconcile.snapshot import Children, TrialView
from nascale.reconcile.trial_course import Attempt

TrialPlan: TypeAlias = Callable[[int, int], TrialSpec]
"""Makes the spec of a new Trial from its index and that of the first trial of its pod."""


@dataclass(frozen=True)
class Launched:
    """What was started.

    Attributes:
        free: Pods that could still be started.
        waiting: Trials wait for a Job.
    """

    free: int
    waiting: bool


def launch_jobs(context: OwnerContext, attempts: Sequence[Attempt], draft: Draft) -> Launched:
    """Create Jobs for trials that wait for one, those asked for first before later ones."""
    occupied = len({attempt.job.name for attempt in attempts if attempt.job is not None})
    parallel = context.owner.spec.budget.parallel_trials
    groups = list(_groups(context, [attempt.view for attempt in attempts if attempt.job is None]))
    free = parallel - occupied
    for group in groups:
        start = group[0].status.next_attempt_time
        if start is not None and start > context.now:
            draft.look_again_at(start, context.now)
        elif free > 0:
            free -= 1
            draft.act(CreateJob(job_manifest(context, group, group[0].status.attempt)))
    return Launched(free=max(0, parallel - occupied - len(groups)), waiting=bool(groups))


def _groups(context: OwnerContext, waiting: Sequence[TrialView]) -> Iterator[list[TrialView]]:
    """Split waiting trials into those that share a pod: at the first attempt, and where the owner wants it.

    Any other trial that is repeated runs alone: what failed in one pod may have been its neighbour's doing.
    """

    def pod(view: TrialView) -> tuple[int, ...]:
        if view.status.attempt == 0 or context.stays_together(view):
            return view.status.attempt, view.lead, view.rung
        return view.status.attempt, view.lead, view.rung, view.index

    groups = [list(group) for _, group in groupby(sorted(waiting, key=pod), key=pod)]
    yield from sorted(groups, key=lambda group: group[0].index)


def create_trials(
    context: OwnerContext, pods: Iterable[Sequence[TrialPlan]], indices: Sequence[int], draft: Draft
) -> None:
    """Create Trials, by pod; their Jobs follow when they have been observed.

    Not in the same plan: a Job must carry the parameters that its Trial holds, and where this snapshot is
    old, the Trial of that index may exist with other ones.

    Args:
        context: The search or sweep.
        pods: What is to be measured, those that share a pod together.
        indices: Free ones, as many as there are trials or fewer: the rest is not created.
        draft: Takes the actions.
    """
    free = iter(indices)
    for group in pods:
        lead: int | None = None
        for wanted in group:
            index = next(free, None)
            if index is None:
                return
            lead = index if lead is None else lead
            draft.act(CreateTrial(_trial_manifest(context, wanted(index, lead))))
            draft.look_again(0.0)


def free_indices(context: OwnerContext, children: Children) -> list[int]:
    """Return the indices that ``maxTrials`` still allows, ascending.

    The index of a Trial that somebody deleted is used again, but only when no Job of it is left that
    could be taken for the new one's.
    """
    used = {view.index for view in children.trials}
    for job in children.jobs.values():
        used.update(index for name in job.trials if (index := index_of(context.prefix, name)) is not None)
    most = context.owner.spec.budget.max_trials
    highest = max(used, default=-1)
    gaps = [index for index in range(min(most, highest + 1)) if index not in used]
    return gaps + list(islice(count(highest + 1), max(0, most - highest - 1)))


def _trial_manifest(context: OwnerContext, spec: TrialSpec) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": trial_name(context.prefix, spec.index),
            "namespace": context.owner.metadata.namespace,
            "labels": child_labels(context),
            "ownerReferences": [owner_reference(context)],
        },
        "spec": spec.to_dict(),
    }
