"""New candidates only: what has been proposed, and draws among what has not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nascale.search.history import Proposal, TrialRecord
from nascale.search.numbering import Numbering
from nascale.search.problem import SearchProblem
from nascale.search.space import Assignment, Key, ParameterValue, SearchSpace

ATTEMPTS = 16
"""How often a sampler is asked again after a candidate that is not new."""
DRAWS = 32
"""Uniform draws before the untried candidates of a finite space are counted."""
CONTINUOUS_DRAWS = 1000
"""Uniform draws in a continuous space before it counts as exhausted (a range of a few values)."""


class Novelty:
    """The candidates that a search has asked for, in whatever state their trials are."""

    def __init__(self, space: SearchSpace, history: Sequence[TrialRecord]) -> None:
        self._space = space
        self._numbering: Numbering | None = None
        self._seen: set[Key] = set()
        for record in history:
            self.add(record.parameters)

    def __contains__(self, assignment: Assignment) -> bool:
        """Say whether a candidate has been asked for."""
        return self._key(assignment) in self._seen

    def add(self, assignment: Assignment) -> None:
        """Count a candidate as asked for."""
        self._seen.add(self._key(assignment))

    @property
    def exhausted(self) -> bool:
        """Whether a finite space holds no other candidate."""
        count = self._space.count
        return count is not None and len(self._seen) >= count and not self._untried()

    def draw(self, rng: np.random.Generator) -> dict[str, ParameterValue] | None:
        """Draw a new candidate; ``None`` where the space holds no other."""
        finite = self._space.count is not None
        for _ in range(DRAWS if finite else CONTINUOUS_DRAWS):
            drawn = self._space.draw(rng)
            if drawn not in self:
                return drawn
        if not finite:
            return None
        left = self._untried()
        if left == 0:
            return None
        numbering = self._numbers()
        return numbering.candidate(numbering.untried(self._tried(), int(rng.integers(left))))

    def _key(self, assignment: Assignment) -> Key:
        try:
            return self._space.key(assignment)
        except KeyError:
            # Not a candidate of this space; remembered as it is, so that it can't disturb anything.
            return tuple(assignment.items())

    def _numbers(self) -> Numbering:
        if self._numbering is None:
            self._numbering = Numbering(self._space)
        return self._numbering

    def _untried(self) -> int:
        return self._numbers().size - len(self._tried())

    def _tried(self) -> set[int]:
        numbers: set[int] = set()
        for key in self._seen:
            try:
                numbers.add(self._numbers().number(dict(key)))
            except (KeyError, ValueError):
                continue
        return numbers


def generator(problem: SearchProblem, history: Sequence[TrialRecord], stream: int = 0) -> np.random.Generator:
    """Return the random numbers of a call: they follow from the seed and the next trial's index alone."""
    return np.random.default_rng((abs(problem.seed), next_index(history), stream))


def next_index(history: Sequence[TrialRecord]) -> int:
    """Return the index that the next trial will have."""
    return max((record.index for record in history), default=-1) + 1


def by_index(history: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Sort a history: its order must have no influence."""
    return sorted(history, key=lambda record: record.index)


def propose_new(
    novelty: Novelty,
    rng: np.random.Generator,
    count: int,
    suggest: Callable[[], tuple[Assignment, str] | None],
    attempts: int = ATTEMPTS,
) -> list[Proposal]:
    """Collect new candidates from a sampler.

    Args:
        novelty: What has been asked for; the proposals are added.
        rng: For the draws that stand in where the sampler repeats itself.
        count: Candidates wanted.
        suggest: One candidate of the sampler and its origin, or ``None`` where it has no idea.
        attempts: How often the sampler is asked for one candidate before a draw stands in.

    Returns:
        Fewer than ``count`` only where the space holds no more.
    """
    proposals: list[Proposal] = []
    while len(proposals) < count and not novelty.exhausted:
        chosen: tuple[Assignment, str] | None = None
        for _ in range(attempts):
            suggested = suggest()
            if suggested is None:
                break
            if suggested[0] not in novelty:
                chosen = suggested
                break
        if chosen is None:
            drawn = novelty.draw(rng)
            if drawn is None:
                break
            chosen = (drawn, "random")
        novelty.add(chosen[0])
        proposals.append(Proposal(parameters=dict(chosen[0]), origin=chosen[1]))
    return proposals
