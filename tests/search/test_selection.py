"""The base network: which trial each method takes, and what it says about it."""

from __future__ import annotations

import pytest
from tests.search.simulation import SMALL

from nascale.search.engine import Method, SelectionRule, choose_base
from nascale.search.errors import SearchError
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import Direction, Objective, SearchProblem

OBJECTIVES = (Objective("accuracy", Direction.MAXIMIZE), Objective("latency", Direction.MINIMIZE))


def history(*points: tuple[float, float]) -> list[TrialRecord]:
    return [
        TrialRecord(index, index, 0, {}, TrialState.SUCCEEDED, {"accuracy": accuracy, "latency": latency})
        for index, (accuracy, latency) in enumerate(points)
    ]


def problem(bound: float | None = None, *, hard: bool = True) -> SearchProblem:
    return SearchProblem(
        SMALL, (OBJECTIVES[0], Objective("latency", Direction.MINIMIZE, bound=bound, hard=hard))
    )


FRONT = history((0.70, 1.0), (0.90, 2.0), (0.92, 5.0), (0.94, 9.0))


def test_no_trial_no_choice():
    assert choose_base(problem(), [], SelectionRule()) is None


def test_knee_is_the_point_farthest_beyond_the_line_through_the_extremes():
    choice = choose_base(problem(), FRONT, SelectionRule(Method.KNEE))

    assert choice.trial.index == 1
    # Scaled: (0.04 / 0.24, 1 / 8) lies (1 - 0.1667 - 0.125) / sqrt(2) beyond the line.
    assert choice.reason == (
        "the knee of 4 trials on the front, 0.501 beyond the line through its extremes (accuracy=0.94, "
        "latency=1), objectives scaled to the front: accuracy=0.9, latency=2"
    )


def test_knee_in_three_objectives_takes_the_balanced_trial():
    three = SearchProblem(SMALL, (*OBJECTIVES, Objective("memory", Direction.MINIMIZE)))
    points = [(1.0, 9.0, 9.0), (0.0, 1.0, 9.0), (0.0, 9.0, 1.0), (0.8, 3.0, 3.0)]
    records = [
        TrialRecord(
            index,
            index,
            0,
            {},
            TrialState.SUCCEEDED,
            dict(zip(("accuracy", "latency", "memory"), point, strict=True)),
        )
        for index, point in enumerate(points)
    ]

    choice = choose_base(three, records, SelectionRule(Method.KNEE))

    assert choice.trial.index == 3
    assert "beyond the plane" in choice.reason


def test_straight_front_has_no_knee_and_gives_the_best_of_the_first_objective():
    choice = choose_base(problem(), history((0.1, 1.0), (0.2, 2.0)), SelectionRule(Method.KNEE))

    assert choice.trial.index == 1
    assert choice.reason.startswith("no knee: none of the 2 trials")


def test_only_trial_is_chosen_whatever_the_method():
    assert choose_base(problem(), FRONT[:1], SelectionRule(Method.KNEE)).reason == (
        "the only trial on the front: accuracy=0.7, latency=1"
    )


def test_best_under_constraints_takes_the_best_first_objective_within_every_bound():
    choice = choose_base(problem(6.0), FRONT, SelectionRule(Method.BEST_UNDER_CONSTRAINTS))

    assert choice.trial.index == 2
    assert choice.reason == (
        "the best accuracy of the 3 trials that keep latency <= 6: accuracy=0.92, latency=5"
    )


def test_where_no_trial_keeps_a_soft_bound_the_smallest_violation_is_taken_and_said():
    choice = choose_base(problem(0.5, hard=False), FRONT, SelectionRule(Method.BEST_UNDER_CONSTRAINTS))

    assert choice.trial.index == 0
    assert choice.reason == (
        "no trial keeps every bound (latency <= 0.5); the smallest violation, 1 of the bound: "
        "accuracy=0.7, latency=1"
    )


def test_mnasnet_maximises_its_reward():
    rule = SelectionRule(Method.MNASNET, "accuracy", "latency", target=2.0, weight=-0.07)
    rewards = [
        accuracy * (latency / 2.0) ** -0.07
        for accuracy, latency in ((0.7, 1), (0.9, 2), (0.92, 5), (0.94, 9))
    ]

    choice = choose_base(problem(), FRONT, rule)

    assert choice.trial.index == rewards.index(max(rewards)) == 1
    assert "accuracy * (latency / 2) ^ -0.07 = 0.9: accuracy=0.9, latency=2" in choice.reason


def test_mnasnet_hard_form_ignores_the_cost_within_the_target():
    rule = SelectionRule(
        Method.MNASNET, "accuracy", "latency", target=6.0, weight=-1.0, weight_within_target=0.0
    )

    choice = choose_base(problem(), FRONT, rule)

    assert choice.trial.index == 2
    assert "w = 0 within the target, else -1 = 0.92" in choice.reason


def test_tunas_keeps_to_the_target_from_both_sides():
    rule = SelectionRule(Method.TUNAS, "accuracy", "latency", target=5.0, weight=-0.5)

    choice = choose_base(problem(), FRONT, rule)

    assert choice.trial.index == 2
    assert "accuracy + (-0.5) * |latency / 5 - 1| = 0.92" in choice.reason


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            SelectionRule(Method.MNASNET, "accuracy", "memory"),
            r"costMetric: must be an objective of direction Minimize \(latency\), not 'memory'",
        ),
        (
            SelectionRule(Method.TUNAS, "latency", "latency"),
            r"qualityMetric: must be an objective of direction Maximize \(accuracy\), not 'latency'",
        ),
        (
            SelectionRule(Method.TUNAS, "accuracy", "latency", target=0.0),
            "selection.scalarisation.target: must be above 0, not 0",
        ),
        (
            SelectionRule(Method.MNASNET, "accuracy", "latency", weight=0.1),
            "selection.scalarisation.weight: must be at most 0, not 0.1",
        ),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule, message):
    with pytest.raises(SearchError, match=message):
        choose_base(problem(), FRONT, rule)


@pytest.mark.parametrize("method", list(Method))
def test_reasons_fit_the_status(method):
    names = tuple(letter * 48 for letter in "abcdefgh")
    objectives = (
        Objective(names[0], Direction.MAXIMIZE, bound=-1e200),
        *(Objective(name, Direction.MINIMIZE, bound=1e200) for name in names[1:]),
    )
    records = [
        TrialRecord(
            index,
            index,
            0,
            {},
            TrialState.SUCCEEDED,
            {name: -1.2345e-100 * (index - place) for place, name in enumerate(names)},
        )
        for index in range(2)
    ]
    rule = SelectionRule(method, names[0], names[1], target=1e-100)

    choice = choose_base(SearchProblem(SMALL, objectives), records, rule)

    assert 100 < len(choice.reason) <= 512
