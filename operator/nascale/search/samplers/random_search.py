"""Uniform draws: the baseline that needs no measurement."""

from __future__ import annotations

from collections.abc import Sequence

from nascale.search.history import Proposal, TrialRecord
from nascale.search.novelty import Novelty, generator, propose_new
from nascale.search.problem import SearchProblem
from nascale.search.settings import Setting, read

SETTINGS: tuple[Setting, ...] = ()


class Random:
    """Draws each parameter independently; no trial has any influence but that it is not repeated."""

    def propose(self, problem: SearchProblem, history: Sequence[TrialRecord], count: int) -> list[Proposal]:
        """Propose up to ``count`` new candidates (see ``sampler.Sampler``)."""
        read("Random", SETTINGS, problem.settings)
        rng = generator(problem, history)
        return propose_new(
            Novelty(problem.space, history), rng, count, lambda: (problem.space.draw(rng), "random")
        )
