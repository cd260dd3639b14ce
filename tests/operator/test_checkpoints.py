"""Checkpoints on a volume claim: an evicted trial goes on from its last one, and in the end few are kept."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.operator.searches import CLAIM, Namespace, volume_of, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STAGE = {"channels": [8, 16], "kernels": [3], "expansions": [1], "depths": [1], "blocks": ["MBConv"]}
SEARCH: dict[str, Any] = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ArchitectureSearch",
    "metadata": {"name": "kept"},
    "spec": {
        "trainingData": {"embedded": "Digits"},
        "space": {"mbconv": {"stages": [STAGE], "stems": ["Conv"], "resolutions": [8]}},
        "objectives": [
            {"metric": "accuracy", "direction": "Maximize"},
            {"metric": "parameters", "direction": "Minimize"},
        ],
        "fidelities": {"levels": [{"epochs": 60}]},
        "budget": {"maxTrials": 3, "parallelTrials": 1, "trialRetries": 3},
        "measurement": {"minCalls": 20, "minMilliseconds": 0, "maxSpreadRatio": "1"},
        "checkpoints": {"claimName": "checkpoints", "retention": "ParetoFront"},
        "trialTemplate": {"resources": {"limits": {"cpu": "1"}}},
    },
}


def evict(namespace: Namespace, pod: str) -> None:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace.name},
    }
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    namespace.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


@pytest.mark.timeout(600)
def test_an_evicted_trial_goes_on_from_its_checkpoint_and_the_fronts_are_kept(namespace: Namespace) -> None:
    namespace.apply(CLAIM)
    namespace.apply(SEARCH)
    folder = volume_of(namespace)
    wait_until(lambda: any(folder.rglob("epoch-*.json")), seconds=180, what="the first checkpoint")
    (evicted,) = [
        pod["metadata"]["name"] for pod in namespace.items("pods") if pod["status"]["phase"] == "Running"
    ]
    evict(namespace, evicted)
    namespace.wait_for("kept", "Succeeded", seconds=300)

    first, *_ = trials = namespace.trials()
    assert [trial["status"]["outcome"] for trial in trials] == ["Succeeded"] * 3
    assert first["status"]["podName"] != evicted
    assert first["status"].get("ownFailures", 0) == 0
    said = namespace.kubectl("logs", first["status"]["podName"])
    went_on = re.search(r"goes on after epoch (\d+)", said)
    assert went_on is not None, said
    assert 1 <= int(went_on[1]) < 60

    namespace.wait_for("kept", "CheckpointsPruned", seconds=120)
    status = namespace.search("kept")["status"]
    front = {point["trial"] for point in status["front"]}
    kept = {path.parent.name for path in folder.rglob("*.safetensors")}
    assert kept == front | {status["baseNetwork"]["trial"]}
    assert {trial["metadata"]["name"] for trial in trials} >= kept
