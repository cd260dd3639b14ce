"""Sweeps to plan for, and a device that measures their networks: both small."""

from __future__ import annotations

import copy
import math
from typing import Any

from nascale.contract.architecture import Architecture

Document = dict[str, Any]

ARCHITECTURE: Document = {
    "version": "nascale.io/architecture/v1",
    "space": "mbconv",
    "stem": {"channels": 8, "stride": 2},
    "stages": [
        {"block": "MBConv", "kernel": 3, "stride": 1, "expansion": 2, "channels": 16, "depth": 1},
        {"block": "MBConv", "kernel": 3, "stride": 2, "expansion": 2, "channels": 24, "depth": 2},
    ],
    "head": {"channels": 64},
    "resolution": 32,
}

_BASE: Document = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ScalingSweep",
    "metadata": {"name": "family", "namespace": "default", "uid": "owner-uid", "generation": 1},
    "spec": {
        "base": {
            "parameters": [
                {"name": "layers", "value": 4, "scaledBy": "Depth"},
                {"name": "width", "value": 64, "scaledBy": "Width", "multipleOf": 8},
                {"name": "context", "value": 64, "scaledBy": "Resolution", "multipleOf": 8},
            ]
        },
        "family": [
            {"name": "s", "latencyMultiple": "1.5"},
            {"name": "m", "latencyMultiple": "3"},
        ],
        "target": {"resources": {"limits": {"cpu": "1"}}},
        "objectives": [
            {"metric": "accuracy", "direction": "Maximize"},
            {"metric": "latency_p50_seconds", "direction": "Minimize"},
        ],
        "exploration": {"vectors": 3, "trainedVectors": 2, "finalists": 1},
        "budget": {"maxTrials": 200, "parallelTrials": 2, "trialsPerPod": 4},
        "trialTemplate": {"image": "example.com/trial:1", "command": ["train"]},
    },
}


def sweep(*, labels: dict[str, str] | None = None, name: str = "family", **spec: Any) -> Document:
    """Return a sweep of the user's own sizes; keywords replace fields of its spec, ``None`` removes them,
    and those of ``budget`` and ``exploration`` are merged."""
    document = copy.deepcopy(_BASE)
    for merged in ("budget", "exploration"):
        document["spec"][merged].update(spec.pop(merged, {}))
    document["spec"].update(copy.deepcopy(spec))
    document["spec"] = {key: value for key, value in document["spec"].items() if value is not None}
    document["metadata"]["name"] = name
    if labels is not None:
        document["metadata"]["labels"] = labels
    return document


def network_sweep(**spec: Any) -> Document:
    """Return a sweep of a network of the built-in space with the built-in trainer."""
    given: Document = {
        "base": {"architecture": ARCHITECTURE},
        "trainingData": {"embedded": "Digits"},
        "trialTemplate": None,
    }
    return sweep(**{**given, **spec})


def searched_sweep(search: str = "digits", **spec: Any) -> Document:
    """Return a sweep of the base network that a search finds."""
    return network_sweep(base={"searchName": search}, **spec)


def ended_search(name: str = "digits", **status: Any) -> Document:
    """Return a search that has found the architecture of these tests; keywords replace fields of its status,
    ``None`` removes them."""
    found: Document = {
        "conditions": [condition("Succeeded", "True", "MaxTrialsReached")],
        "completionTime": "2026-01-01T00:00:00Z",
        "baseNetwork": {
            "trial": f"{name}-12345-7",
            "selection": "Knee",
            "reason": "the knee of the front",
            "metrics": [],
            "parameters": [],
            "architecture": ARCHITECTURE,
        },
        **status,
    }
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "ArchitectureSearch",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-of-{name}"},
        "status": {key: value for key, value in found.items() if value is not None},
    }


def condition(kind: str, status: str, reason: str, message: str = "") -> Document:
    """Return a condition."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def measured(candidate: Document) -> dict[str, float]:
    """Measure and train a candidate: its latency grows with its size, and width pays most.

    The same seed gives the same noise, so that comparisons are paired.
    """
    layers, width, context = sizes_of(candidate)
    work = layers * width * width * context
    latency = 0.0001 * layers + 1e-9 * work + 1e-7 * context
    noise = (candidate.get("seed", 0) % 101) / 100_000
    quality = 1.0 - 0.4 / math.log(work) ** 0.5 - 0.3 / math.log(width * width) + noise
    return {
        "accuracy": round(quality, 6),
        "latency_p50_seconds": round(latency, 9),
        "latency_p90_seconds": round(latency * 1.1, 9),
        "throughput_samples_per_second": round(1 / latency, 3),
        "parameters": float(layers * width * width),
        "flops": float(work),
    }


def sizes_of(candidate: Document) -> tuple[float, float, float]:
    """Return depth, width and resolution of a candidate in units of its own."""
    if candidate.get("architecture") is None:
        parameters = candidate["parameters"]
        return parameters["layers"], parameters["width"], parameters["context"]
    found = Architecture.model_validate(candidate["architecture"])
    depth = sum(stage.depth for stage in found.stages)
    width = sum(stage.depth * stage.channels for stage in found.stages) / depth
    return float(depth), width, float(found.resolution)
