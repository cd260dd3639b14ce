"""Confirmation: networks too close to call get further seeds before one of them is chosen.

A race at each member between everything that it may be chosen from, baselines' networks included. The noise
of a training is known from the repeats; whoever lies significantly behind the best falls out, the others are
trained as many times again, until one is left or each has had the most (sequential elimination as in
Hoeffding races: Maron and Moore, NIPS 1993; here by the pooled variance instead of a bound).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Final

from nascale.scaling.baselines import BaselineTrained
from nascale.scaling.choice import Levels, options
from nascale.scaling.halving import train_all
from nascale.scaling.plan import Plan, Trained
from nascale.scaling.problem import Purpose, ScalingProblem

CLOSE: Final = 2.0
"""Standard errors of the difference of two means up to which two networks are too close to call."""
_FEWEST: Final = 2
"""Trainings of a network from which it takes part: one alone says nothing about the noise."""


def confirm(
    plan: Plan, levels: Levels, baselines: Sequence[BaselineTrained]
) -> tuple[Levels, list[BaselineTrained]] | None:
    """Train what is too close to call with further seeds.

    Args:
        plan: The sweep.
        levels: The sweep's own trained networks by member, complete.
        baselines: All baselines, trained.

    Returns:
        Both with the further trainings, those that have fallen out marked so (``Trained.beaten``); ``None``
        while a training is under way. Without room for further trainings both as they are.
    """
    problem = plan.problem
    if problem.most_repeats <= problem.repeats:
        return levels, list(baselines)
    pools = {
        member.name: [
            own
            for own in options(plan, levels.get(member.name, ()), member.name, baselines)
            if own.result.count >= _FEWEST
        ]
        for member in problem.members
    }
    noise = _noise(plan, (own for pool in pools.values() for own in pool))
    races = {name: _race(plan, pool, noise) for name, pool in pools.items()}
    ended = {name: race for name, race in races.items() if race is not None}
    if len(ended) < len(races):
        return None
    own_networks = {
        name: sorted((_after(own, ended[name]) for own in trained), key=lambda own: own.order)
        for name, trained in levels.items()
    }
    others = [
        replace(own, members={name: _after(found, ended[name]) for name, found in own.members.items()})
        for own in baselines
    ]
    return own_networks, others


def most_confirmations(problem: ScalingProblem) -> int:
    """Return how many trainings a race of two networks takes at most."""
    return 2 * max(0, problem.most_repeats - problem.repeats)


def _race(plan: Plan, pool: Sequence[Trained], noise: float) -> dict[str, Trained] | None:
    """Return what is known of each network at the end, by key; ``None`` while a training is under way."""
    problem = plan.problem
    known = {own.entrant.network.key: own for own in pool}
    close, repeats = _close(list(known.values()), noise), problem.repeats
    while len(close) > 1 and repeats < problem.most_repeats:
        repeats = min(repeats + problem.repeats, problem.most_repeats)
        entrants = [own.entrant for own in close]
        trained = train_all(plan, entrants, Purpose.CONFIRMATION, problem.rungs - 1, repeats)
        if trained is None:
            return None
        known |= {own.entrant.network.key: own for own in trained}
        close = _close(trained, noise)
    left = {own.entrant.network.key for own in close}
    return {key: replace(own, beaten=key not in left) for key, own in known.items()}


def _close(trained: Sequence[Trained], noise: float) -> list[Trained]:
    """Return the best one and those that may be better."""
    if not trained:
        return []
    best = min(trained, key=lambda own: own.order)
    return [own for own in trained if own is best or _undecided(own, best, noise)]


def _undecided(own: Trained, best: Trained, noise: float) -> bool:
    error = noise * math.sqrt(1 / own.result.count + 1 / best.result.count)
    return own.violation <= best.violation and own.loss - best.loss < CLOSE * error


def _noise(plan: Plan, trained: Iterable[Trained]) -> float:
    """Return the standard deviation of a training, pooled over networks; 0 where nothing tells it."""
    problem = plan.problem
    squares, freedom = 0.0, 0
    for key in {own.entrant.network.key for own in trained}:
        found = [
            values[problem.quality.metric]
            for repeat in range(problem.repeats)
            if (values := plan.trainings.values((key, problem.rungs - 1, repeat))) is not None
        ]
        if len(found) >= _FEWEST:
            mean = fmean(found)
            squares += math.fsum((value - mean) ** 2 for value in found)
            freedom += len(found) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0


def _after(own: Trained, ended: Mapping[str, Trained]) -> Trained:
    """Put in what the race has brought; whose network it is stays."""
    after = ended.get(own.entrant.network.key, own)
    return replace(own, result=after.result, loss=after.loss, violation=after.violation, beaten=after.beaten)
