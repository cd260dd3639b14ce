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
    ],
)
def test_the_two_lists_name_every_field_of_the_spec(kind: str, frozen: set[str]):
    (definition,) = [custom_resource_definition(known) for known in KINDS if known.kind == kind]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = schema["properties"]["spec"]["properties"]
    every = {name for name in spec if name != "budget"}
    every |= {f"budget.{name}" for name in spec["budget"]["properties"]}

    assert every == MAY_CHANGE.keys() | frozen


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
