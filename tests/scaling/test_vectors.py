"""Coefficient vectors: the published ones, directions, ranges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scaling.simulation import TRANSFORMER, sweep

from nascale.scaling.problem import Axis, Range, ScaledParameter, Vector
from nascale.scaling.vectors import (
    PUBLISHED,
    SAME_DIRECTION,
    candidate,
    distance,
    first_candidates,
    from_shares,
    log_ratios,
    normalised,
    parse,
    published,
    shares,
    within,
)

coefficients = st.builds(Vector, st.floats(1.01, 3), st.floats(1, 3), st.floats(1, 3))
ranges = st.tuples(st.floats(1, 2), st.floats(0.01, 1)).map(lambda own: Range(own[0], own[0] + own[1]))


class TestNormalised:
    @given(coefficients)
    def test_vectors_double_flops_and_keep_their_direction(self, vector):
        own = normalised(vector)
        assert own.depth * own.width**2 * own.resolution**2 == pytest.approx(2, abs=2e-3)
        assert shares(own) == pytest.approx(shares(vector), abs=1e-3)

    @pytest.mark.parametrize(
        ("name", "vector"),
        [
            ("EfficientNet", Vector(1.2137, 1.1066, 1.1601)),
            ("FastScaling", Vector(1.0718, 1.3195, 1.0353)),
            ("LACSGPU", Vector(1.3001, 1.1581, 1.071)),
            ("LACSTPU", Vector(1.2993, 1.1371, 1.0911)),
        ],
    )
    def test_published_vectors(self, name, vector):
        assert normalised(PUBLISHED[name]) == vector

    def test_refuses_a_vector_along_which_nothing_grows(self):
        with pytest.raises(ValueError, match="must have a coefficient above 1"):
            normalised(Vector(1, 1, 1))


class TestADirection:
    def test_has_log_ratios_that_can_be_compared_with_the_literature(self):
        # LACS on V100: width / depth 0.558, resolution / depth 0.263.
        assert log_ratios(PUBLISHED["LACSGPU"]) == pytest.approx((0.558, 0.263), abs=2e-3)

    def test_without_depth_has_no_log_ratios_but_shares(self):
        assert log_ratios(Vector(1, 1.4, 1.1)) is None
        assert shares(Vector(1, 1.4, 1.1))[0] == 0

    def test_of_fast_scaling_is_a_tenth_eight_tenths_a_tenth(self):
        assert shares(PUBLISHED["FastScaling"]) == pytest.approx((0.1, 0.8, 0.1))

    @given(st.tuples(*[st.floats(0.01, 1)] * 3))
    def test_comes_back_from_its_vector(self, raw):
        direction = tuple(own / sum(raw) for own in raw)
        assert shares(from_shares(direction)) == pytest.approx(direction, abs=1e-3)


class TestCandidates:
    def test_begin_with_the_published_vectors_in_order(self):
        assert [own.name for own in first_candidates(sweep(), 12)[:4]] == list(PUBLISHED)

    def test_are_as_many_as_wanted_and_point_in_different_directions(self):
        found = [shares(own.vector) for own in first_candidates(sweep(), 40)]
        assert len(found) == 40
        assert all(
            distance(one, other) >= SAME_DIRECTION
            for place, one in enumerate(found)
            for other in found[:place]
        )

    @given(ranges, ranges, ranges, st.integers(0, 99))
    def test_keep_the_ranges(self, depth, width, resolution, seed):
        problem = sweep(depth=depth, width=width, resolution=resolution, seed=seed)
        assert all(within(problem, own.vector) for own in first_candidates(problem, 12))

    def test_within_ranges_that_reach_a_doubling_keep_them_as_they_are_shown(self):
        problem = sweep(depth=Range(1.1, 1.3), width=Range(1.0, 1.2), resolution=Range(1.0, 1.15))
        found = first_candidates(problem, 10)
        assert len(found) == 10
        for own in found:
            assert 1.1 - 1e-3 <= own.vector.depth <= 1.3 + 1e-3
            assert own.vector.width <= 1.2 + 1e-3
            assert own.vector.resolution <= 1.15 + 1e-3

    def test_leave_out_published_vectors_beyond_the_ranges(self):
        problem = sweep(resolution=Range(1.0, 1.0))
        found = first_candidates(problem, 10)
        assert found
        assert all(own.vector.resolution == 1 and own.name not in PUBLISHED for own in found)

    def test_cover_the_directions_of_the_ranges(self):
        found = [shares(own.vector) for own in first_candidates(sweep(), 64)]
        for corner in [(0.5, 0.4, 0.1), (0.1, 0.8, 0.1), (0.2, 0.2, 0.6), (1 / 3, 1 / 3, 1 / 3)]:
            assert min(distance(own, corner) for own in found) < 0.12

    def test_follow_the_seed(self):
        assert first_candidates(sweep(seed=1), 12) == first_candidates(sweep(seed=1), 12)
        assert first_candidates(sweep(seed=1), 12) != first_candidates(sweep(seed=2), 12)

    def test_of_an_own_model_leave_out_axes_along_which_nothing_grows(self):
        flat = tuple(own for own in TRANSFORMER if own.axis is not Axis.RESOLUTION)
        found = first_candidates(sweep(base=flat), 8)
        assert all(own.vector.resolution == 1 for own in found)
        assert published(sweep(base=flat))["EfficientNet"].vector.resolution == 1

    def test_of_an_own_model_with_one_axis_are_one(self):
        (found,) = first_candidates(sweep(base=(ScaledParameter("layers", 3, Axis.DEPTH),)), 8)
        assert found.vector == Vector(2.0, 1.0, 1.0)


class TestNames:
    @given(coefficients)
    def test_hold_the_coefficients(self, vector):
        own = candidate(vector)
        assert parse(sweep(), own.name) == own
        assert len(own.name) <= 63

    def test_of_publications_are_known(self):
        own = parse(sweep(), "EfficientNet")
        assert own is not None
        assert own.vector == normalised(PUBLISHED["EfficientNet"])

    def test_of_something_else_are_no_vectors(self):
        assert parse(sweep(), "AccuracyFLOPs") is None


def test_growth_doubles_flops_per_unit_of_the_coefficient():
    for vector in PUBLISHED.values():
        own = normalised(vector).at(3)
        assert math.log2(own.depth * own.width**2 * own.resolution**2) == pytest.approx(3, abs=1e-2)
