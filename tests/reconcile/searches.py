"""Searches to plan for: small, valid, and changed where a test says so."""

from __future__ import annotations

import copy
from typing import Any

Document = dict[str, Any]

_BASE: Document = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ArchitectureSearch",
    "metadata": {"name": "digits", "namespace": "default", "uid": "owner-uid", "generation": 1},
    "spec": {
        "space": {
            "parameters": [
                {"name": "width", "integer": {"min": 1, "max": 50}},
                {"name": "activation", "categorical": {"values": ["relu", "silu"]}},
            ]
        },
        "objectives": [
            {"metric": "accuracy", "direction": "Maximize"},
            {"metric": "latency_p50_seconds", "direction": "Minimize"},
        ],
        "algorithm": {"name": "Random"},
        "budget": {"maxTrials": 6, "parallelTrials": 2},
        "trialTemplate": {"image": "example.com/trial:1", "command": ["measure"]},
    },
}

_MBCONV: Document = {
    "mbconv": {
        "stages": [{"channels": [16, 24], "stride": 2}, {"channels": [32, 48], "stride": 2}],
        "resolutions": [16, 24],
    }
}


def search(*, labels: dict[str, str] | None = None, **spec: Any) -> Document:
    """Return a search of the user's own parameters; keywords replace fields of its spec, and ``budget``'s
    are merged."""
    document = copy.deepcopy(_BASE)
    budget = spec.pop("budget", {})
    document["spec"].update(spec)
    document["spec"]["budget"].update(budget)
    document["spec"] = {key: value for key, value in document["spec"].items() if value is not None}
    if labels is not None:
        document["metadata"]["labels"] = labels
    return document


def built_in_search(**spec: Any) -> Document:
    """Return a search of the built-in space with the built-in trainer."""
    given = {"space": copy.deepcopy(_MBCONV), "trainingData": {"embedded": "Digits"}, "trialTemplate": None}
    return search(**{**given, **spec})


def from_prometheus(**changes: Any) -> list[Document]:
    """Return objectives of which the latency is read from Prometheus."""
    latency = {"metric": "latency_p50_seconds", "direction": "Minimize", "source": "Prometheus", **changes}
    return [{"metric": "accuracy", "direction": "Maximize"}, latency]
