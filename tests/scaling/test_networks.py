"""From multipliers to networks: rounding, keys, rays."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scaling.simulation import BASE, LARGE_BASE, TRANSFORMER, sweep

from nascale.contract.architecture import Architecture
from nascale.scaling.errors import NetworkTooLargeError
from nascale.scaling.networks import scaled, scaler
from nascale.scaling.problem import UNSCALED, Axis, Multipliers, ScaledParameter, Vector
from nascale.scaling.rays import ray
from nascale.scaling.rounding import rounded_channels, scaled_channels, scaled_depth, scaled_resolution
from nascale.scaling.vectors import from_shares

factors = st.floats(1, 4).map(lambda value: round(value, 4))
directions = st.tuples(*[st.floats(0, 1)] * 3).filter(lambda own: sum(own) > 0.1)


class TestRoundedChannels:
    @given(st.floats(1, 5000), st.sampled_from([1, 4, 8, 16]))
    def test_are_a_multiple_and_never_more_than_a_tenth_below(self, exact, multiple):
        rounded = rounded_channels(exact, multiple)
        assert rounded % multiple == 0
        assert rounded >= 0.9 * exact - 1e-4

    @given(st.floats(1, 5000))
    def test_are_the_nearest_multiple_unless_that_is_too_far_below(self, exact):
        rounded = rounded_channels(exact)
        assert abs(rounded - exact) <= 4 + 1e-4 or rounded - 8 < 0.9 * exact

    @pytest.mark.parametrize(
        ("exact", "rounded"), [(1, 8), (11.9, 16), (12, 16), (17.7, 16), (17.8, 24), (36, 40)]
    )
    def test_follow_mobilenets_rule(self, exact, rounded):
        assert rounded_channels(exact) == rounded

    @given(st.integers(1, 1000), factors, factors)
    def test_grow_with_the_multiplier_and_never_fall_below_the_base(self, channels, one, other):
        small, large = sorted([one, other])
        assert channels <= scaled_channels(channels, small) <= scaled_channels(channels, large)

    @given(st.integers(1, 1000))
    def test_of_the_unscaled_base_are_its_own(self, channels):
        assert scaled_channels(channels, 1.0) == channels


class TestScaledDepth:
    @given(st.integers(1, 64), factors)
    def test_is_the_nearest_whole_number(self, blocks, multiplier):
        depth = scaled_depth(blocks, multiplier)
        assert abs(depth - blocks * multiplier) <= 0.5 + 1e-6
        assert depth >= blocks

    @given(st.integers(1, 64), factors, factors)
    def test_grows_with_the_multiplier(self, blocks, one, other):
        small, large = sorted([one, other])
        assert scaled_depth(blocks, small) <= scaled_depth(blocks, large)

    @pytest.mark.parametrize(("blocks", "multiplier", "depth"), [(3, 1.5, 5), (5, 1.1, 6), (2, 1.24, 2)])
    def test_takes_a_half_upwards_whatever_floats_make_of_it(self, blocks, multiplier, depth):
        assert scaled_depth(blocks, multiplier) == depth


class TestScaledResolution:
    @given(st.integers(1, 32), st.sampled_from([1, 2, 4, 8, 16, 32]), factors)
    def test_is_the_nearest_multiple_of_the_stride(self, cells, stride, multiplier):
        side = cells * stride
        found = scaled_resolution(side, multiplier, stride)
        assert found % stride == 0
        assert found >= side
        assert abs(found - side * multiplier) <= stride / 2 + 1e-4

    @given(st.integers(5, 500), factors.filter(lambda own: own > 1))
    def test_is_even_where_the_base_is_no_multiple(self, side, multiplier):
        stride = next(own for own in range(3, side + 2) if side % own)
        found = scaled_resolution(side, multiplier, stride)
        assert found % 2 == 0
        assert side <= found <= side * multiplier + 2


class TestAScaledNetwork:
    def test_grows_channels_blocks_and_pixels_and_keeps_everything_else(self):
        own = scaled(BASE, Multipliers(1.5, 1.5, 1.25)).architecture
        assert own is not None
        assert [(s.channels, s.depth) for s in own.stages] == [(40, 3), (64, 3), (120, 5)]
        assert (own.stem.channels, own.head.channels, own.resolution) == (24, 240, 80)
        kept = {"channels", "depth"}
        for before, after in zip(BASE.stages, own.stages, strict=True):
            assert before.model_dump(exclude=kept) == after.model_dump(exclude=kept)

    def test_of_no_multipliers_is_the_base(self):
        assert scaled(BASE, UNSCALED).architecture == BASE

    def test_is_a_valid_architecture(self):
        own = scaled(BASE, Multipliers(3.3, 2.7, 1.9)).architecture
        assert own is not None
        assert Architecture.model_validate_json(own.to_json()) == own

    def test_has_the_same_key_whichever_multipliers_lead_to_it(self):
        one, other = Multipliers(1.0, 1.01, 1.0), Multipliers(1.0, 1.02, 1.001)
        assert scaled(BASE, one).key == scaled(BASE, other).key
        assert scaled(BASE, one).multipliers == one
        assert scaled(BASE, other).multipliers == other

    def test_has_another_key_than_another_network(self):
        assert scaled(BASE, Multipliers(1.5, 1.0, 1.0)).key != scaled(BASE, Multipliers(1.0, 1.5, 1.0)).key

    @pytest.mark.parametrize(
        "multipliers", [Multipliers(33, 1, 1), Multipliers(1, 60, 1), Multipliers(1, 1, 17)]
    )
    def test_beyond_what_can_be_written_down_does_not_exist(self, multipliers):
        with pytest.raises(NetworkTooLargeError):
            scaled(BASE, multipliers)

    def test_of_an_own_model_has_its_sizes(self):
        own = scaled(TRANSFORMER, Multipliers(1.5, 1.3, 1.2))
        assert own.architecture is None
        assert dict(own.parameters) == {"layers": 6, "width": 80, "heads": 5, "length": 40}
        assert own.key == "heads=5,layers=6,length=40,width=80"

    @given(st.integers(1, 999), st.integers(1, 64), factors)
    def test_of_an_own_model_keeps_multiples_and_at_most_a_tenth_is_lost(self, value, multiple, factor):
        own = scaled((ScaledParameter("n", value, Axis.WIDTH, multiple),), Multipliers(1, factor, 1))
        ((_, size),) = own.parameters
        assert size >= max(value, 0.9 * value * factor - 1e-4)
        assert factor == 1 or size % multiple == 0


class TestARay:
    @given(directions)
    def test_grows_in_every_size_and_repeats_no_network(self, direction):
        total = sum(direction)
        own = ray(sweep(), from_shares([share / total for share in direction]))
        keys = [network.key for network in own.networks]
        assert len(set(keys)) == len(keys)
        counts = [scaler(BASE).cost(network) for network in own.networks]
        for before, after in itertools.pairwise(counts):
            assert before.parameters <= after.parameters
            assert before.flops <= after.flops

    def test_begins_with_the_base_and_grows_by_coefficients_in_steps(self):
        own = ray(sweep(), Vector(1.2, 1.1, 1.15))
        assert own.networks[0].architecture == BASE
        assert own.coefficients[0] == 0
        assert all(round(value / 0.05, 6).is_integer() for value in own.coefficients)
        for coefficient, network in zip(own.coefficients, own.networks, strict=True):
            assert network.multipliers == Vector(1.2, 1.1, 1.15).at(coefficient)

    def test_reaches_far_beyond_the_largest_budget_in_flops(self):
        own = ray(sweep(), Vector(1.3, 1.158, 1.071))
        assert math.exp(scaler(BASE).log_flops(own.networks[-1])) >= 32

    def test_ends_where_networks_can_no_longer_be_written_down(self):
        deep = BASE.model_copy(
            update={"stages": tuple(own.model_copy(update={"depth": 30}) for own in BASE.stages)}
        )
        own = ray(replace(sweep(), base=deep), Vector(2.0, 1.0, 1.0))
        assert own.coefficients[-1] < 1.2

    def test_ends_where_the_data_have_no_more_pixels(self):
        problem = sweep(largest_side=96)
        direction = from_shares((0.2, 0.2, 0.6))
        bounded, free = ray(problem, direction).networks, ray(sweep(), direction).networks
        sides = [network.architecture.resolution for network in free]
        assert bounded == free[: sum(side <= 96 for side in sides)]
        assert max(network.architecture.resolution for network in bounded) == 96
        assert max(sides) > 96

    def test_of_an_own_model_that_grows_along_one_axis_scales_that_one(self):
        own = ray(sweep(base=(ScaledParameter("layers", 3, Axis.DEPTH),)), Vector(2.0, 1.0, 1.0))
        assert [dict(network.parameters)["layers"] for network in own.networks[:4]] == [3, 4, 5, 6]


class TestVectorAt:
    def test_has_four_decimals(self):
        assert Vector(1.2, 1.1, 1.15).at(0.5) == Multipliers(1.0954, 1.0488, 1.0724)

    def test_of_zero_is_the_base(self):
        assert Vector(1.2, 1.1, 1.15).at(0) == UNSCALED


def test_a_large_base_makes_rays_too():
    assert len(ray(sweep(base=LARGE_BASE), Vector(1.2, 1.1, 1.15)).networks) > 20
