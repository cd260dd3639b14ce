"""What the scaling engine says of a sweep; asked once for each state, however often that is looked at."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from nascale.reconcile.recent import Recent
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.sweep_context import SweepContext
from nascale.scaling import engine
from nascale.scaling.engine import Proposals, Summary

_PROPOSALS: Final[Recent[Proposals]] = Recent(256)
_SUMMARIES: Final[Recent[Summary]] = Recent(256)


def proposals(context: SweepContext, trials: Sequence[TrialView], pods: int) -> Proposals | None:
    """Say which trials come next; ``None`` while the base is not known.

    Args:
        context: The sweep.
        trials: All trials so far, as they will be.
        pods: Most further pods.
    """
    problem = context.problem
    if problem is None:
        return None
    records = context.records(trials)
    state = _state(context, trials)
    if state is None:
        return engine.propose(problem, records, pods)
    return _PROPOSALS.get((state, pods), lambda: engine.propose(problem, records, pods))


def summary(context: SweepContext, trials: Sequence[TrialView]) -> Summary | None:
    """Compute the state of affairs; ``None`` while the base is not known."""
    problem = context.problem
    if problem is None:
        return None
    records = context.records(trials)
    state = _state(context, trials)
    if state is None:
        return engine.summarise(problem, records)
    return _SUMMARIES.get(state, lambda: engine.summarise(problem, records))


def _state(context: SweepContext, trials: Sequence[TrialView]) -> Hashable | None:
    """Return what the engine's answers follow from; ``None`` where a trial is just being changed."""
    if not all(view.uid and view.resource_version for view in trials):
        return None
    metadata = context.sweep.metadata
    versions = tuple((view.uid, view.resource_version) for view in trials)
    # A training that has ended never changes.
    known = frozenset(context.reuse.known)
    return metadata.uid, metadata.generation, context.base.scaled, known, versions
