"""Successive halving for several objectives, asynchronous.

After ASHA (Li et al., MLSys 2020) with the promotion rule of Schmucker et al. (2021, arXiv:2106.12639):
whenever a trial is asked for, the highest rung that has a trial worth promoting promotes it. Nothing waits
for a rung to fill, so that no device idles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from nascale.search.domination import Tier, order, tier
from nascale.search.history import Proposal, TrialRecord, TrialState
from nascale.search.problem import SearchProblem

PAIRS = 8
"""Succeeded trials that a rung needs before samplers learn from its values."""

_MEASURED = (Tier.KEEPS_BOUNDS, Tier.BREAKS_SOFT_BOUND)


def promotions(
    problem: SearchProblem, history: Sequence[TrialRecord], count: int, *, closing: bool = False
) -> list[Proposal]:
    """List up to ``count`` candidates that earn their next rung, those of the highest rung first.

    Of the trials of a rung that used their fidelity to its end or were stopped early, the best
    ``1 / reduction_factor`` (rounded down) are worth promoting; those that are not promoted yet are
    listed, the best first. Infeasible trials end before training and failed ones say nothing: neither
    counts. Only trials that succeeded without breaking a hard bound are promoted.

    Args:
        problem: The search.
        history: All trials.
        count: Most promotions wanted.
        closing: No other candidate will come and none is running: round up instead, so that a small
            space's best candidates reach the last rung.
    """
    listed: list[Proposal] = []
    for rung in range(problem.rungs - 2, -1, -1):
        if len(listed) >= count:
            break
        promoted = {record.candidate for record in history if record.rung == rung + 1}
        level = sorted((record for record in history if record.rung == rung), key=lambda record: record.index)
        counted = [record for record in level if tier(problem, record) in (*_MEASURED, Tier.EARLY_STOPPED)]
        share = len(counted) // problem.reduction_factor
        if closing:
            share = -(-len(counted) // problem.reduction_factor)
        if share == 0:
            continue
        best = [counted[position] for position in order(problem, counted)[:share]]
        for record in best:
            if (
                record.candidate not in promoted
                and tier(problem, record) in _MEASURED
                and len(listed) < count
            ):
                listed.append(
                    Proposal(
                        parameters=dict(record.parameters),
                        rung=rung + 1,
                        candidate=record.candidate,
                        origin="promotion",
                    )
                )
    return listed


def one_per_candidate(problem: SearchProblem, history: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Fold the trials of each candidate into one record, which is what samplers learn from.

    Samplers learn from the highest rung at which at least ``PAIRS`` trials succeeded. Candidates that have
    not been there lend their value of a lower rung, shifted by the median difference that the candidates
    with both values show: more training must not look like a better network. An infeasible trial makes
    its candidate infeasible whatever the rung.
    """
    if problem.rungs == 1:
        return list(history)
    succeeded: dict[int, dict[int, TrialRecord]] = {rung: {} for rung in range(problem.rungs)}
    of_candidate: dict[int, list[TrialRecord]] = {}
    for record in sorted(history, key=lambda record: record.index):
        of_candidate.setdefault(record.candidate, []).append(record)
        if record.state is TrialState.SUCCEEDED:
            succeeded.setdefault(record.rung, {})[record.candidate] = record
    learned = max((rung for rung, found in succeeded.items() if len(found) >= PAIRS), default=0)
    shifts = {rung: _shift(problem, succeeded[rung], succeeded[learned]) for rung in range(learned)}
    return [_fold(candidate, records, learned, shifts) for candidate, records in sorted(of_candidate.items())]


def _shift(
    problem: SearchProblem, lower: Mapping[int, TrialRecord], upper: Mapping[int, TrialRecord]
) -> dict[str, float]:
    shift: dict[str, float] = {}
    for objective in problem.objectives:
        metric = objective.metric
        differences = [
            record.values[metric] - lower[candidate].values[metric]
            for candidate, record in upper.items()
            if candidate in lower and metric in record.values and metric in lower[candidate].values
        ]
        shift[metric] = median(differences) if differences else 0.0
    return shift


def _fold(
    candidate: int,
    records: Sequence[TrialRecord],
    learned: int,
    shifts: Mapping[int, Mapping[str, float]],
) -> TrialRecord:
    infeasible = [record for record in records if record.state is TrialState.INFEASIBLE]
    if infeasible:
        return replace(infeasible[-1], index=candidate, candidate=candidate, rung=0)
    usable = [record for record in records if record.state is TrialState.SUCCEEDED and record.rung <= learned]
    if usable:
        highest = max(usable, key=lambda record: record.rung)
        shift = shifts.get(highest.rung, {})
        values = {metric: value + shift.get(metric, 0.0) for metric, value in highest.values.items()}
        return replace(highest, index=candidate, candidate=candidate, rung=0, values=values)
    for state in (TrialState.EARLY_STOPPED, TrialState.PENDING):
        for record in records:
            if record.state is state:
                return replace(record, index=candidate, candidate=candidate, rung=0)
    return replace(records[-1], index=candidate, candidate=candidate, rung=0)
