"""The API server's defaults and those of the Python models are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nascale.api.architecture_search import ArchitectureSearch
from nascale.api.trial import Trial

pytestmark = pytest.mark.cluster

VALID = sorted((Path(__file__).parent / "corpus" / "valid").glob("*.yaml"))


def _search(document: dict[str, Any]) -> ArchitectureSearch:
    return ArchitectureSearch.model_validate(
        {**document, "metadata": {"namespace": "default", **document["metadata"]}}
    )


def _said(value: Any) -> Any:
    """Drop empty lists, maps and texts: the API server does not store them, and they mean absent."""
    if isinstance(value, dict):
        kept = {key: _said(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry not in ({}, [], "")}
    return [_said(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_the_stored_search_is_what_the_model_makes_of_the_written_one(path: Path, admission: Any):
    written = yaml.safe_load(path.read_text())

    stored = admission.create(written).document

    assert _search(stored).spec == _search(written).spec


def test_the_api_server_fills_in_every_default_of_the_model(admission: Any, minimal: dict[str, Any]):
    stored = admission.create(minimal).document

    assert _said(stored["spec"]) == _said(_search(minimal).spec.to_dict())
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
    assert _search(stored).spec == _search(written).spec


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

    assert _said(stored["spec"]) == _said(Trial.model_validate(written).spec.to_dict())
    assert stored["spec"]["rung"] == 0


def test_a_status_holds_what_was_written_and_nothing_else(admission: Any, running: Any):
    path = running("plain-status")

    verdict = admission.patch(f"{path}/status", {"status": {"finished": 1, "trials": {"succeeded": 1}}})

    assert verdict.document["status"] == {"finished": 1, "trials": {"succeeded": 1}}
