"""The dominated volume equals that of two reference libraries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from pymoo.indicators.hv import HV

from nascale.search.hypervolume import estimate, hypervolume


@st.composite
def fronts(draw):
    columns = draw(st.integers(2, 8))
    most = {2: 30, 3: 20, 4: 12}.get(columns, 8)
    # A coarse grid that reaches beyond the reference point: ties, equal points, points that add nothing.
    row = st.lists(st.integers(0, 11).map(lambda value: value / 10), min_size=columns, max_size=columns)
    return np.array(draw(st.lists(row, min_size=1, max_size=most)))


@given(fronts())
@settings(deadline=None)
def test_equals_pymoo(points):
    reference = np.ones(points.shape[1])

    assert hypervolume(points, reference) == pytest.approx(float(HV(ref_point=reference)(points)), abs=1e-12)


@pytest.mark.parametrize(("columns", "rows"), [(2, 500), (3, 120), (4, 40), (5, 20), (6, 14), (8, 8)])
def test_equals_optuna_on_large_fronts(columns, rows):
    rng = np.random.default_rng(columns)
    points = np.abs(rng.normal(size=(rows, columns)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    reference = np.full(columns, 1.1)

    assert hypervolume(points, reference) == pytest.approx(compute_hypervolume(points, reference), rel=1e-9)


def test_known_values():
    assert hypervolume(np.array([[1.0, 3.0], [3.0, 1.0]]), (4.0, 4.0)) == 5.0
    assert hypervolume(np.array([[0.0, 0.0, 0.0]]), (1.0, 2.0, 3.0)) == 6.0
    assert hypervolume(np.array([[4.0, 0.0]]), (4.0, 4.0)) == 0.0


@pytest.mark.parametrize("columns", [3, 5])
def test_estimate_of_large_fronts_agrees_with_the_exact_volume(columns):
    points = np.random.default_rng(1).random((40, columns))
    reference = np.ones(columns)

    assert estimate(points, reference) == pytest.approx(hypervolume(points, reference), abs=0.01)
    assert estimate(points, reference) == estimate(points[::-1], reference)
