"""New trials of a sweep: what its engine proposes, pod by pod."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nascale.api.architecture_search import ParameterSetting
from nascale.api.training import FidelityLevel
from nascale.api.trial import TrialPurpose, TrialSpec
from nascale.reconcile.draft import Draft
from nascale.reconcile.launch import TrialPlan, create_trials
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.sweep_context import SweepContext
from nascale.reconcile.sweep_trials import trial_parameters
from nascale.scaling.networks import scaled
from nascale.scaling.problem import MEASURE_ONLY, ScalingProposal
from nascale.search.errors import SearchError

_UNTRAINED = FidelityLevel(epochs=0)


def create_proposed(
    context: SweepContext,
    pods: Iterable[Sequence[ScalingProposal]],
    indices: Sequence[int],
    draft: Draft,
) -> None:
    """Create the Trials that the engine proposes, as far as the indices go."""
    first = {view.parameters: view.index for view in reversed(draft.trials)}
    planned = ([_planned(context, entry, first) for entry in pod] for pod in pods)
    create_trials(context, planned, indices, draft)


def tell_drift(context: SweepContext, pods: Iterable[Sequence[ScalingProposal]], draft: Draft) -> None:
    """Tell which pods are measured again because the target's latency has moved."""
    by_index = {view.index: view for view in draft.trials}
    for pod in pods:
        again = [entry.remeasures for entry in pod if entry.remeasures is not None]
        if not again:
            continue
        lead = _lead_name(by_index, again[0])
        limit = context.sweep.spec.exploration.drift_ratio
        message = (
            f"the reference has moved by more than driftRatio ({limit}): the pod of {lead} is measured again"
        )
        draft.tell("LatencyDrifted", message, warning=True)


def _lead_name(by_index: dict[int, TrialView], index: int) -> str:
    view = by_index.get(index)
    lead = view if view is None else by_index.get(view.lead, view)
    return f"trial {index}" if lead is None else lead.name


def _planned(
    context: SweepContext, proposal: ScalingProposal, first: dict[tuple[tuple[str, str], ...], int]
) -> TrialPlan:
    if context.base.scaled is None:
        raise SearchError("spec.base: must be known before a trial of it is asked for")
    parameters = trial_parameters(scaled(context.base.scaled, proposal.multipliers), proposal.multipliers)
    measured = proposal.purpose in MEASURE_ONLY
    levels = context.sweep.spec.fidelities.levels

    def spec(index: int, lead: int) -> TrialSpec:
        return TrialSpec(
            index=index,
            candidate=first.setdefault(parameters, index),
            rung=proposal.rung,
            lead=lead,
            fidelity=_UNTRAINED if measured else levels[proposal.rung],
            parameters=tuple(ParameterSetting(name=name, value=value) for name, value in parameters),
            origin=proposal.origin,
            purpose=TrialPurpose(proposal.purpose.value),
            member=proposal.member or None,
            repeat=proposal.repeat or None,
            remeasures=proposal.remeasures,
        )

    return spec
