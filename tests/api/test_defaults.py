"""The API server's defaults and those of the Python models are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nascale.api.custom_resource_definition import KINDS
from nascale.api.optimization import Divergence, Evaluation, Optimizer, RunCheckpoints
from nascale.api.resource import ApiModel
from nascale.contract.run_order import CheckpointOrder, DivergenceOrder, EvaluationOrder, OptimizerOrder

pytestmark = pytest.mark.cluster

VALID = sorted((Path(__file__).parent / "corpus" / "valid").rglob("*.yaml"))
MODELS = {kind.kind: kind.model for kind in KINDS}


def _spec(document: dict[str, Any]) -> ApiModel:
    """Read an object with its kind's model; return its spec."""
    whole: Any = MODELS[document["kind"]].model_validate(
        {**document, "metadata": {"namespace": "default", **document["metadata"]}}
    )
    spec: ApiModel = whole.spec
    return spec


def _said(value: Any) -> Any:
    """Drop empty lists, maps and texts: the API server does not store them, and they mean absent."""
    if isinstance(value, dict):
        kept = {key: _said(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry not in ({}, [], "")}
    return [_said(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_the_stored_object_is_what_the_model_makes_of_the_written_one(path: Path, admission: Any):
    written = yaml.safe_load(path.read_text())

    stored = admission.create(written).document

    assert _spec(stored) == _spec(written)


def test_the_api_server_fills_in_every_default_of_the_model(admission: Any, minimal: dict[str, Any]):
    stored = admission.create(minimal).document

    assert _said(stored["spec"]) == _said(_spec(minimal).to_dict())
    # A few by name, so that both sides can't lose one together.
    assert stored["spec"]["algorithm"] == {"name": "Adaptive", "seed": 0}
    assert stored["spec"]["budget"]["parallelTrials"] == 1
    assert stored["spec"]["fidelities"] == {
        "levels": [{"epochs": 1, "dataFraction": "1"}],
        "reductionFactor": 3,
    }
    assert stored["spec"]["objectives"][0]["source"] == "Report"
    assert stored["spec"]["suspend"] is False
    assert stored["spec"]["trainingData"]["validationFraction"] == "0.2"


def test_the_api_server_fills_in_every_default_of_a_sweep(admission: Any, minimal_sweep: dict[str, Any]):
    stored = admission.create(minimal_sweep).document["spec"]

    assert _said(stored) == _said(_spec(minimal_sweep).to_dict())
    # A few by name, so that both sides can't lose one together.
    assert stored["coefficients"] == {
        "mode": "Compound",
        "depth": {"min": "1", "max": "1.5"},
        "width": {"min": "1", "max": "1.4"},
        "resolution": {"min": "1", "max": "1.3"},
    }
    assert stored["baselines"] == ["EfficientNet"]
    assert stored["budget"]["trialsPerPod"] == 8
    assert stored["exploration"]["toleranceRatio"] == "0.05"


def test_the_api_server_fills_in_every_default_of_a_training(
    admission: Any, minimal_training: dict[str, Any]
):
    stored = admission.create(minimal_training).document["spec"]

    assert _said(stored) == _said(_spec(minimal_training).to_dict())
    # A few by name, so that both sides can't lose one together.
    assert stored["optimizer"] == {
        "name": "AdamW",
        "learningRate": "0.003",
        "course": "Cosine",
        "warmUp": "0.05",
        "batchRule": "Linear",
        "baseBatch": 64,
        "averageDecay": "0",
    }
    assert stored["checkpoints"] == {"everySeconds": 300, "keep": 2}
    assert stored["divergence"] == {"action": "RollBack", "mostRollBacks": 2}
    assert stored["restarts"]["startTimeoutSeconds"] == 600
    assert stored["volume"]["path"] == "nascale"
    # A stage holds what was written: what it leaves out comes from spec.defaults, later.
    assert stored["stages"] == [{"name": "all"}]


def test_the_contract_s_defaults_of_what_holds_for_all_stages_are_the_same():
    for part, order in (
        (Optimizer(), OptimizerOrder()),
        (RunCheckpoints(), CheckpointOrder()),
        (Divergence(), DivergenceOrder()),
        (Evaluation(), EvaluationOrder()),
    ):
        ours = part.model_dump(mode="json")
        theirs = order.model_dump(mode="json")
        numbers = {name: float(v) if isinstance(theirs[name], float) else v for name, v in ours.items()}
        assert numbers == theirs


def test_a_sweep_without_baselines_stays_without(admission: Any, minimal_sweep: dict[str, Any]):
    written = {**minimal_sweep, "spec": {**minimal_sweep["spec"], "baselines": []}}

    assert admission.create(written).document["spec"]["baselines"] == []


def test_a_part_that_is_given_in_part_gets_the_rest_of_its_defaults(admission: Any, minimal: dict[str, Any]):
    spec = {
        **minimal["spec"],
        "target": {"batchSize": 8},
        "measurement": {"minCalls": 50},
        "trialTemplate": {"volumes": [{"name": "a", "mountPath": "/a", "emptyDir": {}}]},
    }
    written = {**minimal, "spec": spec}

    stored = admission.create(written).document

    assert stored["spec"]["target"]["precision"] == "FP32"
    assert stored["spec"]["measurement"]["maxSpreadRatio"] == "0.1"
    assert stored["spec"]["trialTemplate"]["volumes"][0]["readOnly"] is False
    assert _spec(stored) == _spec(written)


def test_the_defaults_of_a_trial_are_the_same(admission: Any):
    written = {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "Trial",
        "metadata": {"name": "t", "namespace": "default"},
        "spec": {
            "index": 0,
            "candidate": 0,
            "lead": 0,
            "fidelity": {"epochs": 1},
            "parameters": [{"name": "a", "value": "1"}],
        },
    }

    stored = admission.create(written).document

    assert _said(stored["spec"]) == _said(_spec(written).to_dict())
    assert stored["spec"]["rung"] == 0
    assert not {"purpose", "member", "repeat", "remeasures"} & stored["spec"].keys()


def test_a_sweep_s_trial_says_what_it_is_for(admission: Any):
    spec = {
        "index": 4,
        "candidate": 2,
        "lead": 3,
        "fidelity": {"epochs": 0, "dataFraction": "1"},
        "parameters": [{"name": "depth", "value": "1.2"}],
        "purpose": "Latency",
        "member": "s",
        "repeat": 0,
        "remeasures": 1,
    }
    metadata = {"name": "t", "namespace": "default"}
    written = {"apiVersion": "nascale.io/v1alpha1", "kind": "Trial", "metadata": metadata, "spec": spec}

    stored = admission.create(written).document

    assert stored["spec"] == {**spec, "rung": 0}
    assert _said(_spec(stored).to_dict()) == stored["spec"]


def test_a_status_holds_what_was_written_and_nothing_else(admission: Any, running: Any):
    path = running("plain-status")

    verdict = admission.patch(f"{path}/status", {"status": {"finished": 1, "trials": {"succeeded": 1}}})

    assert verdict.document["status"] == {"finished": 1, "trials": {"succeeded": 1}}
