"""Searches run against a function instead of a cluster: what the tests of samplers share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from nascale.search import engine
from nascale.search.history import Proposal, TrialRecord, TrialState
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.space import Assignment, Categorical, Condition, Integer, Real, SearchSpace
from nascale.search.spaces import decode, encode

Evaluate = Callable[[Assignment, int], tuple[TrialState, Mapping[str, float]]]

CONDITIONAL = SearchSpace(
    (
        Categorical("block", ("mb", "fused", "identity")),
        Integer("kernel", 3, 7, 2, when=Condition("block", ("mb", "fused"))),
        Categorical("ratio", ("0", "0.25"), when=Condition("kernel", (5, 7))),
        Integer("width", 8, 64, log=True),
        Real("drop", 0.001, 0.5, log=True),
    )
)
SMALL = SearchSpace(
    (
        Categorical("block", ("mb", "fused", "identity")),
        Integer("kernel", 3, 5, 2, when=Condition("block", ("mb",))),
        Categorical("wide", ("no", "yes")),
    )
)
"""Eight candidates."""
OBJECTIVES = (Objective("accuracy", Direction.MAXIMIZE), Objective("latency", Direction.MINIMIZE))


def measure(assignment: Assignment, rung: int = 0) -> tuple[TrialState, Mapping[str, float]]:
    """A made-up network: wide and large kernels are accurate and slow."""
    weights = {"mb": 2.0, "fused": 3.0, "identity": 0.0, "no": 0.0, "yes": 4.0, "0": 0.0, "0.25": 0.5}
    total = sum(
        weights[value] if isinstance(value, str) else value / (1 + 7 * position)
        for position, value in enumerate(assignment.values())
    )
    wiggle = (sum(ord(letter) for letter in str(sorted(assignment.items()))) % 17) / 17
    return TrialState.SUCCEEDED, {
        "accuracy": total / (2 + total) + 0.1 * wiggle + 0.05 * rung,
        "latency": 0.1 + total**1.3 + wiggle,
    }


def record(index: int, proposal: Proposal, evaluate: Evaluate = measure) -> TrialRecord:
    """Measure a proposal."""
    state, values = evaluate(proposal.parameters, proposal.rung)
    candidate = index if proposal.candidate is None else proposal.candidate
    return TrialRecord(index, candidate, proposal.rung, proposal.parameters, state, values)


def run(
    problem: SearchProblem, trials: int, evaluate: Evaluate = measure, at_once: int = 1
) -> list[TrialRecord]:
    """Run a search for so many trials, or until its space is exhausted."""
    history: list[TrialRecord] = []
    while len(history) < trials:
        found = engine.propose(problem, history, min(at_once, trials - len(history)))
        if not found.proposals:
            break
        start = len(history)
        history += [
            record(start + offset, proposal, evaluate) for offset, proposal in enumerate(found.proposals)
        ]
    return history


def stored(history: Sequence[TrialRecord]) -> str:
    """Write a history the way Trial objects hold it: parameters as text."""
    return json.dumps(
        [
            {
                "index": trial.index,
                "candidate": trial.candidate,
                "rung": trial.rung,
                "parameters": encode(trial.parameters),
                "state": trial.state,
                "values": dict(trial.values),
            }
            for trial in history
        ]
    )


def restored(space: SearchSpace, text: str) -> list[TrialRecord]:
    """Read a stored history."""
    return [
        TrialRecord(
            index=trial["index"],
            candidate=trial["candidate"],
            rung=trial["rung"],
            parameters=decode(space, dict(trial["parameters"])),
            state=TrialState(trial["state"]),
            values=trial["values"],
        )
        for trial in json.loads(text)
    ]
