"""The state of a sweep: family, baselines, drift, and what it has cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nascale.contract.architecture import Architecture
from nascale.contract.metric_names import FLOPS, LATENCIES, PARAMETERS, THROUGHPUT
from nascale.scaling.baselines import EFFICIENT_NET, BaselineTrained, beside, train_baselines
from nascale.scaling.choice import Chosen, Family, Levels, choose_family
from nascale.scaling.confirmation import confirm
from nascale.scaling.family import train_levels
from nascale.scaling.latency_model import prequential_error
from nascale.scaling.networks import ScaledNetwork
from nascale.scaling.plan import Plan
from nascale.scaling.problem import (
    MEASURE_ONLY,
    Member,
    Multipliers,
    Purpose,
    ScalingProblem,
    ScalingRecord,
    Vector,
)

_OF_MEASURING = LATENCIES | {THROUGHPUT, PARAMETERS, FLOPS}
"""Metrics that are taken from measuring pods, where those report them."""


@dataclass(frozen=True)
class MemberSummary:
    """A member of a family.

    Attributes:
        name: The member's.
        vector: Normalised to alpha * beta^2 * gamma^2 = 2.
        coefficient: Compound coefficient.
        multipliers: Factors of the base.
        network: The network.
        budget: Seconds.
        latency: Accepted or corrected, seconds.
        values: By metric: latencies, throughput, parameters and FLOPs from measuring pods, all else the mean
            of the trainings at the last rung.
        trial: Trial that trained it first at the last rung; ``None``: values were taken over.
        trainings: How many the means are of.
        gain: Quality over EfficientNet's at the same budget, positive where this one is better; ``None``
            without that baseline's network.
        origin: Name of the vector.
        taken_from: Baseline whose network it is, where the sweep's own candidates have none as good; else
            empty.
        same_as: Smaller member whose network it is as well, where no slower one was trained; else empty.
    """

    name: str
    vector: Vector
    coefficient: float
    multipliers: Multipliers
    network: ScaledNetwork
    budget: float
    latency: float
    values: Mapping[str, float]
    trial: int | None
    trainings: int
    gain: float | None
    origin: str
    taken_from: str = ""
    same_as: str = ""

    @property
    def architecture(self) -> Architecture | None:
        """The network, where the base is one of the built-in space."""
        return self.network.architecture


@dataclass(frozen=True)
class BaselineSummary:
    """What another way of scaling gives at the same budgets."""

    name: str
    members: tuple[MemberSummary, ...]


@dataclass(frozen=True)
class ReferenceSummary:
    """Drift, seen by the base network in every measuring pod.

    Attributes:
        measurements: Measurements of the reference.
        latency: Their median, seconds; ``None``: none.
        last_ratio: The latest over the median; ``None``: none.
        remeasured_pods: Pods that were measured again.
        corrected_pods: Pods whose values are corrected.
    """

    measurements: int = 0
    latency: float | None = None
    last_ratio: float | None = None
    remeasured_pods: int = 0
    corrected_pods: int = 0


@dataclass(frozen=True)
class PhaseSeconds:
    """Device-seconds by phase."""

    measuring: float = 0.0
    training: float = 0.0
    verifying: float = 0.0
    baselines: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.measuring + self.training + self.verifying + self.baselines


@dataclass(frozen=True)
class Summary:
    """The state of affairs.

    Attributes:
        vectors: Coefficient vectors looked at.
        vector: The family's, normalised (mode Compound); ``None``: not known yet, or a vector per member.
        members: The family's members found so far, from small to large.
        baselines: Those asked for, with the members trained so far.
        reference: Drift.
        latency_model_error: Median relative error of predictions, each made before its measurement.
        seconds: Device-seconds by phase.
        reused: Trainings taken over from another sweep.
        complete: Every member has a trained network.
    """

    vectors: int = 0
    vector: Vector | None = None
    members: tuple[MemberSummary, ...] = ()
    baselines: tuple[BaselineSummary, ...] = ()
    reference: ReferenceSummary = field(default_factory=ReferenceSummary)
    latency_model_error: float | None = None
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    reused: int = 0
    complete: bool = False


def summarise(problem: ScalingProblem, records: Sequence[ScalingRecord]) -> Summary:
    """Compute the state of affairs; while trials are under way, from what there is."""
    plan = Plan(problem, records)
    family, baselines = _state(plan, records)
    by_name = {own.name: own for own in problem.members}
    rule = next((own for own in baselines if own.name == EFFICIENT_NET), None)
    members = tuple(_member(plan, by_name[name], own, rule) for name, own in family.members.items())
    return Summary(
        vectors=len(plan.looked_at) if records else 0,
        vector=family.vector.vector if family.vector else None,
        members=members,
        baselines=tuple(_baseline(plan, own) for own in baselines),
        reference=_reference(plan),
        latency_model_error=_model_error(plan, records),
        seconds=_seconds(records),
        reused=len(plan.trainings.reused),
        complete=len(members) == len(problem.members),
    )


def _state(plan: Plan, records: Sequence[ScalingRecord]) -> tuple[Family, list[BaselineTrained]]:
    """Choose the family; where something is under way, from what there is."""
    levels, baselines = _trained(plan)
    choosing = plan
    if levels is None or baselines is None:
        lenient = Plan(plan.problem, records, lenient=True)
        some, others = _trained(lenient)
        baselines = others if baselines is None else baselines
        if levels is None:
            levels, choosing = some, lenient
    elif confirmed := confirm(plan, levels, baselines):
        levels, baselines = confirmed
    return choose_family(choosing, levels or {}, baselines or []), baselines or []


def _trained(plan: Plan) -> tuple[Levels | None, list[BaselineTrained] | None]:
    levels = train_levels(plan, beside(plan.problem))
    return levels, None if levels is None else train_baselines(plan)


def _member(plan: Plan, member: Member, choice: Chosen, rule: BaselineTrained | None) -> MemberSummary:
    own = choice.trained
    entrant = own.entrant
    ray = plan.ray(entrant.candidate)
    measured = plan.measured(entrant.network)
    of_measuring = measured.values if measured else {}
    values = {
        **of_measuring,
        **{name: value for name, value in own.result.values.items() if name not in _OF_MEASURING},
        **{name: value for name, value in of_measuring.items() if name in _OF_MEASURING},
    }
    plain = rule.members.get(member.name) if rule else None
    return MemberSummary(
        name=member.name,
        vector=entrant.candidate.vector,
        coefficient=ray.coefficients[ray.places[entrant.network.key]],
        multipliers=entrant.network.multipliers,
        network=entrant.network,
        budget=plan.budget(member) or own.latency,
        latency=own.latency,
        values=dict(sorted(values.items())),
        trial=own.result.index,
        trainings=own.result.count,
        gain=None if plain is None else plain.loss - own.loss,
        origin=entrant.candidate.name,
        taken_from=choice.taken_from,
        same_as=choice.same_as,
    )


def _baseline(plan: Plan, own: BaselineTrained) -> BaselineSummary:
    return BaselineSummary(
        own.name,
        tuple(
            _member(plan, member, Chosen(own.members[member.name]), None)
            for member in plan.problem.members
            if member.name in own.members
        ),
    )


def _reference(plan: Plan) -> ReferenceSummary:
    measurements = plan.measurements
    return ReferenceSummary(
        measurements.reference_count,
        measurements.reference,
        measurements.last_ratio,
        measurements.remeasured_pods,
        measurements.corrected_pods,
    )


def _model_error(plan: Plan, records: Sequence[ScalingRecord]) -> float | None:
    lead = {own.index: own.lead for own in records}
    logs, features = plan.latency_data
    pods = [lead[own.index] for own in plan.measured_candidates.values()]
    return prequential_error(features, logs, pods) if logs else None


def _seconds(records: Sequence[ScalingRecord]) -> PhaseSeconds:
    def total(*purposes: Purpose) -> float:
        return math.fsum(own.device_seconds for own in records if own.purpose in purposes)

    return PhaseSeconds(
        measuring=total(*MEASURE_ONLY),
        training=total(Purpose.TRAINING),
        verifying=total(Purpose.VERIFICATION, Purpose.CONFIRMATION),
        baselines=total(Purpose.BASELINE),
    )
