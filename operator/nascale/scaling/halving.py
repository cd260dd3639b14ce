"""Successive halving: cheap trainings decide which networks get expensive ones.

Jamieson and Talwalkar, AISTATS 2016. A rung is compared when all of it has ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from nascale.scaling.plan import Entrant, Missing, Plan, Trained
from nascale.scaling.problem import Purpose, ScalingProblem
from nascale.scaling.quality import QualityModel
from nascale.scaling.trainings import Result

SMALLEST_GAIN: Final = 0.3
"""Expected gain, in units of the noise of the mean of all repeats, from which a further finalist of a larger
member is trained."""


def survivors(problem: ScalingProblem, entrants: int) -> int:
    """Return how many of a rung's networks go on: one in ``reduction_factor``, at least the finalists."""
    return min(entrants, max(problem.finalists, entrants // problem.reduction_factor))


def train_all(
    plan: Plan, entrants: Iterable[Entrant], purpose: Purpose, rung: int, repeats: int = 1
) -> list[Trained] | None:
    """Train networks at a rung; return those that succeeded, the best first, or ``None`` while some run."""
    found: list[Trained] = []
    waiting = False
    for entrant in entrants:
        result = plan.train(entrant, purpose, rung, range(repeats))
        if isinstance(result, Result):
            found.append(plan.trained(entrant, rung, result))
        waiting |= result is Missing.WAITING
    return None if waiting else sorted(found, key=lambda own: own.order)


def halve(
    plan: Plan, entrants: Sequence[Entrant], purpose: Purpose, *, doubt: bool = False
) -> list[Trained] | None:
    """Take networks through the rungs; return those of the last one, the best first.

    A rung from which all would go on is left out: it would choose nothing. At the last rung each network is
    trained with every repeat. Where it is the only rung, all networks are trained there once, and the
    survivors with every repeat; the others come after them in the order.

    Args:
        plan: The sweep.
        entrants: Where no rung chooses, the first is taken for the best.
        purpose: Of the trainings.
        doubt: Train at the last rung only the first and those that may well be better (``promising``).

    Returns:
        ``None`` while some training has not ended.
    """
    last = plan.problem.rungs - 1
    if plan.lenient:
        return train_all(plan, entrants, purpose, last, plan.problem.repeats)
    remaining = list(entrants)
    for rung in range(last):
        if survivors(plan.problem, len(remaining)) == len(remaining):
            break
        trained = train_all(plan, remaining, purpose, rung)
        if trained is None:
            return None
        for own in trained:
            plan.observe(own)
        remaining = [own.entrant for own in trained[: survivors(plan.problem, len(trained))]]
    return _last_rung(plan, promising(plan, remaining) if doubt else remaining, purpose)


def promising(plan: Plan, entrants: Sequence[Entrant]) -> list[Entrant]:
    """Keep the first, and those that are expected to gain on it; trainings that have begun are kept.

    Where less is to be expected than a part of the noise of the trainings, these would hardly tell which is
    better, and it matters little.
    """
    model = QualityModel(plan.observations)
    last, least = plan.problem.rungs - 1, SMALLEST_GAIN / math.sqrt(plan.problem.repeats)
    return [
        own
        for place, own in enumerate(entrants)
        if place == 0
        or plan.trainings.begun((own.network.key, last, 0))
        or model.expected_gain(own.candidate, entrants[0].candidate) >= least
    ]


def _last_rung(plan: Plan, entrants: Sequence[Entrant], purpose: Purpose) -> list[Trained] | None:
    last, repeats = plan.problem.rungs - 1, plan.problem.repeats
    others: list[Trained] = []
    if last == 0 and repeats > 1:
        once = train_all(plan, entrants, purpose, 0)
        if once is None:
            return None
        cut = survivors(plan.problem, len(once))
        entrants, others = [own.entrant for own in once[:cut]], once[cut:]
    trained = train_all(plan, entrants, purpose, last, repeats)
    if trained is None:
        return None
    for own in (*trained, *others):
        plan.observe(own)
    return [*trained, *others]
