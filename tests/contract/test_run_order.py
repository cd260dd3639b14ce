"""Run orders and desired states: what goes down to a training's container."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.strategies import stages

from nascale.contract.errors import ContractError, UnknownVersionError
from nascale.contract.run_order import (
    CheckpointOrder,
    DesiredState,
    DivergenceOrder,
    EvaluationOrder,
    OptimizerOrder,
    RunOrder,
    StageOrder,
    parse_desired_state,
    parse_run_order,
)
from nascale.contract.stage_settings import HardwareSettings, ModelSettings, micro_batch
from nascale.contract.work_order import DataOrder, RunIdentity, parse_work_order

IDENTITY = RunIdentity(kind="ProgressiveTraining", name="digits", namespace="default", uid="1-2")
STAGE = StageOrder(name="all", model=ModelSettings(), hardware=HardwareSettings())

orders = st.builds(
    RunOrder,
    run=st.just(IDENTITY),
    generation=st.integers(1, 1000),
    revision=st.integers(0, 1000),
    seed=st.integers(0, 2**63 - 1),
    parameters=st.dictionaries(
        st.sampled_from(["width", "name"]), st.one_of(st.integers(), st.text(max_size=9))
    ),
    data=st.none() | st.just(DataOrder(name="Digits")),
    length=st.sampled_from(["4ep", "1000sp"]),
    stages=st.lists(stages, min_size=1, max_size=3),
    workers=st.integers(1, 4),
    processes_per_worker=st.integers(1, 4),
    architecture=st.none(),
    optimizer=st.just(OptimizerOrder()),
    evaluation=st.just(EvaluationOrder()),
    checkpoints=st.builds(CheckpointOrder, every_steps=st.none() | st.integers(1, 100)),
    divergence=st.builds(DivergenceOrder, most_roll_backs=st.integers(0, 100)),
)
states = st.builds(
    DesiredState,
    revision=st.integers(0, 1000),
    paused=st.booleans(),
    advance_to=st.none() | st.just("b"),
    stages=st.none() | st.lists(stages, min_size=1, max_size=3),
)


def _order() -> dict[str, Any]:
    order = RunOrder(run=IDENTITY, generation=1, length="4ep", stages=(STAGE,))
    document: dict[str, Any] = json.loads(order.to_json())
    return document


@given(orders)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # whole schedules take a while
def test_an_order_is_the_same_after_a_round_trip(order: RunOrder):
    assert parse_run_order(order.to_json()) == order


@given(states)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # whole schedules take a while
def test_a_desired_state_is_the_same_after_a_round_trip(state: DesiredState):
    assert parse_desired_state(state.to_json()) == state


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(1, 8), st.integers(1, 8))
def test_micro_batches_of_all_processes_make_the_global_batch(
    batch: int, accumulation: int, workers: int, processes: int
):
    own = HardwareSettings(accumulation=accumulation, workers=workers, processes_per_worker=processes)
    size = micro_batch(ModelSettings(global_batch=batch), own)

    if size is None:
        assert batch % (accumulation * workers * processes) != 0
    else:
        assert size >= 1
        assert size * accumulation * own.world == batch


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"generation": 0}, "generation"),
        ({"length": "4 epochs"}, "length"),
        ({"stages": []}, "stages"),
        ({"workers": 257}, "workers"),
        ({"surprise": 1}, "surprise"),
        ({"run": {"kind": "Trial", "name": "a", "namespace": "b", "uid": "c"}}, "run.kind"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_order_is_refused_by_field(change: dict[str, Any], fault: str):
    with pytest.raises(ContractError, match=fault):
        parse_run_order(json.dumps({**_order(), **change}))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "depth", 0),
        ("model", "dropout", 1),
        ("model", "globalBatch", 0),
        ("model", "resolution", 3),
        ("model", "brightness", 1),
        ("hardware", "precision", "FP8"),
        ("hardware", "accumulation", 0),
        ("hardware", "workers", 0),
        ("hardware", "environment", {"lower": "x"}),
        ("hardware", "maxMicroBatch", 8),
    ],
)
def test_a_wrong_setting_is_refused_with_its_stage(part: str, name: str, value: object):
    document = _order()
    document["stages"][0][part][name] = value

    with pytest.raises(ContractError, match=rf"stages\.0\.{part}\.{name}"):
        parse_run_order(json.dumps(document))


def test_documents_are_told_apart_by_their_versions():
    run_order, state = json.dumps(_order()), DesiredState(revision=1).to_json()

    with pytest.raises(UnknownVersionError, match="work order: version"):
        parse_work_order(run_order)
    with pytest.raises(UnknownVersionError, match="desired state: version"):
        parse_desired_state(run_order)
    with pytest.raises(UnknownVersionError, match="run order: version"):
        parse_run_order(state)
