"""What has been measured: the only state that a search has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from nascale.search.space import Assignment


class TrialState(StrEnum):
    """What a sampler needs to know about a trial's course.

    Each state has one role in every sampler (``docs/samplers.md``):

    - PENDING: asked for, not measured; never proposed again, otherwise no influence but what a sampler
      states (a constant liar, say).
    - SUCCEEDED: has a finite value for every objective.
    - INFEASIBLE: broke a hard bound; may have values for some objectives. Ranks behind every feasible trial,
      by its violation where that is known.
    - EARLY_STOPPED: may have values for some objectives; never on a front.
    - FAILED, METRICS_UNAVAILABLE: no values; never proposed again.
    """

    PENDING = "Pending"
    SUCCEEDED = "Succeeded"
    INFEASIBLE = "Infeasible"
    EARLY_STOPPED = "EarlyStopped"
    FAILED = "Failed"
    METRICS_UNAVAILABLE = "MetricsUnavailable"


@dataclass(frozen=True)
class TrialRecord:
    """One trial as a sampler sees it.

    Attributes:
        index: Position in the search; unique.
        candidate: Index of the first trial with the same parameters (equal to ``index`` at rung 0).
        rung: Fidelity, 0 is the cheapest.
        parameters: The candidate.
        state: Its course.
        values: Finite values by metric name; complete for SUCCEEDED.
    """

    index: int
    candidate: int
    rung: int
    parameters: Assignment
    state: TrialState
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A trial that the search asks for.

    Attributes:
        parameters: The candidate (active parameters only).
        rung: Fidelity to measure it at.
        candidate: Index of the candidate's first trial for a promotion; ``None`` for a new candidate.
        origin: What proposed it, for people.
    """

    parameters: Assignment
    rung: int = 0
    candidate: int | None = None
    origin: str = ""
