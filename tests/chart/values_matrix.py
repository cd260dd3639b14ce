"""Values of the chart that, taken together, render each of its objects and each of their optional parts."""

from __future__ import annotations

from typing import Any, Final

EVERYTHING: Final[dict[str, Any]] = {
    "monitoring__podMonitor__enabled": True,
    "monitoring__serviceMonitor__enabled": True,
    "monitoring__prometheusRule__enabled": True,
    "networkPolicy__enabled": True,
    "podDisruptionBudget__enabled": True,
}

MATRIX: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "crds-lost": {"crds__keep": False},
    "namespaced": {"namespaces": ["default"]},
    "everything": {
        "fullnameOverride": "searches",
        "podLabels": {"team": "a"},
        "podAnnotations": {"note": "b"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccount__annotations": {"a": "b"},
        "commonLabels": {"owner": "platform"},
    },
    "two-replicas": {
        "replicas": 2,
        "podDisruptionBudget__enabled": True,
        "networkPolicy__enabled": True,
        "monitoring__dashboards__enabled": True,
    },
    "closed": {
        "namespaces": ["default"],
        "prometheus__url": "http://prometheus.monitoring:9090",
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
    },
    "monitored": {
        **EVERYTHING,
        "monitoring__podMonitor__labels": {"release": "kube"},
        "monitoring__serviceMonitor__labels": {"release": "kube"},
        "monitoring__prometheusRule__labels": {"release": "kube"},
        "monitoring__dashboards__enabled": True,
    },
    "monitored-namespaced": {**EVERYTHING, "namespaces": ["default"], "commonLabels": {"owner": "platform"}},
    "least": {
        "crds__enabled": False,
        "metrics__service__enabled": False,
        "leaderElection__enabled": False,
        "rbac__create": False,
        "rbac__aggregate": False,
        "serviceAccount__create": False,
        "serviceAccount__name": "own",
    },
}
"""Each case's name and what it sets, ``a__b`` for ``a.b``."""
