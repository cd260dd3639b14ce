"""Sweeps on a real cluster: what tests apply, look at and wait for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.operator.searches import Namespace, wait_until

FORMULA_TRIAL = """
import math
import os
import time
from nascale_trainer import load_work_order, report
order = load_work_order()
time.sleep(float(os.environ["SECONDS_TO_SLEEP"]))
results = {}
for candidate in order.candidates:
    if candidate.architecture is not None:
        stages = candidate.architecture.stages
        layers = sum(stage.depth for stage in stages)
        width = sum(stage.channels for stage in stages)
        context = candidate.architecture.resolution
    else:
        layers, width, context = (candidate.parameters[name] for name in ("layers", "width", "context"))
    work = layers * width * width * context
    values = {
        "latency_p50_seconds": 0.0001 * layers + 1e-9 * work + 1e-7 * context,
        "accuracy": 1.0 - 0.4 / math.log(work) ** 0.5 - 0.3 / math.log(width * width),
    }
    results[candidate.trial] = {name: values[name] for name in order.metrics}
report(order, results)
"""
"""Latency and quality follow from the sizes, so that every run of a sweep finds the same family."""


def formula_sweep(name: str, *, sleep: str = "0", **spec: Any) -> dict[str, Any]:
    """Return a sweep of a model whose latency is computed; keywords replace fields of its spec, those of
    ``budget`` are merged."""
    budget = {"maxTrials": 200, "parallelTrials": 2, "trialsPerPod": 4, **spec.pop("budget", {})}
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "ScalingSweep",
        "metadata": {"name": name},
        "spec": {
            "base": {
                "parameters": [
                    {"name": "layers", "value": 4, "scaledBy": "Depth"},
                    {"name": "width", "value": 64, "scaledBy": "Width", "multipleOf": 8},
                    {"name": "context", "value": 64, "scaledBy": "Resolution", "multipleOf": 8},
                ]
            },
            "family": [{"name": "s", "latencyMultiple": "1.5"}, {"name": "m", "latencyMultiple": "3"}],
            "target": {"resources": {"requests": {"cpu": "10m"}}},
            "objectives": [
                {"metric": "accuracy", "direction": "Maximize"},
                {"metric": "latency_p50_seconds", "direction": "Minimize"},
            ],
            "exploration": {"seed": 11, "vectors": 3, "trainedVectors": 2, "finalists": 1},
            "budget": budget,
            "trialTemplate": {
                "image": "busybox:1.37",
                "command": ["python", "-c"],
                "args": [FORMULA_TRIAL],
                "env": [{"name": "SECONDS_TO_SLEEP", "value": sleep}],
                "terminationGracePeriodSeconds": 1,
            },
            **spec,
        },
    }


def found_sweep(namespace: Namespace, name: str) -> dict[str, Any]:
    """Return a sweep."""
    return dict(json.loads(namespace.kubectl("get", "scalingsweeps", name, "-o", "json")))


def said(namespace: Namespace, name: str, kind: str) -> dict[str, Any]:
    """Return a condition of a sweep; empty where it is not there."""
    conditions = found_sweep(namespace, name).get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind), {})


def wait_for(
    namespace: Namespace, name: str, kind: str, *, status: str = "True", seconds: float = 180.0
) -> dict[str, Any]:
    """Wait for a condition of a sweep."""
    return dict(
        wait_until(
            lambda: (found := said(namespace, name, kind)).get("status") == status and found,
            seconds=seconds,
            what=f"{kind}={status} of {name}",
        )
    )


def networks(status: Mapping[str, Any]) -> list[Any]:
    """Return the members of a sweep's family, each with its multipliers and sizes."""
    return [
        (member["name"], member["depth"], member["width"], member["resolution"], member.get("parameters"))
        for member in status["family"]
    ]
