"""How much a change between two stages disturbs a run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.strategies import hardware, models, stages

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import Compilation, HardwareSettings, ModelSettings
from nascale.contract.switch_class import (
    HARDWARE_CLASSES,
    MODEL_CLASSES,
    ORDER,
    SwitchClass,
    changed_settings,
    classify,
)

EAGER = HardwareSettings()
CLASSES = MODEL_CLASSES | HARDWARE_CLASSES


def _stage(model: ModelSettings | None = None, own: HardwareSettings | None = None) -> StageOrder:
    return StageOrder(name="a", model=model or ModelSettings(), hardware=own or EAGER)


def _same(first: StageOrder, second: StageOrder) -> bool:
    return (first.model, first.hardware) == (second.model, second.hardware)


def test_every_setting_of_a_stage_is_in_a_table():
    assert MODEL_CLASSES.keys() == ModelSettings.model_fields.keys()
    assert HARDWARE_CLASSES.keys() == HardwareSettings.model_fields.keys()


def test_classes_go_from_the_cheapest_to_the_dearest():
    assert [kind.value for kind in ORDER] == ["None", "Live", "Recompile", "Restart", "Reschedule"]


@given(stages, stages)
def test_nothing_is_to_be_done_where_no_setting_differs_and_only_there(first: StageOrder, second: StageOrder):
    assert (classify(first, second) is SwitchClass.NONE) == _same(first, second)
    assert classify(first, first) is SwitchClass.NONE


@given(stages, stages)
def test_the_way_back_costs_the_same(first: StageOrder, second: StageOrder):
    # Also where one side alone is compiled: a change of the compilation itself is a Recompile.
    assert changed_settings(first, second).keys() == changed_settings(second, first).keys()
    assert classify(first, second) is classify(second, first)


@given(stages, stages)
def test_the_dearest_setting_decides(first: StageOrder, second: StageOrder):
    found = changed_settings(first, second)
    ranks = [ORDER.index(kind) for kind in found.values()]

    assert ORDER.index(classify(first, second)) == max(ranks, default=0)


@given(stages, stages)
def test_a_setting_has_the_class_of_its_table_but_for_the_two_exceptions(
    first: StageOrder, second: StageOrder
):
    alone = first.hardware.world == second.hardware.world == 1
    compiled = second.hardware.compilation is not Compilation.NONE

    for name, kind in changed_settings(first, second).items():
        if kind is not CLASSES[name]:
            assert (kind, CLASSES[name]) in {
                (SwitchClass.LIVE, SwitchClass.RESTART),
                (SwitchClass.RECOMPILE, SwitchClass.LIVE),
            }
            assert alone if kind is SwitchClass.LIVE else compiled


@given(stages, models)
@settings(max_examples=50)
def test_a_change_of_the_model_alone_needs_no_new_process(stage: StageOrder, other: ModelSettings):
    changed = stage.model_copy(update={"model": other})

    assert ORDER.index(classify(stage, changed)) <= ORDER.index(SwitchClass.RECOMPILE)


@given(stages, hardware)
def test_other_pods_are_a_reschedule_and_nothing_else_is(stage: StageOrder, other: HardwareSettings):
    changed = stage.model_copy(update={"hardware": other})
    pods = ("workers", "processes_per_worker", "resources")
    moved = any(getattr(stage.hardware, name) != getattr(other, name) for name in pods)

    assert (classify(stage, changed) is SwitchClass.RESCHEDULE) == moved


@pytest.mark.parametrize(
    ("model", "own", "expected"),
    [
        ({"dropout": 0.5}, {}, SwitchClass.LIVE),
        ({"global_batch": 128}, {"accumulation": 2}, SwitchClass.LIVE),
        ({"resolution": 32}, {}, SwitchClass.RECOMPILE),
        ({"depth": 0.5}, {}, SwitchClass.RECOMPILE),
        ({}, {"precision": "BF16"}, SwitchClass.RECOMPILE),
        ({"dropout": 0.5}, {"precision": "BF16"}, SwitchClass.RECOMPILE),
        ({}, {"threads": 2}, SwitchClass.RESTART),
        ({}, {"parallelism": "FSDP"}, SwitchClass.LIVE),
        ({}, {"workers": 2}, SwitchClass.RESCHEDULE),
        ({}, {"workers": 2, "parallelism": "FSDP", "precision": "BF16"}, SwitchClass.RESCHEDULE),
        ({}, {"resources": {"cpu": "2"}}, SwitchClass.RESCHEDULE),
    ],
)
def test_examples(model: dict[str, object], own: dict[str, object], expected: SwitchClass):
    changed = _stage(ModelSettings.model_validate(model), HardwareSettings.model_validate(own))

    assert classify(_stage(), changed) is expected


def test_what_is_compiled_in_takes_a_recompile():
    compiled = HardwareSettings(compilation=Compilation.DEFAULT)
    before, after = _stage(own=compiled), _stage(ModelSettings(global_batch=128), compiled)

    assert classify(before, after) is SwitchClass.RECOMPILE
    assert classify(_stage(), _stage(ModelSettings(global_batch=128))) is SwitchClass.LIVE


@given(st.sampled_from(["parallelism", "communication_hook"]))
def test_between_several_processes_it_takes_new_ones(name: str):
    two = HardwareSettings(workers=2)
    other = two.model_copy(update={name: {"parallelism": "FSDP", "communication_hook": "BF16"}[name]})

    assert classify(_stage(own=two), _stage(own=other)) is SwitchClass.RESTART
