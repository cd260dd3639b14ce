"""Prometheus in the embedded cluster: what it scrapes, and the few rights that it needs for that."""

from __future__ import annotations

from typing import Any, Final

import yaml

from nascale.api.names import LABEL_GENERATION, LABEL_SEARCH, LABEL_SWEEP, LABEL_TRAINING, LABEL_TRIAL
from nascale.local import access
from nascale.local.api_server import ApiServer
from nascale.local.certificates import LOOPBACK, write_private
from nascale.local.layout import Layout

ACCOUNT: Final = "prometheus"
ROLE: Final = "nascale-local-prometheus"
LONGEST_TIMEOUT_SECONDS: Final = 10.0
"""Prometheus' default time-out of a scrape; it must not exceed the interval."""
_OPERATOR_LABELS: Final = [
    "__meta_kubernetes_pod_label_app_kubernetes_io_name",
    "__meta_kubernetes_pod_label_app_kubernetes_io_component",
]
POD_LABELS: Final = (LABEL_SEARCH, LABEL_SWEEP, LABEL_TRIAL, LABEL_TRAINING, LABEL_GENERATION)


def grant_access(api: ApiServer, layout: Layout) -> None:
    """Give Prometheus an account that may list and watch pods, and nothing else, and a token of it."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    labels = {"app.kubernetes.io/name": ACCOUNT, "app.kubernetes.io/part-of": "nascale-local"}
    access.apply_all(api, access.account(ACCOUNT, role=ROLE, rules=rules, labels=labels))
    layout.prometheus_token.parent.mkdir(parents=True, exist_ok=True)
    path = layout.prometheus_token
    before = path.read_text() if path.exists() else None
    token = access.current_token(api, ACCOUNT, before)
    if token != before:
        # Prometheus reads the file anew for each request.
        write_private(path, token.encode())


def write_configuration(
    layout: Layout, *, api_port: int, own_port: int, operator_port: int | None, scrape_seconds: float
) -> None:
    """Write Prometheus' configuration.

    Args:
        layout: The cluster's folder.
        api_port: The API server's port.
        own_port: Prometheus' own port.
        operator_port: The port of the operator's ``/metrics``; None if no operator runs here.
        scrape_seconds: Time between two scrapes of one target.
    """
    jobs = [
        _pods(layout, api_port),
        # Its series are about objects of other namespaces than its pods' own.
        {**_pods(layout, api_port, operators="keep"), "job_name": "operator-pods", "honor_labels": True},
        {"job_name": "prometheus", "static_configs": [{"targets": [f"{LOOPBACK}:{own_port}"]}]},
    ]
    if operator_port is not None:
        jobs.append(
            {
                "job_name": "nascale-operator",
                "static_configs": [{"targets": [f"{LOOPBACK}:{operator_port}"]}],
            }
        )
    timeout = min(scrape_seconds, LONGEST_TIMEOUT_SECONDS)
    document = {
        "global": {"scrape_interval": _duration(scrape_seconds), "scrape_timeout": _duration(timeout)},
        "scrape_configs": jobs,
    }
    write_private(layout.prometheus_config, yaml.safe_dump(document, sort_keys=False).encode())


def _pods(layout: Layout, api_port: int, operators: str = "drop") -> dict[str, Any]:
    """The scrape job for pods with the ``prometheus.io/...`` annotations, as most clusters have it.

    Operators' pods are left out, or with ``keep`` are the only ones.
    """
    return {
        "job_name": "pods",
        "kubernetes_sd_configs": [
            {
                "role": "pod",
                "api_server": f"https://{LOOPBACK}:{api_port}",
                "authorization": {"credentials_file": str(layout.prometheus_token)},
                "tls_config": {"ca_file": str(layout.pki / "ca.crt")},
            }
        ],
        "relabel_configs": [
            _keep("__meta_kubernetes_pod_annotation_prometheus_io_scrape", "true"),
            {"source_labels": _OPERATOR_LABELS, "action": operators, "regex": "nascale;operator"},
            # An ended pod's address may belong to the next pod already.
            {
                "source_labels": ["__meta_kubernetes_pod_phase"],
                "action": "drop",
                "regex": "Succeeded|Failed",
            },
            {
                "source_labels": [
                    "__meta_kubernetes_pod_ip",
                    "__meta_kubernetes_pod_annotation_prometheus_io_port",
                ],
                "separator": ":",
                "regex": r"(.+:\d+)",
                "target_label": "__address__",
            },
            _copy("__meta_kubernetes_pod_annotation_prometheus_io_path", "__metrics_path__"),
            _copy("__meta_kubernetes_pod_annotation_prometheus_io_scheme", "__scheme__"),
            _copy("__meta_kubernetes_namespace", "namespace"),
            _copy("__meta_kubernetes_pod_name", "pod"),
            _copy("__meta_kubernetes_pod_node_name", "node"),
            *(_copy(f"__meta_kubernetes_pod_label_{_label(name)}", _label(name)) for name in POD_LABELS),
        ],
    }


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _keep(source: str, value: str) -> dict[str, Any]:
    return {"source_labels": [source], "action": "keep", "regex": value}


def _copy(source: str, target: str) -> dict[str, Any]:
    """Copy a label that is there and not empty."""
    return {"source_labels": [source], "regex": "(.+)", "target_label": target}


def _label(name: str) -> str:
    """Turn a Kubernetes label's name into Prometheus' form of it."""
    return name.translate(str.maketrans("./-", "___"))
