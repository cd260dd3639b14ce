"""Ranking by constraint domination equals its definition, and sorting equals brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search.simulation import SMALL

from nascale.search.domination import (
    Tier,
    non_dominated,
    non_dominated_ranks,
    order,
    ranks,
    spread_order,
    tier,
)
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import Direction, Objective, SearchProblem

OBJECTIVES = (
    Objective("accuracy", Direction.MAXIMIZE, bound=0.5, hard=False),
    Objective("latency", Direction.MINIMIZE, bound=10.0),
)
PROBLEM = SearchProblem(SMALL, OBJECTIVES)


@st.composite
def matrices(draw, most_rows: int = 24, most_columns: int = 4):
    columns = draw(st.integers(2, most_columns))
    # Few values, so that ties and equal rows are common.
    row = st.lists(st.integers(0, 4).map(float), min_size=columns, max_size=columns)
    return np.array(draw(st.lists(row, min_size=1, max_size=most_rows)))


def beats(better: np.ndarray, worse: np.ndarray) -> bool:
    return bool(np.all(better <= worse) and np.any(better < worse))


def brute_force_ranks(matrix: np.ndarray) -> list[int]:
    found = [-1] * len(matrix)
    level = 0
    while -1 in found:
        left = [row for row, rank in enumerate(found) if rank == -1]
        for row in [r for r in left if not any(beats(matrix[other], matrix[r]) for other in left)]:
            found[row] = level
        level += 1
    return found


@given(matrices())
def test_sorting_equals_brute_force(matrix):
    assert non_dominated_ranks(matrix).tolist() == brute_force_ranks(matrix)


@given(matrices())
def test_pareto_set_equals_brute_force(matrix):
    expected = [not any(beats(other, row) for other in matrix) for row in matrix]

    assert non_dominated(matrix).tolist() == expected


@pytest.mark.parametrize("columns", [2, 3, 5])
def test_many_rows_are_sorted_right(columns):
    matrix = np.random.default_rng(0).random((10_000 if columns == 2 else 1_000, columns))

    found = non_dominated_ranks(matrix)

    assert ((found == 0) == non_dominated(matrix)).all()
    # Each row of a later front is beaten by a row of the front before.
    for row in np.flatnonzero(found > 0)[:50]:
        before = matrix[found == found[row] - 1]
        assert np.any(np.all(before <= matrix[row], axis=1))


def trial(index: int, state: TrialState = TrialState.SUCCEEDED, **values: float) -> TrialRecord:
    return TrialRecord(index, index, 0, {}, state, values)


def test_classes_rank_one_behind_the_other():
    records = [
        trial(0, TrialState.FAILED),
        trial(1, TrialState.INFEASIBLE),
        trial(2, TrialState.INFEASIBLE, latency=30.0),
        trial(3, TrialState.INFEASIBLE, latency=11.0),
        trial(4, TrialState.EARLY_STOPPED, latency=1.0),
        trial(5, accuracy=0.1, latency=1.0),
        trial(6, accuracy=0.4, latency=1.0),
        trial(7, accuracy=0.6, latency=5.0),
        trial(8, accuracy=0.7, latency=4.0),
        trial(9, accuracy=0.5, latency=2.0),
    ]

    # Trial 7 is beaten by 8; 9 is the fastest.
    assert ranks(PROBLEM, records).tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0, 0]


def test_measured_values_beyond_a_hard_bound_are_infeasible_whatever_the_state_says():
    assert tier(PROBLEM, trial(0, accuracy=0.9, latency=10.1)) is Tier.INFEASIBLE
    assert tier(PROBLEM, trial(0, accuracy=0.9, latency=10.0)) is Tier.KEEPS_BOUNDS
    assert tier(PROBLEM, trial(0, accuracy=0.4, latency=10.0)) is Tier.BREAKS_SOFT_BOUND
    assert tier(PROBLEM, trial(0, latency=10.0)) is Tier.UNRANKED


def test_violations_of_different_units_are_compared_as_shares_of_their_bounds():
    both_soft = (OBJECTIVES[0], replace(OBJECTIVES[1], hard=False))
    records = [trial(0, accuracy=0.4, latency=1.0), trial(1, accuracy=0.6, latency=11.0)]

    # 0.1 below 0.5 is a fifth of it, 1 above 10 a tenth.
    assert ranks(SearchProblem(SMALL, both_soft), records).tolist() == [1, 0]


@given(matrices(most_rows=12))
def test_spread_order_is_a_permutation_that_begins_with_the_extremes(matrix):
    found = spread_order(matrix)

    assert sorted(found) == list(range(len(matrix)))
    assert found[: len(found) // 2] == spread_order(matrix, len(found) // 2)
    for column in range(matrix.shape[1]):
        assert matrix[found[: matrix.shape[1]], column].min() == matrix[:, column].min()


@given(st.permutations(range(8)))
def test_order_depends_on_no_order(permutation):
    records = [
        trial(index, accuracy=0.5 + (index * 5 % 8) / 20, latency=1.0 + index % 4) for index in range(8)
    ]
    expected = [records[position].index for position in order(PROBLEM, records)]
    shuffled = [records[position] for position in permutation]

    assert [shuffled[position].index for position in order(PROBLEM, shuffled)] == expected
