"""The smallest member: which vectors are looked at, and which of their networks are trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from nascale.scaling.halving import halve, train_all
from nascale.scaling.plan import Entrant, Plan, Trained
from nascale.scaling.problem import Member, Purpose
from nascale.scaling.quality import QualityModel
from nascale.scaling.vectors import (
    Candidate,
    candidate,
    different,
    distance,
    first_candidates,
    from_shares,
    parse,
    sequence,
    shares,
    within,
)

POOL = 192
"""New directions that the quality model compares."""
_AROUND = (0.05, 0.1, 0.2)
"""Distances of further directions around the best one."""


def explore(plan: Plan, beside: Iterable[tuple[Candidate, Member]]) -> list[Trained] | None:
    """Measure vectors at the smallest member and train the promising part of them in two rounds.

    Args:
        plan: The sweep.
        beside: What else is measured in the same pods, for later.

    Returns:
        The networks of the last rung, the best first; ``None`` while something is under way.
    """
    problem, member = plan.problem, plan.problem.members[0]
    first = first_candidates(problem, math.ceil(problem.vectors / 2))
    plan.looked_at.update((own.name, own) for own in first)
    entrants = plan.entrants([*((own, member) for own in first), *beside])
    if entrants is None:
        return None
    own_entrants = _of(entrants, first, member)
    quota = problem.trained_vectors
    chosen = _first_choice(plan, own_entrants, member, math.ceil(quota / 2))
    tried = [] if plan.lenient else train_all(plan, chosen, Purpose.TRAINING, 0)
    if tried is None:
        return None
    before = len(plan.observations)
    for own in tried:
        plan.observe(own)
    model = QualityModel(plan.observations)
    del plan.observations[before:]  # halving tells of them again, with every repeat
    second = _new_vectors(plan, model, first, member)
    plan.looked_at.update((own.name, own) for own in second)
    more = plan.entrants((own, member) for own in second)
    if more is None:
        return None
    return halve(plan, _second_choice(plan, model, [*own_entrants, *more], chosen, quota), Purpose.TRAINING)


def distinct(entrants: Iterable[Entrant]) -> list[Entrant]:
    """Keep the first of entrants that are the same network."""
    seen: set[str] = set()
    kept: list[Entrant] = []
    for own in entrants:
        if own.network.key not in seen:
            seen.add(own.network.key)
            kept.append(own)
    return kept


def pool(plan: Plan, around: Sequence[Candidate] = ()) -> list[Candidate]:
    """Return new directions: a sequence over the ranges, and some around given ones."""
    near = [
        candidate(from_shares(moved))
        for own in around
        for step in _AROUND
        for turn in range(6)
        if min(moved := _moved(own, step, turn * math.pi / 3)) >= 0
    ]
    return [own for own in (*near, *islice(sequence(plan.problem), POOL)) if within(plan.problem, own.vector)]


def _of(entrants: Iterable[Entrant], candidates: Iterable[Candidate], member: Member) -> list[Entrant]:
    names = {own.name for own in candidates}
    return distinct(own for own in entrants if own.member == member.name and own.candidate.name in names)


def _recorded(plan: Plan, entrants: Iterable[Entrant], member: Member) -> list[Entrant]:
    """Return the entrants whose training has begun, in that order: choices are kept."""
    by_name = {own.candidate.name: own for own in entrants}
    return [by_name[name] for name in plan.trainings.chosen.get(member.name, ()) if name in by_name]


def _first_choice(plan: Plan, entrants: Sequence[Entrant], member: Member, quota: int) -> list[Entrant]:
    """Choose networks to train before anything is known of quality.

    Much computation in the budgeted time is promising, and directions far apart tell most.
    """
    chosen = _recorded(plan, entrants, member)[:quota]
    rest = [own for own in entrants if own not in chosen]
    sizes = {own.network.key: plan.scaler.log_flops(own.network) for own in entrants}
    low, high = min(sizes.values(), default=0.0), max(sizes.values(), default=0.0)
    while rest and len(chosen) < quota:
        best = max(rest, key=lambda own: _merit(own, chosen, sizes[own.network.key], low, high))
        rest.remove(best)
        chosen.append(best)
    return chosen


def _merit(own: Entrant, chosen: Sequence[Entrant], size: float, low: float, high: float) -> float:
    direction = shares(own.candidate.vector)
    apart = min(
        (distance(direction, shares(other.candidate.vector)) for other in chosen),
        default=0.0,
    )
    return apart + 0.5 * (size - low) / (high - low or 1.0)


def _new_vectors(
    plan: Plan, model: QualityModel, first: Sequence[Candidate], member: Member
) -> list[Candidate]:
    """Choose the second round's vectors; those whose measuring has begun are kept."""
    quota = plan.problem.vectors - len(first)
    names = {own.name for own in first}
    begun = [
        found
        for name in plan.measurements.origins(member.name)
        if name not in names and (found := parse(plan.problem, name)) is not None and found.name == name
    ]
    kept = list(different((own for own in begun if "/" in own.name), quota))
    if plan.lenient or len(kept) >= quota:
        return kept
    best = model.best_directions(1)
    around = [candidate(from_shares(direction)) for direction in best]
    fresh = model.choose(
        pool(plan, around), plan.log_budget(member), quota - len(kept), (*first, *kept), improve=True
    )
    return [*kept, *fresh]


def _second_choice(
    plan: Plan, model: QualityModel, entrants: Iterable[Entrant], chosen: Sequence[Entrant], quota: int
) -> list[Entrant]:
    """Choose what is trained in all: the first round's networks and the best of the rest."""
    member = plan.problem.members[0]
    taken = {own.network.key for own in chosen}
    rest = [own for own in distinct(entrants) if own.network.key not in taken]
    if plan.lenient:
        return [*chosen, *rest]
    kept = _recorded(plan, rest, member)[: quota - len(chosen)]
    # The choice is over once the last rung has begun, also where shared networks left places free.
    over = member.name in plan.trainings.concluded
    open_ones = {
        own.candidate: own
        for own in rest
        if own not in kept and (not over or plan.trainings.begun((own.network.key, 0, 0)))
    }
    best = model.choose(
        open_ones,
        plan.log_budget(member),
        quota - len(chosen) - len(kept),
        [own.candidate for own in (*chosen, *kept)],
    )
    return [*chosen, *kept, *(open_ones[own] for own in best)]


def _moved(own: Candidate, step: float, angle: float) -> tuple[float, float, float]:
    """Return shares at a distance from a vector's; two orthogonal directions span the plane of sum 1."""
    depth, width, resolution = shares(own.vector)
    along, across = step * math.cos(angle), step * math.sin(angle)
    return (
        depth + along / math.sqrt(2) + across / math.sqrt(6),
        width - along / math.sqrt(2) + across / math.sqrt(6),
        resolution - 2 * across / math.sqrt(6),
    )
