"""What is searched: objectives with bounds, and the settings of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from nascale.search.space import SearchSpace


class Direction(StrEnum):
    """Which way is better."""

    MINIMIZE = "Minimize"
    MAXIMIZE = "Maximize"


@dataclass(frozen=True)
class Objective:
    """One quantity to trade off.

    Attributes:
        metric: Name under which trials carry its value.
        direction: Which way is better.
        goal: Value that is good enough, or ``None``.
        bound: Largest (minimised) or smallest (maximised) acceptable value, or ``None``.
        hard: Whether a trial beyond the bound is infeasible rather than merely ranked behind.
    """

    metric: str
    direction: Direction
    goal: float | None = None
    bound: float | None = None
    hard: bool = True

    def loss(self, value: float) -> float:
        """Turn a value so that smaller is better."""
        return value if self.direction is Direction.MINIMIZE else -value

    def violation(self, value: float) -> float:
        """Say by how much a value lies beyond the bound (0 where it keeps it)."""
        if self.bound is None:
            return 0.0
        return max(0.0, self.loss(value) - self.loss(self.bound))

    def reached(self, value: float) -> bool:
        """Say whether the goal is reached; ``False`` where there is none."""
        return self.goal is not None and self.loss(value) <= self.loss(self.goal)


@dataclass(frozen=True)
class SearchProblem:
    """A search, complete but for what has been measured.

    Attributes:
        space: What may vary.
        objectives: Two or more quantities to trade off.
        algorithm: Name of a sampler in ``samplers.registry``.
        seed: The same seed and the same history give the same proposals.
        settings: Settings of the sampler, as text.
        rungs: Number of fidelities; proposals of new candidates are for rung 0.
        reduction_factor: One in so many candidates of a rung is promoted to the next.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    algorithm: str = "Adaptive"
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    rungs: int = 1
    reduction_factor: int = 3
