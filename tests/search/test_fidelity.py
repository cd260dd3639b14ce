"""Successive halving for several objectives: who is promoted, when, and what samplers learn from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.search.simulation import OBJECTIVES, SMALL, measure, run

from nascale.search import engine
from nascale.search.errors import SearchError
from nascale.search.fidelity import PAIRS, one_per_candidate, promotions
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import SearchProblem
from nascale.search.space import Categorical, Integer, SearchSpace

SPACE = SearchSpace((Integer("width", 1, 64), Categorical("block", ("mb", "fused"))))
PROBLEM = SearchProblem(SPACE, OBJECTIVES, algorithm="Random", rungs=3, reduction_factor=3)


def trial(
    index: int, accuracy: float, latency: float = 1.0, rung: int = 0, candidate: int | None = None, **changes
):
    found = TrialRecord(
        index,
        index if candidate is None else candidate,
        rung,
        {"width": 1 + (index if candidate is None else candidate), "block": "mb"},
        TrialState.SUCCEEDED,
        {"accuracy": accuracy, "latency": latency},
    )
    return replace(found, **changes)


def promoted(problem, history, count=10, **options):
    return [
        (proposal.candidate, proposal.rung) for proposal in promotions(problem, history, count, **options)
    ]


def test_best_third_of_a_rung_is_promoted():
    history = [trial(index, accuracy=index / 10) for index in range(7)]

    assert promoted(PROBLEM, history) == [(6, 1), (5, 1)]
    assert promoted(PROBLEM, history[:2]) == []


def test_no_candidate_is_promoted_twice():
    history = [trial(index, accuracy=index / 10) for index in range(7)]
    history += [trial(7, 0.9, rung=1, candidate=6, state=TrialState.PENDING, values={})]

    assert promoted(PROBLEM, history) == [(5, 1)]
    failed = [replace(record, state=TrialState.FAILED) if record.index == 7 else record for record in history]
    assert promoted(PROBLEM, failed) == [(5, 1)]


def test_higher_rung_goes_first():
    history = [trial(index, accuracy=index / 20) for index in range(12)]
    history += [trial(12 + place, 0.5 + place / 10, rung=1, candidate=11 - place) for place in range(3)]

    assert promoted(PROBLEM, history) == [(9, 2), (8, 1)]
    assert promoted(PROBLEM, history, count=1) == [(9, 2)]


def test_front_members_are_promoted_before_dominated_trials():
    history = [
        trial(0, 0.9, 9.0),
        trial(1, 0.8, 9.5),
        trial(2, 0.5, 1.0),
        trial(3, 0.4, 2.0),
        trial(4, 0.1, 9.0),
        trial(5, 0.1, 8.0),
    ]

    assert promoted(PROBLEM, history) == [(0, 1), (2, 1)]


def test_running_failed_and_infeasible_trials_neither_count_nor_rise():
    states = (TrialState.PENDING, TrialState.FAILED, TrialState.METRICS_UNAVAILABLE, TrialState.INFEASIBLE)
    others = [trial(10 + place, 0.99, state=state, values={}) for place, state in enumerate(states)]

    assert promoted(PROBLEM, [trial(0, 0.5), trial(1, 0.4), *others]) == []
    assert promoted(PROBLEM, [trial(0, 0.5), trial(1, 0.4), trial(2, 0.3), *others]) == [(0, 1)]


def test_early_stopped_trials_count_but_do_not_rise():
    stopped = trial(2, 0.99, state=TrialState.EARLY_STOPPED)

    assert promoted(PROBLEM, [trial(0, 0.5), trial(1, 0.4), stopped]) == [(0, 1)]


def test_trials_beyond_a_soft_bound_rise_after_those_that_keep_it():
    bounded = replace(PROBLEM, objectives=(OBJECTIVES[0], replace(OBJECTIVES[1], bound=5.0, hard=False)))
    history = [trial(0, 0.9, latency=6.0), trial(1, 0.2), trial(2, 0.1, latency=7.0)]

    assert promoted(bounded, history) == [(1, 1)]
    assert promoted(bounded, [trial(0, 0.9, 6.0), trial(1, 0.9, 5.5), trial(2, 0.9, 7.0)]) == [(1, 1)]


def test_order_of_the_history_has_no_influence():
    history = [trial(index, accuracy=(index * 7 % 12) / 12, latency=float(index % 5)) for index in range(12)]

    assert promotions(PROBLEM, history[::-1], 10) == promotions(PROBLEM, history, 10)


def test_engine_puts_promotions_first():
    history = [trial(index, accuracy=index / 10) for index in range(4)]

    found = engine.propose(PROBLEM, history, 3)

    assert [(proposal.candidate, proposal.rung, proposal.origin) for proposal in found.proposals] == [
        (3, 1, "promotion"),
        (None, 0, "random"),
        (None, 0, "random"),
    ]
    assert found.proposals[0].parameters == history[3].parameters


@pytest.mark.parametrize("algorithm", ["Random", "RegularizedEvolution", "NSGAII", "Adaptive"])
def test_small_space_ends_with_its_best_candidates_on_the_last_rung(algorithm):
    problem = SearchProblem(SMALL, OBJECTIVES, algorithm=algorithm, rungs=3, reduction_factor=3)

    history = run(problem, 100, at_once=2)

    assert sum(record.rung == 0 for record in history) == SMALL.count
    assert {record.rung for record in history} == {0, 1, 2}
    assert len({(record.candidate, record.rung) for record in history}) == len(history)
    assert engine.propose(problem, history, 1) == engine.Proposals((), exhausted=True)


def test_space_is_not_exhausted_while_a_running_trial_may_be_promoted():
    problem = SearchProblem(SMALL, OBJECTIVES, algorithm="Random", rungs=2, reduction_factor=2)
    history = run(replace(problem, rungs=1), SMALL.count)
    running = [*history[:-1], replace(history[-1], state=TrialState.PENDING, values={})]
    taken = [
        TrialRecord(
            100 + place,
            proposal.candidate,
            1,
            proposal.parameters,
            TrialState.SUCCEEDED,
            measure(proposal.parameters)[1],
        )
        for place, proposal in enumerate(promotions(problem, running, 100))
    ]

    assert taken
    assert engine.propose(problem, [*running, *taken], 1) == engine.Proposals((), exhausted=False)


class TestWhatSamplersLearnFrom:
    def test_one_record_per_candidate(self):
        history = [trial(0, 0.5), trial(1, 0.4), trial(2, 0.6, rung=1, candidate=0)]

        folded = one_per_candidate(PROBLEM, history)

        assert [(record.index, record.candidate, record.rung) for record in folded] == [(0, 0, 0), (1, 1, 0)]

    def test_few_trials_of_a_higher_rung_are_not_learnt_from(self):
        history = [trial(0, 0.5), trial(1, 0.4), trial(2, 0.6, rung=1, candidate=0)]

        assert [record.values["accuracy"] for record in one_per_candidate(PROBLEM, history)] == [0.5, 0.4]

    def test_lower_values_are_shifted_to_the_rung_that_is_learnt_from(self):
        history = [trial(index, accuracy=0.1 + index / 100) for index in range(PAIRS + 2)]
        history += [
            trial(20 + index, accuracy=0.4 + index / 100, latency=3.0, rung=1, candidate=index)
            for index in range(PAIRS)
        ]

        folded = one_per_candidate(PROBLEM, history)

        assert folded[0].values["accuracy"] == pytest.approx(0.4)
        # Ten epochs more were worth 0.3 to all others.
        assert folded[PAIRS].values["accuracy"] == pytest.approx(0.1 + PAIRS / 100 + 0.3)
        assert folded[PAIRS].values["latency"] == pytest.approx(3.0)

    def test_infeasible_at_any_rung_makes_the_candidate_infeasible(self):
        history = [
            trial(0, 0.5),
            trial(1, 0.4),
            trial(2, 0.0, rung=1, candidate=0, state=TrialState.INFEASIBLE),
        ]

        assert [record.state for record in one_per_candidate(PROBLEM, history)] == [
            TrialState.INFEASIBLE,
            TrialState.SUCCEEDED,
        ]

    def test_failure_at_a_higher_rung_leaves_the_lower_value(self):
        history = [trial(0, 0.5), trial(1, 0.0, rung=1, candidate=0, state=TrialState.FAILED, values={})]

        (folded,) = one_per_candidate(PROBLEM, history)

        assert (folded.state, folded.values["accuracy"]) == (TrialState.SUCCEEDED, 0.5)

    def test_pending_candidates_stay_known(self):
        (folded,) = one_per_candidate(PROBLEM, [trial(3, 0.0, state=TrialState.PENDING, values={})])

        assert folded.state is TrialState.PENDING


def test_reduction_below_two_is_refused():
    with pytest.raises(SearchError, match=r"fidelities\.reductionFactor: must be at least 2, not 1"):
        engine.validate(replace(PROBLEM, reduction_factor=1))
