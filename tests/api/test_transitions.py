"""What may change in an object that exists, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from nascale.api.custom_resource_definition import KINDS, custom_resource_definition

pytestmark = pytest.mark.cluster

TRIALS = "/apis/nascale.io/v1alpha1/namespaces/default/trials"

MAY_CHANGE = {
    "suspend": True,
    "ttlSecondsAfterFinished": 60,
    "budget.maxTrials": 20,
    "budget.parallelTrials": 4,
    "budget.maxFailedTrials": 5,
    "budget.activeDeadlineSeconds": 100,
    "budget.deviceSeconds": 1000,
}
"""Everything else in a spec stays as it was created."""

FROZEN: dict[str, Any] = {
    "trainingData": {"validationFraction": "0.3"},
    "target": {"batchSize": 2},
    "space": {"mbconv": {"resolutions": [16]}},
    "objectives": [
        {"metric": "accuracy", "direction": "Maximize", "source": "Report"},
        {"metric": "flops", "direction": "Minimize", "source": "Report"},
    ],
    "algorithm": {"seed": 2},
    "fidelities": {"reductionFactor": 4},
    "budget.trialsPerPod": 2,
    "budget.trialRetries": 2,
    "budget.trialDeadlineSeconds": 60,
    "selection": {"method": "BestUnderConstraints"},
    "trialTemplate": {"image": "example.com/other:1"},
    "measurement": {"minCalls": 100},
    "training": {"batchSize": 32},
    "metricsCollection": {"timeoutSeconds": 1},
}

FROZEN_IN_SWEEPS = {
    name: value for name, value in FROZEN.items() if name not in {"space", "algorithm", "selection"}
} | {
    "base": {"searchName": "other"},
    "coefficients": {"mode": "PerLevel"},
    "family": [{"name": "s", "latencyMultiple": "1.6"}, {"name": "m", "latencyMultiple": "3"}],
    "objectives": [
        {"metric": "loss", "direction": "Minimize", "source": "Report"},
        {"metric": "latency_p50_seconds", "direction": "Minimize", "source": "Report"},
    ],
    "baselines": ["LACSGPU"],
    "exploration": {"seed": 2},
}

MAY_CHANGE_IN_TRAININGS: dict[str, Any] = {
    "stages": [{"name": "first", "length": "2ep"}, {"name": "second"}],
    "restarts": {"maxRestarts": 1},
    "activeDeadlineSeconds": 100,
    "suspend": True,
    "ttlSecondsAfterFinished": 60,
}

FROZEN_IN_TRAININGS: dict[str, Any] = {
    "model": {"searchName": "other"},
    "trainingData": {"validationFraction": "0.3"},
    "seed": 1,
    "length": "5ep",
    "defaults": {"model": {"dropout": "0.1"}},
    "optimizer": {"learningRate": "0.01"},
    "evaluation": {"every": "2ep"},
    "checkpoints": {"everySeconds": 10},
    "divergence": {"action": "Stop"},
    "volume": {"path": "other"},
    "podTemplate": {"image": "example.com/other:1"},
    "placement": {"nodeSelector": {"kubernetes.io/arch": "arm64"}},
    "metricsCollection": {"timeoutSeconds": 1},
}

STAGES: list[dict[str, Any]] = [
    {"name": "small", "length": "1ep", "model": {"dropout": "0.1"}},
    {"name": "middle", "length": "1ep"},
    {"name": "large", "length": "1ep"},
    {"name": "last"},
]
"""In the tests below the first one has ended and the second one is trained."""
BEGUN = [
    {"name": "small", "beginSamples": 0, "endSamples": 1438},
    {"name": "middle", "beginSamples": 1438},
]


def _patch(dotted: str, value: Any) -> dict[str, Any]:
    changes: Any = value
    for key in reversed(dotted.split(".")):
        changes = {key: changes}
    return {"spec": changes}


@pytest.mark.parametrize(
    ("kind", "frozen"),
    [
        ("ArchitectureSearch", FROZEN.keys() | {"checkpoints"}),
        ("ScalingSweep", FROZEN_IN_SWEEPS.keys() | {"checkpoints", "reuseTrialsFrom"}),
        ("ProgressiveTraining", FROZEN_IN_TRAININGS.keys() | {"schedule"}),
    ],
)
def test_the_two_lists_name_every_field_of_the_spec(kind: str, frozen: set[str]):
    (definition,) = [custom_resource_definition(known) for known in KINDS if known.kind == kind]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = schema["properties"]["spec"]["properties"]
    every = {name for name in spec if name != "budget"}
    if "budget" in spec:
        every |= {f"budget.{name}" for name in spec["budget"]["properties"]}
    free = MAY_CHANGE_IN_TRAININGS if kind == "ProgressiveTraining" else MAY_CHANGE

    assert every == free.keys() | frozen
    assert not free.keys() & frozen


@pytest.mark.parametrize("field", MAY_CHANGE)
def test_a_running_search_may_change(field: str, admission: Any, running: Callable[..., str]):
    path = running("changing")

    verdict = admission.patch(path, _patch(field, MAY_CHANGE[field]))

    assert verdict.accepted, verdict.text
    assert verdict.document["metadata"]["generation"] == 2


@pytest.mark.parametrize("field", FROZEN)
def test_a_running_search_must_not_change(field: str, admission: Any, running: Callable[..., str]):
    path = running("frozen")

    verdict = admission.patch(path, _patch(field, FROZEN[field]))

    assert not verdict.accepted
    assert f"spec.{field}: Invalid value" in verdict.text
    assert "must not change after creation" in verdict.text


def test_an_optional_part_is_neither_added_nor_removed(admission: Any, running: Callable[..., str]):
    path = running("parts", trialTemplate={"image": "example.com/train:1"})

    added = admission.patch(path, {"spec": {"checkpoints": {"claimName": "checkpoints"}}})
    removed = admission.patch(path, {"spec": {"trainingData": None}})

    assert "spec: Invalid value: must not add or remove checkpoints after creation" in added.text
    assert "spec: Invalid value: must not add or remove trainingData after creation" in removed.text


@pytest.mark.parametrize("field", MAY_CHANGE)
def test_a_running_sweep_may_change(field: str, admission: Any, running_sweep: Callable[..., str]):
    path = running_sweep("changing")

    verdict = admission.patch(path, _patch(field, MAY_CHANGE[field]))

    assert verdict.accepted, verdict.text
    assert verdict.document["metadata"]["generation"] == 2


@pytest.mark.parametrize("field", FROZEN_IN_SWEEPS)
def test_a_running_sweep_must_not_change(field: str, admission: Any, running_sweep: Callable[..., str]):
    path = running_sweep("frozen")

    verdict = admission.patch(path, _patch(field, FROZEN_IN_SWEEPS[field]))

    assert not verdict.accepted
    assert f"spec.{field}: Invalid value" in verdict.text
    assert "must not change after creation" in verdict.text


def test_an_optional_part_of_a_sweep_is_neither_added_nor_removed(
    admission: Any, running_sweep: Callable[..., str]
):
    path = running_sweep("parts", trialTemplate={"image": "example.com/train:1"}, reuseTrialsFrom="before")

    added = admission.patch(path, {"spec": {"checkpoints": {"claimName": "checkpoints"}}})
    data = admission.patch(path, {"spec": {"trainingData": None}})
    reuse = admission.patch(path, {"spec": {"reuseTrialsFrom": None}})
    other = admission.patch(path, {"spec": {"reuseTrialsFrom": "another"}})

    assert "spec: Invalid value: must not add or remove checkpoints after creation" in added.text
    assert "spec: Invalid value: must not add or remove trainingData after creation" in data.text
    assert "spec: Invalid value: must not add or remove reuseTrialsFrom after creation" in reuse.text
    assert "spec.reuseTrialsFrom: Invalid value: " in other.text


@pytest.mark.parametrize("field", MAY_CHANGE_IN_TRAININGS)
def test_a_running_training_may_change(field: str, admission: Any, running_training: Callable[..., str]):
    path = running_training("changing")

    verdict = admission.patch(path, _patch(field, MAY_CHANGE_IN_TRAININGS[field]))

    assert verdict.accepted, verdict.text
    assert verdict.document["metadata"]["generation"] == 2


@pytest.mark.parametrize("field", FROZEN_IN_TRAININGS)
def test_a_running_training_must_not_change(field: str, admission: Any, running_training: Callable[..., str]):
    path = running_training("frozen")

    verdict = admission.patch(path, _patch(field, FROZEN_IN_TRAININGS[field]))

    assert not verdict.accepted
    assert f"spec.{field}: Invalid value" in verdict.text
    assert "must not change after creation" in verdict.text


def test_a_training_s_data_is_neither_added_nor_removed(admission: Any, running_training: Callable[..., str]):
    path = running_training("parts", podTemplate={"image": "example.com/train:1"})

    removed = admission.patch(path, {"spec": {"trainingData": None}})

    assert "spec: Invalid value: must not add or remove trainingData after creation" in removed.text


def test_a_generated_schedule_is_neither_changed_nor_replaced(
    admission: Any, minimal_training: dict[str, Any]
):
    path = "/apis/nascale.io/v1alpha1/namespaces/default/progressivetrainings/generated"
    spec = {key: value for key, value in minimal_training["spec"].items() if key != "stages"}
    spec["schedule"] = {"generate": {"hardware": {"precision": ["FP32", "BF16"]}}}
    document = {**minimal_training, "metadata": {"name": "generated"}, "spec": spec}
    created = admission.create(document, dry=False)
    try:
        changed = admission.patch(path, {"spec": {"schedule": {"generate": {"dryRun": True}}}})
        stages = admission.patch(path, {"spec": {"schedule": None, "stages": [{"name": "all"}]}})
        begun = {"stages": [{"name": "s1", "endSamples": 1}, {"name": "s2"}]}
        status = admission.patch(f"{path}/status", {"status": begun})
        suspended = admission.patch(path, {"spec": {"suspend": True}})
    finally:
        admission.delete(path)

    assert created.accepted, created.text
    assert "spec.schedule: Invalid value" in changed.text
    assert "must not change after creation" in changed.text
    assert "must not add or remove schedule after creation" in stages.text
    assert status.accepted, status.text
    assert suspended.accepted, suspended.text


@pytest.fixture
def in_second_stage(admission: Any, running_training: Callable[..., str]) -> str:
    """A training whose first stage has ended and whose second one is trained."""
    path = running_training("staged", stages=STAGES)
    assert admission.patch(f"{path}/status", {"status": {"stages": BEGUN}}).accepted
    return path


@pytest.mark.parametrize(
    "stages",
    [
        [STAGES[0], {**STAGES[1], "length": "1.5ep"}, *STAGES[2:]],
        [
            STAGES[0],
            {**STAGES[1], "until": {"metric": {"name": "accuracy", "atLeast": "0.9"}}},
            *STAGES[2:],
        ],
        [*STAGES[:2], {**STAGES[2], "hardware": {"workers": 2}}, STAGES[3]],
        [*STAGES[:2], {"name": "new", "length": "1ep"}, STAGES[3]],
        [*STAGES[:2], {"name": "new"}],
        [STAGES[0], {"name": "middle"}],
    ],
    ids=["length", "until", "settings-to-come", "another-to-come", "fewer-to-come", "ends-with-the-present"],
)
def test_the_present_stage_s_end_and_all_to_come_may_change(
    stages: list[Any], admission: Any, in_second_stage: str
):
    verdict = admission.patch(in_second_stage, {"spec": {"stages": stages}})

    assert verdict.accepted, verdict.text
    assert verdict.document["spec"]["stages"] == stages


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ([{**STAGES[0], "length": "0.5ep"}, *STAGES[1:]], "must change no stage that has ended, not small"),
        (
            [{**STAGES[0], "model": {"dropout": "0.2"}}, *STAGES[1:]],
            "must change no stage that has ended, not small",
        ),
        (
            [{**STAGES[0], "hardware": {"threads": 1}}, *STAGES[1:]],
            "must change no stage that has ended, not small",
        ),
        (STAGES[1:], "must keep stages that have begun in their places, not small"),
        ([STAGES[0], *STAGES[2:]], "must keep stages that have begun in their places, not middle"),
        (
            [STAGES[0], {"name": "new", "length": "0.5ep"}, *STAGES[1:]],
            "must keep stages that have begun in their places, not middle",
        ),
        (
            [{"name": "new", "length": "0.5ep"}, *STAGES],
            "must keep stages that have begun in their places, not small",
        ),
        (
            [STAGES[0], {**STAGES[1], "model": {"dropout": "0.2"}}, *STAGES[2:]],
            "must change nothing but length and until of the stage that is trained, not middle",
        ),
        (
            [STAGES[0], {**STAGES[1], "hardware": {"workers": 2}}, *STAGES[2:]],
            "must change nothing but length and until of the stage that is trained, not middle",
        ),
    ],
)
def test_a_stage_that_has_begun_is_frozen(
    stages: list[Any], fault: str, admission: Any, in_second_stage: str
):
    verdict = admission.patch(in_second_stage, {"spec": {"stages": stages}})

    assert not verdict.accepted
    assert f"spec.stages: Invalid value: {fault}" in verdict.text


def test_an_edit_keeps_the_sum(admission: Any, in_second_stage: str):
    stages = [*STAGES[:2], {"name": "large", "length": "2ep"}, STAGES[3]]

    verdict = admission.patch(in_second_stage, {"spec": {"stages": stages}})

    assert "spec.stages: Invalid value: must have lengths in ep that sum to the whole length" in verdict.text


def test_whatever_a_status_holds_the_rest_of_the_object_can_be_written(admission: Any, in_second_stage: str):
    """A status that fits no stage must not keep a finalizer, a label or a status from being written."""
    odd = [{"name": "elsewhere", "endSamples": 1}, *BEGUN, {"name": "nowhere"}]
    assert admission.patch(f"{in_second_stage}/status", {"status": {"stages": odd}}).accepted

    assert admission.patch(in_second_stage, {"metadata": {"labels": {"a": "b"}}}).accepted
    assert admission.patch(in_second_stage, {"spec": {"suspend": True}}).accepted
    assert admission.patch(f"{in_second_stage}/status", {"status": {"stages": BEGUN}}).accepted


def test_a_limit_may_be_added_raised_and_removed(admission: Any, running: Callable[..., str]):
    path = running("limits")

    for value in (100, 200, None):
        assert admission.patch(path, {"spec": {"budget": {"activeDeadlineSeconds": value}}}).accepted


def test_fewer_trials_than_run_in_parallel_are_refused(admission: Any, running: Callable[..., str]):
    path = running("shrinking", budget={"maxTrials": 10, "parallelTrials": 4})

    verdict = admission.patch(path, {"spec": {"budget": {"maxTrials": 3}}})

    assert "spec.budget.parallelTrials: Invalid value: must be at most maxTrials (3), not 4" in verdict.text


@pytest.fixture
def trial() -> dict[str, Any]:
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "Trial",
        "metadata": {"name": "digits-abcde-3"},
        "spec": {
            "index": 3,
            "candidate": 3,
            "lead": 3,
            "fidelity": {"epochs": 1},
            "parameters": [{"name": "resolution", "value": "8"}],
        },
    }


def test_a_trial_never_changes_but_in_its_status(admission: Any, trial: dict[str, Any]):
    path = f"{TRIALS}/{trial['metadata']['name']}"
    created = admission.create(trial, dry=False)
    assert created.accepted, created.text
    try:
        parameters = deepcopy(trial["spec"]["parameters"])
        parameters[0]["value"] = "16"
        spec = admission.patch(path, {"spec": {"parameters": parameters}})
        status = admission.patch(f"{path}/status", {"status": {"outcome": "Failed", "attempt": 1}})
        unknown = admission.patch(f"{path}/status", {"status": {"outcome": "Lost"}})
    finally:
        admission.delete(path)

    assert "spec: Invalid value: must not change after creation" in spec.text
    assert status.accepted
    assert status.document["status"] == {"outcome": "Failed", "attempt": 1}
    assert 'status.outcome: Unsupported value: "Lost"' in unknown.text
