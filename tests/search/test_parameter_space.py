"""Spaces of the user's own parameters: built from the spec, written as text, refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search.simulation import OBJECTIVES

from nascale.api.space import Space
from nascale.search import engine
from nascale.search.errors import InvalidSpaceError
from nascale.search.problem import SearchProblem
from nascale.search.space import Real, SearchSpace
from nascale.search.spaces import architecture, build_space, decode, encode


def own(*parameters: dict) -> Space:
    return Space.model_validate({"parameters": list(parameters)})


WHOLE = own(
    {"name": "optimizer", "categorical": {"values": ["adam", "sgd"]}},
    {
        "name": "momentum",
        "decimal": {"min": "0.5", "max": "0.999"},
        "when": {"parameter": "optimizer", "values": ["sgd"]},
    },
    {"name": "layers", "integer": {"min": 1, "max": 9, "step": 2}},
    {
        "name": "extra",
        "categorical": {"values": ["1", "2"]},
        "when": {"parameter": "layers", "values": ["7", "9"]},
    },
    {"name": "width", "integer": {"min": 8, "max": 512, "scale": "Log"}},
    {"name": "rate", "decimal": {"min": "1e-9", "max": "0.123456789012345678", "scale": "Log"}},
)


@given(st.integers(0, 2**32 - 1))
def test_candidates_survive_their_text_exactly(seed):
    space = build_space(WHOLE)
    drawn = space.draw(np.random.default_rng(seed))

    assert decode(space, dict(encode(drawn))) == drawn
    assert ("momentum" in drawn) == (drawn["optimizer"] == "sgd")
    assert ("extra" in drawn) == (drawn["layers"] in {7, 9})
    assert 8 <= drawn["width"] <= 512
    assert 1e-9 <= drawn["rate"] <= 0.123456789012345678


@given(st.floats(-1e12, 1e12))
def test_every_decimal_survives_its_text_exactly(value):
    space = SearchSpace((Real("rate", -1e12, 1e12),))

    assert decode(space, dict(encode({"rate": value}))) == {"rate": value}


def test_own_parameters_are_no_network():
    assert architecture(WHOLE, build_space(WHOLE).draw(np.random.default_rng(0))) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            [{"name": "a"}],
            r"space\.parameters: a: must have exactly one of categorical, integer, decimal, not none",
        ),
        (
            [{"name": "a", "integer": {"min": 1, "max": 2}, "decimal": {"min": "1", "max": "2"}}],
            "a: must have exactly one of categorical, integer, decimal, not integer and decimal",
        ),
        ([{"name": "a", "integer": {"min": 3, "max": 2}}], "a: min must be at most max, not 3 > 2"),
        (
            [{"name": "a", "decimal": {"min": "0.3", "max": "0.2"}}],
            "a: min must be at most max, not 0.3 > 0.2",
        ),
        (
            [{"name": "a", "decimal": {"min": "0", "max": "1", "scale": "Log"}}],
            "a: min must be above 0 on a logarithmic scale, not 0.0",
        ),
        ([{"name": "a", "categorical": {"values": ["x", "x"]}}], "a: values must be one or more, each once"),
        (
            [{"name": "a", "integer": {"min": 1, "max": 2}, "when": {"parameter": "b", "values": ["1"]}}],
            r"a: when.parameter must be one of the parameters before it \(none\), not b",
        ),
        (
            [
                {"name": "n", "integer": {"min": 1, "max": 2}},
                {"name": "a", "integer": {"min": 1, "max": 2}, "when": {"parameter": "n", "values": ["3"]}},
            ],
            r"a: when.values must be among \[1, 2\], not \[3\]",
        ),
        (
            [
                {"name": "n", "integer": {"min": 1, "max": 2}},
                {
                    "name": "a",
                    "integer": {"min": 1, "max": 2},
                    "when": {"parameter": "n", "values": ["many"]},
                },
            ],
            r"a: when.values must be among \[1, 2\], not \['many'\]",
        ),
        (
            [
                {"name": "r", "decimal": {"min": "0", "max": "1"}},
                {"name": "a", "integer": {"min": 1, "max": 2}, "when": {"parameter": "r", "values": ["0.5"]}},
            ],
            "a: when.parameter must have listed values, not the range of r",
        ),
    ],
)
def test_bad_spaces_are_refused_by_field_value_and_range(parameters, message):
    with pytest.raises(InvalidSpaceError, match=message):
        build_space(own(*parameters))


@pytest.mark.parametrize("given", [{}, {"mbconv": {"stages": [{"channels": [8]}], "resolutions": [8]}}])
def test_exactly_one_kind_of_space_is_needed(given):
    both = {**given, "parameters": [{"name": "a", "integer": {"min": 1, "max": 2}}]} if given else {}

    with pytest.raises(InvalidSpaceError, match="space: must hold exactly one of mbconv, parameters, not"):
        build_space(Space.model_validate(both))


def test_one_point_is_no_space_to_search():
    space = build_space(own({"name": "a", "integer": {"min": 5, "max": 5}}))

    with pytest.raises(InvalidSpaceError, match="space: must hold at least 2 candidates, not 1"):
        engine.validate(SearchProblem(space, OBJECTIVES))
