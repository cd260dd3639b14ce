"""Complete stages: a stage's own settings over the spec's defaults over the contract's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.progressive.trainings import one_stage, training_spec

from nascale.api.stages import StageHardware, StageModel
from nascale.contract.run_order import MetricEnd, PlateauEnd
from nascale.contract.schedule import ScheduleError
from nascale.contract.stage_settings import HardwareSettings, ModelSettings, micro_batch
from nascale.progressive.settings import parameter_value, smallest_accumulation, stage_orders


def test_every_setting_of_the_contract_can_be_written_and_no_other():
    assert StageModel.model_fields.keys() == ModelSettings.model_fields.keys()
    assert StageHardware.model_fields.keys() - {"max_micro_batch"} == HardwareSettings.model_fields.keys()


def test_a_stage_that_states_nothing_has_the_contract_s_settings():
    (stage,) = stage_orders(training_spec())

    assert stage.model == ModelSettings()
    assert stage.hardware == HardwareSettings()
    assert (stage.name, stage.length, stage.until_metric, stage.until_plateau) == ("all", None, None, None)


def test_descriptions_name_the_contract_s_defaults():
    """What kubectl explain says a setting is otherwise is what it is."""
    for api, contract in ((StageModel, ModelSettings), (StageHardware, HardwareSettings)):
        for name, field in contract.model_fields.items():
            default = field.default
            if default is None or name in ("parameters", "environment", "resources"):
                continue
            shown = f"{default:g}" if isinstance(default, float) else getattr(default, "value", str(default))
            words = " ".join(str(api.model_fields[name].description).split())
            assert words.endswith(f"therwise {shown}."), name


def test_a_stage_s_own_settings_go_over_the_defaults_and_never_over_another_stage_s():
    spec = training_spec(
        defaults={"model": {"globalBatch": 128, "dropout": "0.1"}, "hardware": {"precision": "BF16"}},
        stages=[
            {"name": "a", "length": "1ep", "model": {"dropout": "0.3"}, "hardware": {"workers": 2}},
            {"name": "b"},
        ],
    )

    first, second = stage_orders(spec)

    assert (first.model.dropout, first.model.global_batch, first.hardware.workers) == (0.3, 128, 2)
    assert (second.model.dropout, second.model.global_batch, second.hardware.workers) == (0.1, 128, 1)
    assert first.hardware.precision == second.hardware.precision == "BF16"


def test_lists_and_maps_take_the_place_of_the_defaults_as_a_whole():
    spec = training_spec(
        defaults={
            "model": {"parameters": [{"name": "length", "value": "32"}, {"name": "b", "value": "x"}]},
            "hardware": {
                "environment": [{"name": "NCCL_DEBUG", "value": "WARN"}],
                "resources": {"cpu": "1", "memory": "1Gi"},
            },
        },
        stages=[
            {"name": "a", "length": "1ep"},
            {
                "name": "b",
                "model": {"parameters": [{"name": "length", "value": "64"}]},
                "hardware": {"environment": [], "resources": {"cpu": 2}},
            },
        ],
    )

    first, second = stage_orders(spec)

    assert first.model.parameters == {"length": 32, "b": "x"}
    assert first.hardware.environment == {"NCCL_DEBUG": "WARN"}
    assert first.hardware.resources == {"cpu": "1", "memory": "1Gi"}
    assert second.model.parameters == {"length": 64}
    assert second.hardware.environment == {}
    assert second.hardware.resources == {"cpu": "2"}


def test_ends_are_read():
    spec = training_spec(
        stages=[
            {"name": "a", "length": "1ep", "until": {"metric": {"name": "accuracy", "atLeast": "0.9"}}},
            {
                "name": "b",
                "length": "3ep",
                "until": {"plateau": {"metric": "loss", "goal": "Minimize", "evaluations": 2}},
            },
        ]
    )

    first, second = stage_orders(spec)

    assert first.until_metric == MetricEnd(metric="accuracy", at_least=0.9)
    assert second.until_plateau == PlateauEnd(metric="loss", goal="Minimize", evaluations=2)
    assert (first.until_plateau, second.until_metric) == (None, None)


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        ({}, {"maxMicroBatch": 16}, 4),
        ({"accumulation": 2}, {"maxMicroBatch": 16}, 4),
        ({"maxMicroBatch": 16}, {"accumulation": 2}, 2),
        ({"maxMicroBatch": 16}, {}, 4),
        ({"maxMicroBatch": 16}, {"workers": 2}, 2),
        ({"accumulation": 2}, {}, 2),
        ({}, {"maxMicroBatch": 1000}, 1),
    ],
)
def test_accumulation_and_the_largest_micro_batch_take_each_other_s_place(
    default: dict[str, Any], own: dict[str, Any], expected: int
):
    (stage,) = stage_orders(training_spec(defaults={"hardware": default}, stages=one_stage(hardware=own)))

    assert stage.hardware.accumulation == expected


@given(st.integers(1, 1 << 20), st.integers(1, 64), st.integers(1, 1 << 20))
def test_the_smallest_accumulation_divides_the_batch_and_keeps_to_the_micro_batch(
    batch: int, world: int, most: int
):
    try:
        found = smallest_accumulation(batch, world, most)
    except ScheduleError:
        assert batch % world or batch // world // 65_536 >= 1
        return
    size = micro_batch(ModelSettings(global_batch=batch), HardwareSettings(accumulation=found, workers=world))

    assert size is not None
    assert size <= most
    share = batch // world
    smaller = range(max(found - 200, 1), found)
    assert not [count for count in smaller if share % count == 0 and share // count <= most]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32", 32),
        ("-1", -1),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("007", "007"),
        ("1.2.3", "1.2.3"),
        ("relu", "relu"),
        ("nan", "nan"),
        ("", ""),
    ],
)
def test_what_reads_as_a_number_is_one(text: str, value: object):
    found = parameter_value(text)

    assert found == value
    assert type(found) is type(value)


def test_a_setting_out_of_its_range_is_refused_with_its_stage():
    spec = training_spec(
        stages=[
            {"name": "a", "length": "1ep", "model": {"momentum": "1"}},
            {"name": "b", "model": {"mixup": "11"}},
        ]
    )

    with pytest.raises(ScheduleError) as refused:
        stage_orders(spec)

    assert "spec.stages[0] (a): momentum: Input should be less than 1, not '1.0'" in str(refused.value)
    assert "spec.stages[1] (b): mixup: Input should be less than or equal to 10" in str(refused.value)
