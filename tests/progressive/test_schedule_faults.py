"""What makes a schedule impossible, and what makes its end doubtful."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tests.progressive.trainings import ARCHITECTURE, one_stage, training_spec

from nascale.api.training import EmbeddedDataSet
from nascale.contract.schedule import resolve
from nascale.contract.work_order import DataOrder
from nascale.progressive.data_size import CLASS_SIZES, training_samples
from nascale.progressive.schedule import quality_warnings, schedule_faults, stage_orders
from nascale_trainer.batches import split
from nascale_trainer.data import load_source

OWN = {"image": "example.com/train:1"}


def _lengths(*lengths: str | None) -> list[dict[str, Any]]:
    return [
        {"name": f"s{place}", **({} if length is None else {"length": length})}
        for place, length in enumerate(lengths)
    ]


def test_a_right_spec_has_no_faults():
    assert schedule_faults(training_spec(), ARCHITECTURE) == ()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"model": {}},
            "spec.model: must have exactly one of searchName, member, architecture, parameters, not 0",
        ),
        ({"model": {"searchName": "a", "parameters": [{"name": "a", "value": "1"}]}}, "not 2"),
        (
            {"model": {"parameters": [{"name": "a", "value": "1"}]}},
            "spec.model: must be searchName, member or",
        ),
        ({"trainingData": None}, "spec.trainingData: must be set, unless podTemplate has an image"),
        (
            {"trainingData": {}},
            "spec.trainingData: must have exactly one of embedded, folder, volumeClaim, not 0",
        ),
        (
            {"trainingData": {"embedded": "Digits", "validationFraction": "1"}},
            "spec.trainingData.validationFraction: must be above 0 and below 1, not 1",
        ),
        ({"length": "1dur"}, "spec.length: must have the unit ep, sp or ba, not 1dur"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "spec.stages: must have each name once, not a 2 times"),
        ({"stages": _lengths(None, "1ep")}, "spec.stages[0] (s0): length: must be given for every stage but"),
        (
            {"stages": [{"name": "a", "until": {"metric": {"name": "loss", "atMost": "1"}}}]},
            "spec.stages[0] (a): length: must be given beside until",
        ),
        (
            {"stages": [{"name": "a", "length": "4ep", "until": {}}]},
            "spec.stages[0] (a): until: must have exactly one of metric, plateau",
        ),
        (
            {"stages": [{"name": "a", "length": "4ep", "until": {"metric": {"name": "loss"}}}]},
            "spec.stages[0] (a): until.metric: must have exactly one of atLeast, atMost",
        ),
        (
            {"stages": one_stage({"parameters": [{"name": "a", "value": "1"}]})},
            "spec.stages: must not have model.parameters, unless podTemplate has an image",
        ),
        (
            {"defaults": {"model": {"parameters": [{"name": "a", "value": "1"}]}}},
            "spec.stages: must not have model.parameters, unless podTemplate has an image",
        ),
        (
            {"stages": one_stage({"globalBatch": 64}, {"workers": 3})},
            "(all): model.globalBatch: must be a multiple of 3 (3 workers times 1 processes times",
        ),
        (
            {"stages": one_stage({"globalBatch": 64}, {"workers": 3, "maxMicroBatch": 8})},
            "(all): model.globalBatch: must be a multiple of 3 (workers times processesPerWorker), not 64",
        ),
        (
            {"stages": one_stage({"globalBatch": 1 << 20}, {"maxMicroBatch": 1})},
            "hardware.maxMicroBatch: must be larger for a global batch of 1048576 samples, not 1",
        ),
        (
            {
                "defaults": {"model": {"globalBatch": 64}},
                "stages": one_stage(hardware={"processesPerWorker": 5}),
            },
            "must be a multiple of 5",
        ),
        (
            {"stages": one_stage({"resolution": 4}), "architecture": 8},
            "at least the network's total stride, 8",
        ),
        (
            {"stages": one_stage(hardware={"environment": [{"name": "LD_PRELOAD", "value": "x"}]})},
            "spec.stages[0] (all): hardware.environment: must have names that start with one of NCCL_",
        ),
        (
            {
                "stages": one_stage(
                    hardware={"parallelism": "FSDP", "communicationHook": "BF16", "workers": 2}
                )
            },
            "hardware.communicationHook: must be None with parallelism FSDP, not BF16",
        ),
        (
            {
                "podTemplate": {"resources": {"limits": {"cpu": "2"}}},
                "stages": one_stage(hardware={"resources": {"cpu": "2500m"}}),
            },
            "hardware.resources: must be at most the limit of podTemplate and placement for cpu, 2, not 250",
        ),
        (
            {"stages": one_stage(hardware={"resources": {"cpu": "two"}})},
            "hardware.resources: must have quantities such as 500m or 4Gi, not two for cpu",
        ),
        (
            {
                "placement": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
                "stages": one_stage(hardware={"processesPerWorker": 2}),
            },
            "hardware.processesPerWorker: must be at most the GPUs of each pod, 1, not 2",
        ),
    ],
)
def test_a_fault_is_named_with_field_value_and_range(changes: dict[str, Any], fault: str):
    architecture = ARCHITECTURE
    if stride := changes.pop("architecture", None):
        stages = [*ARCHITECTURE.stages, ARCHITECTURE.stages[0]]
        architecture = ARCHITECTURE.model_copy(update={"stages": tuple(stages)})
        assert architecture.total_stride == stride

    found = schedule_faults(training_spec(**changes), architecture)

    assert any(fault in text for text in found), found


def test_every_fault_is_named_at_once():
    found = schedule_faults(
        training_spec(
            trainingData=None,
            stages=[
                {"name": "a", "length": "2ep", "hardware": {"workers": 3}},
                {"name": "b", "model": {"resolution": 4, "globalBatch": 7}, "hardware": {"accumulation": 2}},
            ],
        ),
        ARCHITECTURE,
    )

    assert len(found) == 3
    assert [text.split(":")[0] for text in found] == [
        "spec.trainingData",
        "spec.stages[0] (a)",
        "spec.stages[1] (b)",
    ]


def test_a_container_of_one_s_own_needs_neither_data_nor_an_architecture():
    spec = training_spec(
        podTemplate=OWN,
        trainingData=None,
        model={"parameters": [{"name": "width", "value": "64"}]},
        stages=one_stage({"parameters": [{"name": "length", "value": "32"}]}),
    )

    assert schedule_faults(spec) == ()


@pytest.mark.parametrize(
    ("length", "lengths", "fault"),
    [
        ("4ep", ["1ep", "2ep"], "spec.stages: lengths must sum to the whole length, "),
        ("4ep", ["3ep", "0.5dur"], "spec.stages: lengths must sum to the whole length, "),
        ("4ep", ["0.5dur", "0.4dur"], "spec.stages: lengths must sum to the whole length, "),
        ("4ep", ["3ep", "0.25dur", None], "spec.stages[2].length: must be left something of the "),
        (
            "1000sp",
            ["500sp", "499sp"],
            "spec.stages: lengths must sum to the whole length, 1000 samples, not 999",
        ),
        (
            "10ba",
            ["320sp", "320sp", None],
            "spec.stages[2].length: must be left something of the 640 samples",
        ),
    ],
)
@pytest.mark.parametrize("data", [{"embedded": "Digits"}, {"folder": {"path": "/data"}}])
def test_lengths_sum_to_the_whole_also_where_the_data_s_size_is_not_known(
    length: str, lengths: list[str | None], fault: str, data: dict[str, Any]
):
    found = schedule_faults(training_spec(length=length, stages=_lengths(*lengths), trainingData=data))

    assert len(found) == 1
    assert found[0].startswith(fault)


def test_what_takes_the_data_s_size_is_left_to_the_trainer_unless_the_size_is_known():
    stages = _lengths("1000sp", "3ep")

    known = schedule_faults(training_spec(stages=stages))
    unknown = schedule_faults(training_spec(stages=stages, trainingData={"folder": {"path": "/data"}}))
    told = schedule_faults(
        training_spec(stages=stages, trainingData={"folder": {"path": "/data"}}), samples_per_epoch=1000
    )

    assert len(known) == 1
    assert "5752 samples, not 5314" in known[0]
    assert unknown == told == ()


@given(
    st.lists(
        st.sampled_from(["0.2dur", "0.25dur", "0.333dur", "0.5dur", "1ep", "2ep", "1.5ep"]),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["1ep", "3ep", "4ep"]),
    st.sampled_from(["given", "left out"]),
    st.integers(10_000, 10**6),
)
@example(["0.25dur"] * 4, "3ep", "left out", 11_967)  # rounding leaves one sample
def test_what_the_operator_refuses_without_the_size_the_trainer_refuses_at_every_large_size(
    lengths: list[str], length: str, last: str, epoch: int
):
    written: list[str | None] = [*lengths, None] if last == "left out" else [*lengths]
    spec = training_spec(length=length, stages=_lengths(*written), trainingData={"folder": {"path": "/data"}})

    refused = bool(schedule_faults(spec))

    try:
        resolve(length, stage_orders(spec), epoch)
        resolved = True
    except ValueError:
        resolved = False
    assert not (refused and resolved)


@pytest.mark.parametrize("fraction", ["0.1", "0.2", "0.25", "0.333", "0.5"])
def test_the_size_of_an_embedded_data_set_is_the_trainer_s(fraction: str):
    spec = training_spec(trainingData={"embedded": "Digits", "validationFraction": fraction})
    order = DataOrder(name="Digits", validation_fraction=float(fraction))

    labels = load_source(order).labels

    assert tuple(torch.bincount(labels).tolist()) == CLASS_SIZES[EmbeddedDataSet.DIGITS]
    assert training_samples(spec) == len(split(labels, order).training)


def test_the_size_of_fashion_mnist_is_a_share_of_sixty_thousand():
    spec = training_spec(trainingData={"embedded": "FashionMNIST", "validationFraction": "0.1"})

    assert training_samples(spec) == 54_000


@pytest.mark.parametrize(
    "changes",
    [{"trainingData": {"folder": {"path": "/data"}}}, {"podTemplate": OWN}, {"trainingData": None}],
)
def test_otherwise_the_size_is_not_known(changes: dict[str, Any]):
    assert training_samples(training_spec(**changes)) is None


@pytest.mark.parametrize(
    ("model", "hardware", "warning"),
    [
        (
            {},
            {"precision": "FP16"},
            "hardware.precision: should be one of BF16, FP32, TF32 in the last stage",
        ),
        ({"depth": "0.5"}, {}, "model.depth: should be 1 in the last stage, not 0.5"),
        ({"resolution": 8}, {}, "model.resolution: should be at least the network's own, 16 pixels"),
        ({}, {"communicationHook": "FP16", "workers": 2}, "hardware.communicationHook: should not be FP16"),
    ],
)
def test_a_last_stage_that_may_cost_quality_is_warned_of_and_not_refused(
    model: dict[str, Any], hardware: dict[str, Any], warning: str
):
    spec = training_spec(stages=one_stage(model, hardware))

    found = quality_warnings(stage_orders(spec), ARCHITECTURE)

    assert schedule_faults(spec, ARCHITECTURE) == ()
    assert len(found) == 1
    assert found[0].startswith(f"spec.stages[0] (all): {warning}")


def test_what_an_earlier_stage_does_is_no_warning():
    spec = training_spec(
        stages=[
            {
                "name": "a",
                "length": "1ep",
                "model": {"depth": "0.5", "resolution": 8},
                "hardware": {"precision": "FP16"},
            },
            {"name": "b", "model": {"resolution": 16}, "hardware": {"precision": "BF16"}},
        ]
    )

    assert quality_warnings(stage_orders(spec), ARCHITECTURE) == ()
