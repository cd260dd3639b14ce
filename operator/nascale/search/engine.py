"""What the operator asks of a search: the next trials, the state of affairs, the base network.

The three functions are pure: the same problem and the same set of trials give the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from nascale.search.history import Proposal, TrialRecord
from nascale.search.problem import SearchProblem


@dataclass(frozen=True)
class Proposals:
    """The next trials.

    Attributes:
        proposals: Promotions first, then new candidates.
        exhausted: The space holds no other candidate, now or later, and no promotion is pending.
    """

    proposals: tuple[Proposal, ...]
    exhausted: bool


@dataclass(frozen=True)
class Summary:
    """The state of affairs.

    Attributes:
        front: Trials of the highest rung reached that no other one beats (constraint domination), by
            the first objective, best first.
        feasible: Whether the front keeps every bound.
        hypervolume: Of the front, each objective scaled to the range that all trials of the same rung
            have spanned so far, reference point 1; 0 to 1.
        best: Best value of each objective among the front's trials, by metric.
        goals_reached: One trial reaches the goal of every objective that has one (``False`` without goals).
    """

    front: tuple[TrialRecord, ...] = ()
    feasible: bool = False
    hypervolume: float = 0.0
    best: Mapping[str, float] = field(default_factory=dict)
    goals_reached: bool = False


class Method(StrEnum):
    """How the base network is chosen; see ``api.SelectionMethod``."""

    KNEE = "Knee"
    BEST_UNDER_CONSTRAINTS = "BestUnderConstraints"
    MNASNET = "MnasNet"
    TUNAS = "TuNAS"


@dataclass(frozen=True)
class SelectionRule:
    """How to choose one trial from the front; the last four only for MnasNet and TuNAS."""

    method: Method = Method.KNEE
    quality_metric: str = ""
    cost_metric: str = ""
    target: float = 1.0
    weight: float = -0.07


@dataclass(frozen=True)
class Choice:
    """The chosen trial and, in a sentence with its figures, why."""

    trial: TrialRecord
    reason: str


def propose(problem: SearchProblem, history: Sequence[TrialRecord], count: int) -> Proposals:
    """Say which trials come next: at most ``count``."""
    raise NotImplementedError


def summarise(problem: SearchProblem, history: Sequence[TrialRecord]) -> Summary:
    """Compute front, hypervolume and best values."""
    raise NotImplementedError


def choose_base(problem: SearchProblem, history: Sequence[TrialRecord], rule: SelectionRule) -> Choice | None:
    """Choose the base network from the front; ``None`` where there is no trial on it."""
    raise NotImplementedError
