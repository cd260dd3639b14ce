"""The one interface of all samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nascale.search.history import Proposal, TrialRecord
from nascale.search.problem import SearchProblem


class Sampler(Protocol):
    """Chooses the next candidates.

    A sampler holds no state between calls: everything follows from the problem and the history, so that
    a restarted operator goes on exactly where it was. The history is a *set*: its order, and the order in
    which parallel trials ended, have no influence (samplers sort by index).
    """

    def propose(self, problem: SearchProblem, history: Sequence[TrialRecord], count: int) -> list[Proposal]:
        """Propose up to ``count`` new candidates for rung 0.

        No candidate of the history is proposed, and none twice. Fewer than ``count`` are returned only
        where the space holds no more: an empty list means that it is exhausted.
        """
        ...
