"""Other ways of scaling at the same budgets, with the same repeats and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nascale.scaling.exploration import distinct
from nascale.scaling.halving import halve, train_all
from nascale.scaling.networks import ScaledNetwork
from nascale.scaling.plan import Entrant, Plan, Trained
from nascale.scaling.problem import Purpose, ScalingProblem
from nascale.scaling.vectors import Candidate, first_candidates, published

EFFICIENT_NET: Final = "EfficientNet"
ACCURACY_FLOPS: Final = "AccuracyFLOPs"


@dataclass(frozen=True)
class BaselineTrained:
    """A baseline's networks.

    Attributes:
        name: The baseline.
        vector: Its vector; ``None``: AccuracyFLOPs has not found one yet.
        members: Its trained network by member.
    """

    name: str
    vector: Candidate | None
    members: dict[str, Trained]


def rules(problem: ScalingProblem) -> dict[str, Candidate]:
    """Return the vectors of the baselines that are asked for; those of AccuracyFLOPs are found later."""
    known = published(problem)
    return {name: known[name] for name in problem.baselines if name in known}


def beside(problem: ScalingProblem) -> list[Candidate]:
    """Return the vectors whose latency is measured together with the candidates'."""
    known, wanted = published(problem), rules(problem)
    if ACCURACY_FLOPS in problem.baselines and EFFICIENT_NET in known:
        wanted[EFFICIENT_NET] = known[EFFICIENT_NET]
    return list(wanted.values())


def train_baselines(plan: Plan) -> list[BaselineTrained] | None:
    """Train every baseline's networks; ``None`` while something is under way."""
    vectors: dict[str, Candidate | None] = dict(rules(plan.problem))
    if ACCURACY_FLOPS in plan.problem.baselines:
        found = _best_at_equal_flops(plan)
        if found is None:
            return None
        vectors[ACCURACY_FLOPS] = found[0].entrant.candidate if found else None
    entrants: list[Entrant] = []
    waiting = False
    for name, vector in vectors.items():
        if vector is not None:
            own = plan.entrants(((vector, member) for member in plan.problem.members), origin=name)
            waiting |= own is None
            entrants += own or ()
    if waiting:
        return None
    last, repeats = plan.problem.rungs - 1, plan.problem.repeats
    trained = train_all(plan, entrants, Purpose.BASELINE, last, repeats)
    if trained is None:
        return None
    return [
        BaselineTrained(
            name,
            vectors.get(name),
            {own.entrant.member: own for own in trained if own.entrant.origin == name},
        )
        for name in plan.problem.baselines
    ]


def _best_at_equal_flops(plan: Plan) -> Sequence[Trained] | None:
    """Take vectors' networks of equal FLOPs through the rungs, blind to latency.

    (EfficientNet, section 3.3, finds its vector so.)
    """
    known = published(plan.problem)
    if EFFICIENT_NET not in known:
        return []
    found = plan.entrants([(known[EFFICIENT_NET], plan.problem.members[0])])
    if found is None:
        return None
    if not found:
        return []
    target = plan.scaler.log_flops(found[0].network)
    entrants = [
        Entrant(own, network, "", ACCURACY_FLOPS)
        for own in first_candidates(plan.problem, plan.problem.trained_vectors)
        if (network := _nearest(plan, own, target)) is not None
    ]
    kept = len(plan.observations)
    trained = halve(plan, distinct(entrants), Purpose.BASELINE)
    del plan.observations[kept:]
    return trained


def _nearest(plan: Plan, candidate: Candidate, target: float) -> ScaledNetwork | None:
    dead = plan.measurements.failed
    usable = [network for network in plan.ray(candidate).networks if network.key not in dead]
    return min(usable, key=lambda own: abs(plan.scaler.log_flops(own) - target), default=None)
