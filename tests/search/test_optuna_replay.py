"""A rebuilt study behaves as the study that Optuna would have kept itself."""

from __future__ import annotations

import optuna
import pytest

from nascale.search import engine
from nascale.search.errors import MissingDependencyError
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.samplers import optuna_samplers
from nascale.search.samplers.optuna_samplers import derived_seed, replay_generations
from nascale.search.space import Categorical, Integer, SearchSpace

SPACE = SearchSpace(
    (
        *(Integer(f"width{number}", 0, 99) for number in range(8)),
        Categorical("block", ("mb", "fused", "conv")),
    )
)
OBJECTIVES = (
    Objective("accuracy", Direction.MAXIMIZE),
    Objective("latency", Direction.MINIMIZE, bound=150.0, hard=False),
)
SEED = 12
POPULATION = 10


def measure(assignment):
    widths = [assignment[f"width{number}"] for number in range(8)]
    factor = {"mb": 1.0, "fused": 1.2, "conv": 0.9}[assignment["block"]]
    return {"accuracy": factor * sum(width**0.5 for width in widths), "latency": float(sum(widths)) * factor}


def kept_by_optuna(sampler_of, trials):
    """Run Optuna alone, with the seeds that a replayed search uses."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    suggested = []
    for index in range(trials):
        study.sampler = sampler_of(derived_seed(SEED, index))
        if isinstance(study.sampler, optuna.samplers.NSGAIISampler) and index and index % POPULATION == 0:
            # The first question of a generation sees its parents in another order than the later ones.
            study.sampler.get_parent_population(study, index // POPULATION)
        trial = study.ask()
        assignment = {f"width{number}": trial.suggest_int(f"width{number}", 0, 99) for number in range(8)}
        assignment["block"] = trial.suggest_categorical("block", ("mb", "fused", "conv"))
        values = measure(assignment)
        trial.set_constraint("latency", (values["latency"] - 150.0) / 150.0)
        study.tell(trial, list(values.values()))
        suggested.append(assignment)
    return suggested


def replayed(problem, trials):
    history = []
    for index in range(trials):
        (proposal,) = engine.propose(problem, history, 1).proposals
        values = measure(proposal.parameters)
        history.append(TrialRecord(index, index, 0, proposal.parameters, TrialState.SUCCEEDED, values))
    return [dict(trial.parameters) for trial in history]


@pytest.mark.parametrize(
    ("name", "settings", "sampler_of"),
    [
        (
            "NSGAII",
            {"populationSize": str(POPULATION), "crossoverProbability": "1"},
            lambda seed: optuna.samplers.NSGAIISampler(
                population_size=POPULATION, crossover_prob=1.0, seed=seed
            ),
        ),
        (
            "TPE",
            {"startupTrials": "5"},
            lambda seed: optuna.samplers.TPESampler(n_startup_trials=5, seed=seed),
        ),
    ],
)
def test_suggestions_equal_those_of_a_study_that_was_never_rebuilt(name, settings, sampler_of):
    trials = 35
    problem = SearchProblem(SPACE, OBJECTIVES, algorithm=name, seed=SEED, settings=settings)

    expected = kept_by_optuna(sampler_of, trials)

    # Optuna repeats no candidate here; where it does, a replayed search goes its own way.
    assert len({SPACE.key(assignment) for assignment in expected}) == trials
    assert replayed(problem, trials) == expected


def test_generations_advance_by_complete_trials_alone():
    complete = [True, False, True, True, True, False, True]

    assert replay_generations(complete, 2) == ([0, 0, 0, 1, 1, 2, 2], 2)
    assert replay_generations([*complete, True], 2) == ([0, 0, 0, 1, 1, 2, 2, 2], 3)
    assert replay_generations([], 2) == ([], 0)


def test_gaussian_process_without_its_libraries_names_the_extra(monkeypatch):
    monkeypatch.setattr(optuna_samplers, "find_spec", lambda name: None if name == "torch" else object())

    with pytest.raises(
        MissingDependencyError, match=r"extra gp is not installed \(torch missing\).*nascale\[gp\]"
    ):
        optuna_samplers.GP()
