"""The networks that a family is chosen from: mode Compound, mode PerLevel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from nascale.scaling.choice import Levels
from nascale.scaling.exploration import distinct, explore, pool
from nascale.scaling.halving import halve, train_all
from nascale.scaling.plan import Fault, FaultReason, Plan, Trained
from nascale.scaling.problem import Member, Purpose
from nascale.scaling.quality import QualityModel
from nascale.scaling.vectors import Candidate, parse


def train_levels(plan: Plan, beside: Sequence[Candidate]) -> Levels | None:
    """Train the networks that the members are chosen from; ``None`` while something is under way.

    Args:
        plan: The sweep; its fault is set where a member can have none.
        beside: Baselines' vectors, measured in the same pods.
    """
    smallest, *larger = plan.problem.members
    if plan.measurements.settled and not plan.lenient and _unreachable(plan):
        return None
    trained = explore(plan, [(own, smallest) for own in beside])
    if trained is None:
        return None
    levels = {smallest.name: trained}
    if plan.problem.per_level:
        for member in larger:
            level = _level(plan, member, levels)
            if level is None:
                return None
            levels[member.name] = level
    else:
        finalists = [own.entrant.candidate for own in trained[: plan.problem.finalists]]
        if plan.lenient:
            finalists = [own.entrant.candidate for own in trained]
        verified = _verify(plan, finalists, larger, beside)
        if verified is None:
            return None
        levels |= verified
        if not plan.lenient:
            levels[smallest.name] = trained[: plan.problem.finalists]
    _look_for_gaps(plan, levels)
    return levels


def _unreachable(plan: Plan) -> bool:
    """Look for a budget below the base's latency, or one that does not exceed the member's before."""
    reference = plan.measurements.reference
    if reference is None:
        return False
    largest, of_member = 0.0, ""
    for place, member in enumerate(plan.problem.members):
        budget = plan.budget(member) or reference
        field = f"family[{place}].{'latencySeconds' if member.seconds is not None else 'latencyMultiple'}"
        message = ""
        if budget * (1 + plan.problem.tolerance) < reference:
            message = f"at least {reference:.6g} s, the smallest latency measured (of the unscaled base)"
        elif budget <= largest:
            message = f"more than {largest:.6g} s, the budget of member {of_member} on this target"
        if message:
            said = f"{field}: must be {message}, not {budget:.6g} s at member {member.name}"
            plan.fault = Fault(FaultReason.BUDGET_UNREACHABLE, said)
            return True
        largest, of_member = budget, member.name
    return False


def _look_for_gaps(plan: Plan, levels: Levels) -> None:
    for member in plan.problem.members:
        if not levels.get(member.name) and not plan.lenient and plan.fault is None:
            plan.fault = Fault(
                FaultReason.NO_FEASIBLE_TRIAL,
                f"member {member.name}: none of its networks could be trained",
            )


def _verify(
    plan: Plan, finalists: Iterable[Candidate], members: Sequence[Member], beside: Iterable[Candidate]
) -> dict[str, list[Trained]] | None:
    """Train the finalists' networks at each larger member."""
    own = list(finalists)
    asked = dict.fromkeys((*own, *beside))
    entrants = plan.entrants((candidate, member) for member in members for candidate in asked)
    if entrants is None:
        return None
    last, repeats = plan.problem.rungs - 1, plan.problem.repeats
    wanted = [entrant for entrant in entrants if entrant.candidate in own]
    trained = train_all(plan, wanted, Purpose.VERIFICATION, last, repeats)
    if trained is None:
        return None
    return {
        member.name: [found for found in trained if found.entrant.member == member.name] for member in members
    }


def _level(plan: Plan, member: Member, levels: Mapping[str, Sequence[Trained]]) -> list[Trained] | None:
    """Train a member's own set of candidates, chosen by what smaller members have taught."""
    problem = plan.problem
    before = list(levels.values())[-1]
    place = problem.members.index(member)
    size = max(problem.finalists, math.ceil(problem.trained_vectors / 2**place))
    kept = [
        found
        for name in (
            *plan.trainings.chosen.get(member.name, ()),
            *(name for name in plan.measurements.origins(member.name) if "/" in name),
        )
        if (found := parse(problem, name)) is not None
    ]
    chosen = list(dict.fromkeys(kept))[:size]
    if not plan.lenient:
        leader = [own.entrant.candidate for own in before[:1] if own.entrant.candidate not in chosen]
        chosen = [*chosen, *leader][:size]
    if not plan.lenient and len(chosen) < size:
        model = QualityModel(plan.observations)
        known = [own for own in plan.looked_at.values() if own not in chosen]
        around = [own.entrant.candidate for own in before[:1]]
        chosen += model.choose(
            [*known, *pool(plan, around)], plan.log_budget(member), size - len(chosen), chosen
        )
    plan.looked_at.update((own.name, own) for own in chosen)
    entrants = plan.entrants((own, member) for own in chosen)
    return None if entrants is None else halve(plan, distinct(entrants), Purpose.TRAINING, doubt=True)
