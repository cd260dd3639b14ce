"""What an edit may change in a schedule that runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.progressive.trainings import training_spec

from nascale.contract.run_order import StageOrder
from nascale.progressive.edits import edit_faults
from nascale.progressive.settings import stage_orders
from nascale_trainer.progressive.proposals import EDIT_REFUSED, Objection, Schedule, Standing, edited

NAMES = ("a", "b", "c", "d")
RUNNING: list[dict[str, Any]] = [{"name": name, "length": "1ep"} for name in NAMES]


def _orders(stages: list[dict[str, Any]]) -> tuple[StageOrder, ...]:
    return stage_orders(training_spec(stages=stages))


def _faults(stages: list[dict[str, Any]]) -> tuple[str, ...]:
    """Faults of an edit while b is trained."""
    return edit_faults(_orders(RUNNING), _orders(stages), ended={"a"}, present="b")


@pytest.mark.parametrize(
    "stages",
    [
        RUNNING,
        [RUNNING[0], {"name": "b", "length": "2ep"}, RUNNING[2]],
        [
            RUNNING[0],
            {"name": "b", "length": "1ep", "until": {"metric": {"name": "loss", "atMost": "1"}}},
            *RUNNING[2:],
        ],
        RUNNING[:2],
        [*RUNNING[:2], {"name": "x", "length": "1ep", "hardware": {"workers": 2}}, RUNNING[2]],
        [*RUNNING[:2], RUNNING[3], RUNNING[2]],
    ],
)
def test_the_present_end_and_the_future_may_change(stages: list[dict[str, Any]]):
    assert _faults(stages) == ()


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        (RUNNING[1:], "spec.stages[0] (a): must keep its place: it has begun"),
        ([{"name": "x", "length": "1ep"}, *RUNNING], "spec.stages[0] (a): must keep its place: it has begun"),
        ([RUNNING[0], *RUNNING[2:]], "spec.stages[1] (b): must keep its place: it has begun"),
        (RUNNING[:1], "spec.stages[1] (b): must keep its place: it has begun"),
        (
            [{"name": "a", "length": "2ep"}, *RUNNING[1:]],
            "spec.stages[0] (a): must stay as it was: it has ended",
        ),
        (
            [RUNNING[0], {"name": "b", "length": "1ep", "model": {"dropout": "0.1"}}, *RUNNING[2:]],
            "spec.stages[1] (b): must change nothing but length and until: it is being trained",
        ),
        (
            [RUNNING[0], {"name": "b", "length": "1ep", "hardware": {"workers": 2}}, *RUNNING[2:]],
            "spec.stages[1] (b): must change nothing but length and until: it is being trained",
        ),
    ],
)
def test_what_has_begun_stays(stages: list[dict[str, Any]], fault: str):
    assert fault in _faults(stages)


ENDS = st.sampled_from([None, {"metric": {"name": "loss", "atMost": "1"}}])
edited_stages = st.lists(
    st.builds(
        lambda name, until, dropout, workers: {
            "name": name,
            "length": "1ep",
            **({} if until is None else {"until": until}),
            "model": {"dropout": dropout},
            "hardware": {"workers": workers},
        },
        st.sampled_from([*NAMES, "x"]),
        ENDS,
        st.sampled_from(["0", "0", "0.1"]),
        st.sampled_from([1, 1, 2]),
    ),
    min_size=4,
    max_size=4,
    unique_by=lambda stage: stage["name"],
)


@given(edited_stages, st.integers(0, len(NAMES) - 1))
def test_operator_and_trainer_refuse_the_same_edits(stages: list[dict[str, Any]], ended: int):
    before, after = _orders(RUNNING), _orders(stages)
    schedule = Schedule.of("4ep", before, samples_per_epoch=1000)
    standing = Standing(place=ended, samples=1000 * ended + 64, begun=range(ended + 1))

    found = edit_faults(before, after, ended=NAMES[:ended], present=NAMES[ended])
    try:
        edited(schedule, after, standing)
        refused = ""
    except Objection as objection:
        refused = objection.reason

    assert bool(found) == (refused == EDIT_REFUSED)


@given(
    st.permutations(NAMES),
    st.integers(0, len(NAMES)),
    st.sets(st.sampled_from(NAMES)),
)
def test_an_edit_without_faults_keeps_the_past(order: list[str], ended: int, longer: set[str]):
    before = _orders(RUNNING)
    after = _orders([{"name": n, "length": "2ep" if n in longer else "1ep"} for n in order])
    present = NAMES[ended] if ended < len(NAMES) else None

    found = edit_faults(before, after, ended=NAMES[:ended], present=present)

    kept = after[:ended] == before[:ended] and (present is None or after[ended].name == present)
    assert (found == ()) == kept
