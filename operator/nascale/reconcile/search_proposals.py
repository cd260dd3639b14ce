"""New trials of a search: what its sampler proposes, split into pods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice

from nascale.api.architecture_search import ParameterSetting
from nascale.api.trial import TrialSpec
from nascale.reconcile.draft import Draft
from nascale.reconcile.launch import TrialPlan, create_trials, free_indices
from nascale.reconcile.search_context import SearchContext
from nascale.reconcile.snapshot import Children
from nascale.search import engine, spaces
from nascale.search.history import Proposal, TrialRecord


def create_proposed(
    context: SearchContext,
    children: Children,
    records: Sequence[TrialRecord],
    pods: int,
    draft: Draft,
) -> bool:
    """Create Trials for so many more pods.

    Args:
        context: The search.
        children: As observed.
        records: All trials, as the sampler sees them.
        pods: How many pods may be filled.
        draft: Takes the actions.

    Returns:
        Whether the space holds no further candidate, now or later.
    """
    per_pod = context.search.spec.budget.trials_per_pod
    indices = free_indices(context, children)
    wanted = min(pods * per_pod, len(indices))
    if wanted <= 0:
        return False
    proposals = engine.propose(context.problem, records, wanted)
    loads = islice(_pod_loads(proposals.proposals, per_pod), pods)
    create_trials(context, ([_planned(context, entry) for entry in load] for load in loads), indices, draft)
    return proposals.exhausted or (not proposals.proposals and not _unended(draft))


def _unended(draft: Draft) -> bool:
    return any(view.outcome is None for view in draft.trials)


def _pod_loads(proposals: Sequence[Proposal], size: int) -> Iterator[list[Proposal]]:
    # A work order has one fidelity, so that trials of different rungs don't share a pod.
    for _, same in groupby(proposals, key=lambda proposal: proposal.rung):
        rest = list(same)
        for start in range(0, len(rest), size):
            yield rest[start : start + size]


def _planned(context: SearchContext, proposal: Proposal) -> TrialPlan:
    def spec(index: int, lead: int) -> TrialSpec:
        return TrialSpec(
            index=index,
            candidate=index if proposal.candidate is None else proposal.candidate,
            rung=proposal.rung,
            lead=lead,
            fidelity=context.search.spec.fidelities.levels[proposal.rung],
            parameters=tuple(
                ParameterSetting(name=name, value=value) for name, value in spaces.encode(proposal.parameters)
            ),
            origin=proposal.origin,
        )

    return spec
