"""What every sampler of the registry promises."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.search.simulation import CONDITIONAL, OBJECTIVES, SMALL, measure, restored, run, stored

from nascale.search import engine
from nascale.search.errors import SearchError
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.samplers import registry
from nascale.search.space import Assignment, Categorical, Integer, Real, SearchSpace

# Small enough that every sampler is past its random beginning after START trials.
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "Adaptive": {"initialTrials": "4"},
    "Random": {},
    "RegularizedEvolution": {"populationSize": "5", "sampleSize": "2"},
    "TPE": {"startupTrials": "4"},
    "NSGAII": {"populationSize": "4"},
    "NSGAIII": {"populationSize": "4"},
    # A question to the Gaussian process costs seconds: the first is the one after START - 1 trials.
    "GP": {"startupTrials": "9"},
}
START = 10


def problem(name: str, space: SearchSpace = CONDITIONAL, **changes: object) -> SearchProblem:
    whole = SearchProblem(space, OBJECTIVES, algorithm=name, seed=7, settings=SETTINGS[name])
    return replace(whole, **changes)  # type: ignore[arg-type]


def beginning(space: SearchSpace = CONDITIONAL, trials: int = START) -> list[TrialRecord]:
    """A history that costs no sampler's time."""
    return run(SearchProblem(space, OBJECTIVES, algorithm="Random", seed=3), trials)


def test_every_sampler_is_covered():
    assert set(SETTINGS) == set(registry.names())


@pytest.mark.parametrize("name", registry.names())
class TestSampler:
    def test_same_problem_and_history_give_the_same_proposals(self, name):
        history = beginning()
        count = 1 if name == "GP" else 4

        first, again = (engine.propose(problem(name), history, count) for _ in range(2))

        assert first == again
        assert len(first.proposals) == count

    def test_order_of_the_history_has_no_influence(self, name):
        history = beginning()
        shuffled = random.Random(5).sample(history, len(history))

        assert engine.propose(problem(name), shuffled, 1) == engine.propose(problem(name), history, 1)

    def test_goes_on_after_a_restart_as_if_there_had_been_none(self, name):
        whole = run(problem(name), START)

        rest = restored(CONDITIONAL, stored(whole[: START - (1 if name == "GP" else 4)]))
        while len(rest) < START:
            (proposal,) = engine.propose(problem(name), rest, 1).proposals
            state, values = measure(proposal.parameters)
            rest.append(TrialRecord(len(rest), len(rest), 0, proposal.parameters, state, values))

        assert rest == whole

    def test_seed_makes_a_difference(self, name):
        trials = 4
        assert run(problem(name), trials) != run(problem(name, seed=8), trials)

    def test_small_space_is_exhausted_without_a_repetition(self, name):
        history = run(problem(name, SMALL), 1000, at_once=3)

        assert SMALL.count == len(history) == len({SMALL.key(trial.parameters) for trial in history})
        assert engine.propose(problem(name, SMALL), history, 1) == engine.Proposals((), exhausted=True)

    def test_conditions_are_respected(self, name):
        for trial in run(problem(name), START):
            assert dict(trial.parameters) == CONDITIONAL.canonical(trial.parameters)
            for parameter in CONDITIONAL.parameters:
                value = trial.parameters.get(parameter.name)
                if value is not None and parameter.choices is not None:
                    assert value in parameter.choices

    def test_no_candidate_is_proposed_again_whatever_became_of_its_trial(self, name):
        candidates = list(SMALL.enumerate())
        states = list(TrialState)
        history = []
        for index, candidate in enumerate(candidates[:-1]):
            state = states[index % len(states)]
            values = measure(candidate)[1] if state is TrialState.SUCCEEDED else {}
            history.append(TrialRecord(index, index, 0, candidate, state, values))

        found = engine.propose(problem(name, SMALL), history, 3)

        assert [dict(proposal.parameters) for proposal in found.proposals] == [candidates[-1]]
        assert found.exhausted

    @pytest.mark.parametrize("state", [state for state in TrialState if state is not TrialState.SUCCEEDED])
    def test_trials_without_values_stop_no_search(self, name, state):
        history = [replace(trial, state=state, values={}) for trial in beginning(trials=6)]

        found = engine.propose(problem(name), history, 1)

        assert len(found.proposals) == 1
        assert not engine.summarise(problem(name), history).front

    def test_partly_measured_trials_stop_no_search(self, name):
        history = beginning()
        for index, state in (
            (1, TrialState.INFEASIBLE),
            (3, TrialState.EARLY_STOPPED),
            (5, TrialState.PENDING),
        ):
            values = {"latency": 9.0} if state is not TrialState.PENDING else {}
            history[index] = replace(history[index], state=state, values=values)
        bounded = (OBJECTIVES[0], replace(OBJECTIVES[1], bound=5.0))

        assert len(engine.propose(problem(name, objectives=bounded), history, 1).proposals) == 1

    def test_front_never_breaks_a_hard_bound(self, name):
        bounded = (OBJECTIVES[0], replace(OBJECTIVES[1], bound=8.0))

        def evaluate(assignment: Assignment, rung: int):
            _, values = measure(assignment, rung)
            if values["latency"] > 8.0:
                return TrialState.INFEASIBLE, {"latency": values["latency"]}
            return TrialState.SUCCEEDED, values

        history = run(problem(name, SMALL, objectives=bounded), 8, evaluate)
        summary = engine.summarise(problem(name, SMALL, objectives=bounded), history)

        assert {trial.state for trial in history} == {TrialState.INFEASIBLE, TrialState.SUCCEEDED}
        assert summary.feasible
        assert all(trial.values["latency"] <= 8.0 for trial in summary.front)

    def test_model_learns_from_infeasible_trials(self, name):
        bounded = (OBJECTIVES[0], replace(OBJECTIVES[1], bound=8.0))
        history = [
            replace(trial, state=TrialState.INFEASIBLE, values={"latency": trial.values["latency"]})
            if trial.values["latency"] > 8.0
            else trial
            for trial in beginning()
        ]

        assert {trial.state for trial in history} == {TrialState.INFEASIBLE, TrialState.SUCCEEDED}
        assert len(engine.propose(problem(name, objectives=bounded), history, 1).proposals) == 1

    def test_takes_three_objectives(self, name):
        third = (*OBJECTIVES, Objective("memory", Direction.MINIMIZE))
        history = [
            replace(trial, values={**trial.values, "memory": float(trial.index % 3)})
            for trial in beginning(trials=6)
        ]

        assert len(engine.propose(problem(name, objectives=third), history, 1).proposals) == 1

    def test_huge_space_is_not_listed(self, name):
        huge = SearchSpace(
            (
                *(Categorical(f"stage{number}", ("a", "b", "c", "d")) for number in range(20)),
                Integer("width", 1, 1_000_000_000),
                Real("rate", 1e-9, 1.0, log=True),
            )
        )

        found = engine.propose(problem(name, huge), [], 3)

        assert len({huge.key(proposal.parameters) for proposal in found.proposals}) == 3

    def test_unknown_setting_is_refused_by_name(self, name):
        with pytest.raises(
            SearchError, match=rf"algorithm.settings: the name of a setting of {name} must be .*'foo'"
        ):
            engine.validate(problem(name, settings={"foo": "1"}))

    def test_settings_outside_their_range_are_refused(self, name):
        for setting in registry.settings_of(name):
            with pytest.raises(SearchError) as caught:
                engine.validate(problem(name, settings={setting.name: "-1.5"}))
            assert f"{setting.name}: must be {setting.allowed}, not '-1.5'" in str(caught.value)
            with pytest.raises(SearchError, match=setting.name):
                engine.propose(problem(name, settings={setting.name: "-1.5"}), [], 1)


_PROCESS = """
import sys
from dataclasses import replace
from nascale.search import engine
from nascale.search.problem import SearchProblem
from nascale.search.samplers import registry
from tests.search.simulation import CONDITIONAL, OBJECTIVES, SMALL, run
for name in registry.names():
    if name == "GP":
        continue
    for space in (CONDITIONAL, SMALL):
        problem = SearchProblem(space, OBJECTIVES, algorithm=name, seed=1)
        print(name, [sorted(trial.parameters.items()) for trial in run(problem, 16)])
"""


def test_another_process_proposes_the_same():
    """Python's hashes of strings differ between processes: nothing may depend on the order of a set."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert outputs[0].count("\n") == 2 * (len(registry.names()) - 1)
    assert outputs[0] == outputs[1]
