"""Helm, and what the chart renders to."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nascale.local.binaries import ensure
from nascale.local.instance import LocalCluster
from nascale.local.products import HELM, KUBECONFORM, PROMETHEUS_OPERATOR_CRDS

CHART = Path(__file__).parents[2] / "charts" / "nascale"
Manifest = dict[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Return a function that runs helm and returns what it said."""
    program = ensure([HELM])["helm"]

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def template(helm: Helm) -> Callable[..., str]:
    """Return a function that renders the chart to text; ``crds__keep=False`` sets the value ``crds.keep``."""

    def run(**values: Any) -> str:
        options = ("--namespace=nascale-system", "--api-versions=monitoring.coreos.com/v1", *settings(values))
        return helm("template", "nascale", str(CHART), *options).stdout

    return run


@pytest.fixture(scope="session")
def render(template: Callable[..., str]) -> Callable[..., list[Manifest]]:
    """Return a function that renders the chart to its manifests."""

    def run(**values: Any) -> list[Manifest]:
        return [
            document for document in yaml.load_all(template(**values), Loader=yaml.CSafeLoader) if document
        ]

    return run


@pytest.fixture(scope="session")
def prometheus_operator_crds() -> list[Manifest]:
    """Return the CRDs of those of the Prometheus Operator's kinds that the chart can render."""
    folder = ensure([KUBECONFORM])["kubeconform"].parent / PROMETHEUS_OPERATOR_CRDS
    return [
        yaml.load((folder / f"monitoring.coreos.com_{plural}.yaml").read_text(), Loader=yaml.CSafeLoader)
        for plural in ("podmonitors", "prometheusrules", "servicemonitors")
    ]


@pytest.fixture(scope="session")
def monitored_control_plane(
    control_plane: LocalCluster, prometheus_operator_crds: list[Manifest]
) -> LocalCluster:
    """Return the control plane with the Prometheus Operator's kinds known to its API server."""
    crds = yaml.safe_dump_all(prometheus_operator_crds)
    control_plane.kubectl("apply", "--server-side", "--filename=-", stdin=crds)
    names = [f"crd/{crd['metadata']['name']}" for crd in prometheus_operator_crds]
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
    return control_plane


def settings(values: dict[str, Any]) -> list[str]:
    """Return helm's options that set these values."""
    return [f"--set-json={key.replace('__', '.')}={json.dumps(value)}" for key, value in values.items()]
