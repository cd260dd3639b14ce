"""How long the trainings that are still to come will take, by what trainings have taken so far.

What a training costs grows with its rung's samples and with its network; of the latter the budget over the
base's latency is a fair measure. The plan is known but for networks that vectors share: those are trained
once, so that a forecast is rather too long than too short.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from nascale.scaling.baselines import ACCURACY_FLOPS, rules
from nascale.scaling.confirmation import most_confirmations
from nascale.scaling.halving import survivors
from nascale.scaling.plan import Plan
from nascale.scaling.problem import MEASURE_ONLY, Purpose, ScalingProblem, ScalingRecord
from nascale.search.history import TrialState

_Kind: TypeAlias = tuple[Purpose, str, int]
"""Purpose, member (empty: none in particular) and rung of a training."""
_Stage: TypeAlias = Mapping[_Kind, int]
"""How many trainings of each kind are planned at most, all at the same time; stages follow each other."""


def remaining_seconds(
    problem: ScalingProblem, records: Sequence[ScalingRecord], rung_costs: Sequence[float]
) -> float | None:
    """Return the device-seconds of the trainings that are still to come; ``None``: none has ended yet.

    Args:
        problem: The sweep.
        records: All trials so far, in any order.
        rung_costs: What a training at each rung costs, in any unit (epochs times share of the data).
    """
    plan = Plan(problem, records)
    sizes = {member.name: math.exp(max(0.0, plan.log_budget(member))) for member in problem.members}
    sizes[""] = sizes[problem.members[0].name]
    trainings = [own for own in records if own.purpose not in MEASURE_ONLY]
    ended = [own for own in trainings if own.state is not TrialState.PENDING]
    work = math.fsum(rung_costs[own.rung] * sizes[own.member] for own in ended)
    seconds = math.fsum(own.device_seconds for own in ended)
    if work <= 0 or seconds <= 0:
        return None
    begun = {(own.purpose, own.member, own.rung) for own in trainings}
    done = Counter((own.purpose, own.member, own.rung) for own in ended)
    stages = list(_stages(problem))
    # A stage is over when a later one has begun, whatever was planned of it.
    current = max((place for place, own in enumerate(stages) if not begun.isdisjoint(own)), default=0)
    left = math.fsum(
        max(0, planned - done[kind]) * rung_costs[kind[2]] * sizes[kind[1]]
        for stage in stages[current:]
        for kind, planned in stage.items()
    )
    return left * seconds / work


def _stages(problem: ScalingProblem) -> Iterator[_Stage]:
    last, repeats = problem.rungs - 1, problem.repeats
    smallest, *larger = problem.members
    yield from _halving(problem, Purpose.TRAINING, smallest.name, problem.trained_vectors)
    if problem.per_level:
        for place, member in enumerate(larger, start=1):
            size = max(problem.finalists, math.ceil(problem.trained_vectors / 2**place))
            yield from _halving(problem, Purpose.TRAINING, member.name, size)
    elif larger:
        yield {(Purpose.VERIFICATION, member.name, last): problem.finalists * repeats for member in larger}
    families = len(rules(problem))
    if ACCURACY_FLOPS in problem.baselines:
        yield from _halving(problem, Purpose.BASELINE, "", problem.trained_vectors)
        families += 1
    yield {(Purpose.BASELINE, member.name, last): families * repeats for member in problem.members}
    if further := most_confirmations(problem):
        yield {(Purpose.CONFIRMATION, member.name, last): further for member in problem.members}


def _halving(problem: ScalingProblem, purpose: Purpose, member: str, networks: int) -> Iterator[_Stage]:
    """Give the rungs of successive halving, as ``halving.halve`` goes through them."""
    last = problem.rungs - 1
    for rung in range(last):
        if survivors(problem, networks) == networks:
            break
        yield {(purpose, member, rung): networks}
        networks = survivors(problem, networks)
    once = networks - survivors(problem, networks) if last == 0 else 0
    yield {(purpose, member, last): (networks - once) * problem.repeats + once}
