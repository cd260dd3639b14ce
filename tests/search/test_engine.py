"""What the operator asks of a search."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.search.simulation import OBJECTIVES, SMALL, run

from nascale.search import engine
from nascale.search.errors import InvalidSpaceError, SearchError
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.space import Categorical, Condition, SearchSpace

PROBLEM = SearchProblem(SMALL, OBJECTIVES, algorithm="Random")


def trial(index, accuracy, latency, rung=0, state=TrialState.SUCCEEDED):
    return TrialRecord(index, index, rung, {}, state, {"accuracy": accuracy, "latency": latency})


class TestSummary:
    def test_nothing_measured(self):
        assert engine.summarise(PROBLEM, []) == engine.Summary()
        assert (
            engine.summarise(PROBLEM, [trial(0, 0.9, 1.0, state=TrialState.EARLY_STOPPED)])
            == engine.Summary()
        )

    def test_front_is_listed_by_the_first_objective_best_first(self):
        history = [trial(0, 0.5, 1.0), trial(1, 0.9, 4.0), trial(2, 0.8, 4.5), trial(3, 0.7, 2.0)]

        summary = engine.summarise(PROBLEM, history)

        assert [record.index for record in summary.front] == [1, 3, 0]
        assert summary.best == {"accuracy": 0.9, "latency": 1.0}
        assert summary.feasible

    def test_hypervolume_is_a_share_of_the_range_seen(self):
        # Scaled losses: (1, 0), (0, 1), (0.5, 0.5), and (1, 1) for the dominated one.
        history = [trial(0, 0.0, 1.0), trial(1, 1.0, 3.0), trial(2, 0.5, 2.0), trial(3, 0.0, 3.0)]

        assert engine.summarise(PROBLEM, history).hypervolume == pytest.approx(0.25)
        assert engine.summarise(PROBLEM, history[:1]).hypervolume == 0.0

    def test_only_the_highest_rung_reached_is_judged(self):
        problem = replace(PROBLEM, rungs=3)
        history = [
            trial(0, 0.99, 0.1),
            trial(1, 0.5, 1.0, rung=1),
            trial(2, 0.6, 0.9, rung=2, state=TrialState.PENDING),
        ]

        assert [record.index for record in engine.summarise(problem, history).front] == [1]

    def test_soft_bounds_put_trials_behind_but_keep_them(self):
        soft = replace(PROBLEM, objectives=(OBJECTIVES[0], replace(OBJECTIVES[1], bound=2.0, hard=False)))
        history = [trial(0, 0.9, 3.0), trial(1, 0.8, 2.5)]

        alone = engine.summarise(soft, history)
        joined = engine.summarise(soft, [*history, trial(2, 0.1, 2.0)])

        assert ([record.index for record in alone.front], alone.feasible) == ([1], False)
        assert ([record.index for record in joined.front], joined.feasible) == ([2], True)

    def test_trials_beyond_a_hard_bound_are_on_no_front(self):
        hard = replace(PROBLEM, objectives=(OBJECTIVES[0], replace(OBJECTIVES[1], bound=2.0)))

        assert engine.summarise(hard, [trial(0, 0.9, 3.0)]) == engine.Summary()

    @pytest.mark.parametrize(
        ("rung", "latency", "reached"), [(1, 2.0, True), (1, 2.1, False), (0, 2.0, False)]
    )
    def test_goals_are_reached_by_one_trial_of_the_last_rung(self, rung, latency, reached):
        goals = (replace(OBJECTIVES[0], goal=0.9), replace(OBJECTIVES[1], goal=2.0))
        history = [
            trial(0, 0.91, latency, rung=rung),
            trial(1, 0.5, 1.0, rung=rung),
            trial(2, 0.99, 9.0, rung=rung),
        ]

        assert engine.summarise(replace(PROBLEM, objectives=goals, rungs=2), history).goals_reached is reached
        assert not engine.summarise(replace(PROBLEM, rungs=2), history).goals_reached

    def test_order_has_no_influence(self):
        history = run(PROBLEM, SMALL.count)

        assert engine.summarise(PROBLEM, random.Random(1).sample(history, len(history))) == engine.summarise(
            PROBLEM, history
        )

    def test_equal_trials_are_all_on_the_front(self):
        assert len(engine.summarise(PROBLEM, [trial(0, 0.9, 1.0), trial(1, 0.9, 1.0)]).front) == 2

    def test_many_objectives_have_a_volume_as_well(self):
        names = [f"metric{number}" for number in range(8)]
        problem = replace(PROBLEM, objectives=tuple(Objective(name, Direction.MINIMIZE) for name in names))
        rng = random.Random(0)
        history = [
            TrialRecord(index, index, 0, {}, TrialState.SUCCEEDED, {name: rng.random() for name in names})
            for index in range(60)
        ]

        assert 0.0 < engine.summarise(problem, history).hypervolume < 1.0


class TestTrimming:
    FRONT = tuple(trial(index, accuracy=index / 100, latency=1.0 + index) for index in range(101))

    def test_keeps_the_extremes_and_an_even_spread(self):
        kept = engine.trim_front(PROBLEM, self.FRONT, 5)

        assert [record.index for record in kept] == [0, 25, 50, 75, 100]

    def test_keeps_a_front_that_is_small_enough(self):
        assert engine.trim_front(PROBLEM, self.FRONT[:5], 5) == self.FRONT[:5]


class TestProposing:
    def test_nothing_asked_nothing_proposed(self):
        assert engine.propose(PROBLEM, [], 0) == engine.Proposals((), exhausted=False)

    def test_says_that_the_space_is_exhausted_with_the_last_candidates(self):
        found = engine.propose(PROBLEM, run(PROBLEM, SMALL.count - 2), 5)

        assert (len(found.proposals), found.exhausted) == (2, True)


class TestValidation:
    def test_sound_problem_passes(self):
        engine.validate(PROBLEM)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"objectives": OBJECTIVES[:1]}, "objectives: must be from 2 to 8, not 1"),
            (
                {"objectives": (OBJECTIVES[0], OBJECTIVES[0])},
                "objectives: metric: must differ between objectives, not accuracy 2 times",
            ),
            ({"algorithm": "Magic"}, "algorithm.name: must be one of Adaptive, Random, .*, not 'Magic'"),
            (
                {"algorithm": "RegularizedEvolution", "settings": {"populationSize": "1"}},
                "algorithm.settings: populationSize: must be a whole number from 2 to 10000, not '1'",
            ),
            (
                {"algorithm": "NSGAII", "settings": {"crossoverProbability": "NaN"}},
                "algorithm.settings: crossoverProbability: must be a decimal from 0 to 1, not 'NaN'",
            ),
            (
                {"algorithm": "TPE", "settings": {"multivariate": "yes"}},
                "algorithm.settings: multivariate: must be true or false, not 'yes'",
            ),
            ({"settings": {"foo": "1"}}, "a setting of Random must be absent: there is none, not 'foo'"),
            ({"rungs": 0}, "fidelities.levels: must be at least 1, not 0"),
        ],
    )
    def test_faults_name_field_value_and_range(self, changes, message):
        with pytest.raises(SearchError, match=message):
            engine.validate(replace(PROBLEM, **changes))

    def test_every_fault_is_named_at_once(self):
        wrong = replace(PROBLEM, objectives=OBJECTIVES[:1], settings={"foo": "1"}, rungs=0)

        with pytest.raises(SearchError) as caught:
            engine.validate(wrong)

        assert str(caught.value).count("; ") == 2

    def test_space_of_one_point_is_refused(self):
        one = SearchSpace((Categorical("a", ("x",)), Categorical("b", ("y",), when=Condition("a", ("x",)))))

        with pytest.raises(InvalidSpaceError, match="space: must hold at least 2 candidates, not 1"):
            engine.validate(replace(PROBLEM, space=one))
