"""Counting and numbering candidates equals listing them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search.simulation import CONDITIONAL, SMALL

from nascale.search.errors import InvalidSpaceError
from nascale.search.history import TrialRecord, TrialState
from nascale.search.novelty import Novelty
from nascale.search.numbering import Numbering
from nascale.search.samplers.variation import mutate
from nascale.search.space import Categorical, Condition, Integer, Real, SearchSpace


@st.composite
def spaces(draw):
    parameters = []
    for number in range(draw(st.integers(1, 5))):
        when = None
        if parameters and draw(st.booleans()):
            parent = draw(st.sampled_from(parameters))
            choices = list(parent.choices)
            values = draw(st.lists(st.sampled_from(choices), min_size=1, max_size=len(choices), unique=True))
            when = Condition(parent.name, tuple(values))
        if draw(st.booleans()):
            values = tuple("abc"[: draw(st.integers(1, 3))])
            parameters.append(Categorical(f"p{number}", values, when))
        else:
            low, step = draw(st.integers(-2, 2)), draw(st.integers(1, 3))
            parameters.append(Integer(f"p{number}", low, low + draw(st.integers(0, 6)), step, when=when))
    return SearchSpace(tuple(parameters))


@given(spaces())
def test_count_equals_the_length_of_the_list(space):
    listed = [space.key(candidate) for candidate in space.enumerate()]

    assert space.count == len(listed) == len(set(listed))
    assert space.size(limit=len(listed)) == len(listed)
    assert space.size(limit=len(listed) - 1) is None


@given(spaces())
def test_numbers_and_candidates_are_one_to_one(space):
    numbering = Numbering(space)
    listed = list(space.enumerate())

    assert sorted(numbering.number(candidate) for candidate in listed) == list(range(len(listed)))
    assert all(numbering.candidate(numbering.number(candidate)) == candidate for candidate in listed)


@given(st.sets(st.integers(0, 7)))
def test_untried_numbers_are_the_others_in_order(tried):
    numbering = Numbering(SMALL)
    others = [number for number in range(8) if number not in tried]

    assert [numbering.untried(tried, ordinal) for ordinal in range(len(others))] == others
    with pytest.raises(IndexError, match="ordinal: must be from 0 to"):
        numbering.untried(tried, len(others))


def test_wide_ranges_cost_no_list():
    space = SearchSpace(
        (
            Integer("width", 1, 10**9),
            Categorical("extra", ("a", "b"), when=Condition("width", (5, 10**9))),
            *(Integer(f"deep{number}", 1, 10**9) for number in range(8)),
        )
    )
    numbering = Numbering(space)

    assert space.count == (10**9 + 2) * 10**72
    assert space.size() is None
    last = numbering.candidate(numbering.size - 1)
    assert last["width"] == 10**9
    assert last["extra"] == "b"
    assert numbering.number(last) == numbering.size - 1


def test_continuous_ranges_have_no_numbers():
    assert CONDITIONAL.count is None
    with pytest.raises(InvalidSpaceError, match="can't be numbered"):
        Numbering(CONDITIONAL)


def test_one_point_of_a_continuous_range_is_one_candidate():
    assert SearchSpace((Real("rate", 0.5, 0.5), Categorical("block", ("a", "b")))).count == 2


@given(spaces(), st.integers(0, 2**32 - 1))
def test_draws_find_every_untried_candidate(space, seed):
    rng = np.random.default_rng(seed)
    novelty = Novelty(space, [])
    found = []
    while (drawn := novelty.draw(rng)) is not None:
        assert drawn not in novelty
        novelty.add(drawn)
        found.append(space.key(drawn))

    assert novelty.exhausted
    assert len(found) == space.count


def test_candidates_of_another_space_do_not_disturb():
    foreign = [
        TrialRecord(0, 0, 0, {"unknown": 1}, TrialState.FAILED),
        TrialRecord(1, 1, 0, {"block": 3}, TrialState.FAILED),
    ]
    novelty = Novelty(SMALL, foreign)

    found = 0
    while (drawn := novelty.draw(np.random.default_rng(found))) is not None:
        novelty.add(drawn)
        found += 1

    assert found == SMALL.count


@given(spaces(), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_mutants_are_candidates_of_the_space_and_differ_where_they_can(space, seed, changes):
    rng = np.random.default_rng(seed)
    parent = space.draw(rng)

    child = mutate(space, parent, rng, changes)

    assert space.canonical(child) == child
    Numbering(space).number(child)
    if any(parameter.name in parent and len(parameter.choices) > 1 for parameter in space.parameters):
        assert child != parent


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((), "space: must have at least one parameter"),
        ((Categorical("a", ()),), "a: values must be one or more"),
        ((Categorical("a", ("x", "x")),), "a: values must be one or more, each once"),
        ((Categorical("a", ("x",)), Categorical("a", ("y",))), "a: names must be unique"),
        ((Integer("a", 5, 4),), "a: min must be at most max, not 5 > 4"),
        ((Integer("a", 0, 4, log=True),), "a: min must be above 0 on a logarithmic scale, not 0"),
        ((Real("a", 0.0, 1.0, log=True),), "a: min must be above 0"),
        (
            (Integer("a", 1, 2, when=Condition("b", ("x",))),),
            r"a: when.parameter must be one of the parameters before it \(none\), not b",
        ),
        (
            (Real("r", 0.0, 1.0), Integer("a", 1, 2, when=Condition("r", (0.5,)))),
            "a: when.parameter must have listed values, not the range of r",
        ),
        (
            (Integer("n", 1, 10**9), Integer("a", 1, 2, when=Condition("n", ("many",)))),
            r"a: when.values must be among \[1, 2, .*\], not \['many'\]",
        ),
    ],
)
def test_contradictory_spaces_are_refused(parameters, message):
    with pytest.raises(InvalidSpaceError, match=message):
        SearchSpace(parameters)
