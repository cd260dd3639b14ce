"""Regularised evolution (Real et al., AAAI 2019, arXiv:1802.01548) for several objectives.

The population is the most recent trials: old age alone removes a trial, so that a lucky measurement
can't stay for ever. Each new candidate is a mutation of a tournament's winner; fitness is the rank by
constraint domination within the population, then the spread over the front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nascale.search.domination import Tier, order, tier
from nascale.search.history import Proposal, TrialRecord
from nascale.search.novelty import Novelty, by_index, generator, propose_new
from nascale.search.problem import SearchProblem
from nascale.search.samplers.variation import mutate
from nascale.search.settings import Setting, WholeSetting, read
from nascale.search.space import Assignment

SETTINGS: tuple[Setting, ...] = (
    WholeSetting("populationSize", default=50, low=2, high=10_000),
    WholeSetting("sampleSize", default=10, low=1, high=10_000),
    WholeSetting("mutations", default=1, low=1, high=128),
)


class RegularizedEvolution:
    """Mutates the winner of a tournament among the latest trials.

    Roles: SUCCEEDED, INFEASIBLE and EARLY_STOPPED trials are members of the population, ranked in this
    order of classes; the others are only not repeated. Until the population is complete, candidates
    are drawn uniformly.
    """

    def propose(self, problem: SearchProblem, history: Sequence[TrialRecord], count: int) -> list[Proposal]:
        """Propose up to ``count`` new candidates (see ``sampler.Sampler``)."""
        settings = read("RegularizedEvolution", SETTINGS, problem.settings)
        rng = generator(problem, history)
        size = settings.whole("populationSize")
        measured = [record for record in by_index(history) if tier(problem, record) is not Tier.UNRANKED]
        population = measured[-size:]
        ranked = [population[position] for position in order(problem, population)]
        complete = len(population) == size
        sample = min(settings.whole("sampleSize"), size)

        def suggest() -> tuple[Assignment, str]:
            if not complete:
                return problem.space.draw(rng), "random"
            winner = ranked[int(np.min(rng.choice(size, size=sample, replace=False)))]
            return mutate(problem.space, winner.parameters, rng, settings.whole("mutations")), "mutation"

        return propose_new(Novelty(problem.space, history), rng, count, suggest)
