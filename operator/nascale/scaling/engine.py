"""What the operator asks of a sweep: the next trials, the state of affairs.

All functions are pure: the same problem and the same set of trials give the same answer, in whatever order
the trials ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from nascale.scaling.baselines import beside, train_baselines
from nascale.scaling.confirmation import confirm
from nascale.scaling.family import train_levels
from nascale.scaling.plan import Fault, FaultReason, Plan
from nascale.scaling.problem import UNSCALED, Purpose, ScalingProblem, ScalingProposal, ScalingRecord
from nascale.scaling.summary import Summary, summarise
from nascale.scaling.validation import validate

__all__ = [
    "Fault",
    "FaultReason",
    "Phase",
    "Pod",
    "Proposals",
    "Summary",
    "propose",
    "summarise",
    "validate",
]

Pod: TypeAlias = tuple[ScalingProposal, ...]
"""Trials that share a pod: a reference and the networks measured beside it, or one training."""


class Phase(StrEnum):
    """What a sweep is busy with."""

    MEASURING = "Measuring"
    TRAINING = "Training"
    VERIFYING = "Verifying"
    BASELINES = "Baselines"
    FINISHED = "Finished"


@dataclass(frozen=True)
class Proposals:
    """The next trials.

    Attributes:
        pods: Trials by pod; none where something must end first.
        finished: The family and its baselines are complete.
        phase: What the sweep is busy with.
        fault: Why it can't go on; ``None``: it can.
    """

    pods: tuple[Pod, ...] = ()
    finished: bool = False
    phase: Phase = Phase.MEASURING
    fault: Fault | None = None


def propose(problem: ScalingProblem, records: Sequence[ScalingRecord], pods: int) -> Proposals:
    """Say which trials come next.

    Networks are measured while nothing trains, and trained while nothing is measured: latency is that of an
    undisturbed target, also where pods share a machine.

    Args:
        problem: The sweep, valid (``validate``).
        records: All trials so far, pending ones included, in any order.
        pods: Most further pods, beside those that are pending.
    """
    plan = Plan(problem, records)
    levels = train_levels(plan, beside(problem))
    baselines = train_baselines(plan) if levels is not None and plan.fault is None else None
    if plan.fault is not None:
        return Proposals(fault=plan.fault, phase=_phase(plan))
    if levels is not None and baselines is not None and confirm(plan, levels, baselines) is not None:
        return Proposals(finished=True, phase=Phase.FINISHED)
    return Proposals(pods=_pods(plan, max(0, pods)), phase=_phase(plan))


def _pods(plan: Plan, most: int) -> tuple[Pod, ...]:
    if _measures(plan):
        return () if plan.trainings.pending else tuple(_measuring_pods(plan)[:most])
    if plan.measurements.busy:
        return ()
    return tuple((training,) for training in plan.agenda.trainings.values())[:most]


def _measures(plan: Plan) -> bool:
    return bool(plan.measurements.repeats or plan.agenda.measurements or plan.agenda.reference)


def _measuring_pods(plan: Plan) -> list[Pod]:
    if plan.measurements.repeats:
        return plan.measurements.repeats
    wanted = list(plan.agenda.measurements.values())
    size = plan.problem.per_pod - 1
    if plan.measurements.busy and len(wanted) < size:
        return []  # the pods under way will say more; a pod that is not full pays a reference for little
    reference = ScalingProposal(Purpose.REFERENCE, UNSCALED)
    groups = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    return [(reference, *group) for group in groups] or [(reference,)]


def _phase(plan: Plan) -> Phase:
    if _measures(plan) or plan.measurements.busy:
        return Phase.MEASURING
    purposes = {own.purpose for own in plan.agenda.trainings.values()} | plan.trainings.purposes
    for purpose, phase in _PHASES.items():
        if purpose in purposes:
            return phase
    return Phase.MEASURING


_PHASES = {
    Purpose.TRAINING: Phase.TRAINING,
    Purpose.VERIFICATION: Phase.VERIFYING,
    Purpose.CONFIRMATION: Phase.VERIFYING,
    Purpose.BASELINE: Phase.BASELINES,
}
