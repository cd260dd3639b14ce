"""The cluster that a demo runs on: the embedded one, or the one of the user's kubeconfig."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from nascale.cli.kubectl import Kubectl
from nascale.local import binaries, operator_process
from nascale.local.access import SYSTEM_NAMESPACE
from nascale.local.go_builds import Report
from nascale.local.instance import LocalCluster
from nascale.local.products import KUBECTL

CLUSTER_NAME: Final = "demo"
TOKEN_HOURS: Final = 12


@dataclass(frozen=True)
class DemoCluster:
    """Where the demo runs.

    Attributes:
        kubectl: With the rights of whoever runs the demo.
        prometheus_url: For people and for the operator; ``None`` where there is none.
        next_steps: Commands to go on with, each with what it does.
    """

    kubectl: Kubectl
    prometheus_url: str | None
    next_steps: tuple[tuple[str, str], ...]


def embedded(report: Report) -> DemoCluster:
    """Bring up (or repair) the embedded cluster with the operator."""
    cluster = LocalCluster(CLUSTER_NAME)
    cluster.up({"operator": True, "prometheus": True, "node": True}, report=report)
    kubectl = Kubectl(binaries.ensure([KUBECTL], report=report)["kubectl"], cluster.kubeconfig)
    here = Path(sys.executable).with_name("nascale")
    return DemoCluster(
        kubectl,
        cluster.prometheus_url,
        (
            (f"export KUBECONFIG={cluster.kubeconfig}", "use this cluster with kubectl"),
            (f"{here} local logs operator --name {CLUSTER_NAME}", "what the operator did"),
            (f"{here} local down --name {CLUSTER_NAME}", "stop it all and remove it"),
        ),
    )


@contextlib.contextmanager
def current(prometheus_url: str | None, trainer_image: str | None, report: Report) -> Iterator[DemoCluster]:
    """Use the cluster of the current kubeconfig, and its operator if one is installed there.

    Without one, the CRDs and the operator's account and rights are applied, and the operator runs as a
    process of this machine, under that account, until the demo ends.
    """
    kubectl = Kubectl(binaries.ensure([KUBECTL], report=report)["kubectl"])
    report(f"using the cluster of context {kubectl.run('config', 'current-context').strip()}")
    steps = (("kubectl get nas,trials --all-namespaces", "what is there"),)
    found = DemoCluster(kubectl, prometheus_url, steps)
    if _operator_installed(kubectl):
        report("an operator is installed there: using it")
        yield found
        return
    source = operator_process.source_directory()
    crds = f"--filename={source / 'crds'}"
    kubectl.run("apply", "--server-side", "--force-conflicts", crds)
    kubectl.run("wait", "--for=condition=Established", "--timeout=60s", crds)
    rules = operator_process.operator_rules(source)
    kubectl.apply(*operator_process.account_manifests(rules))
    with TemporaryDirectory(prefix="nascale-demo-") as folder:
        kubeconfig = _operator_kubeconfig(kubectl, Path(folder) / "operator.yaml")
        with _operator_process(kubeconfig, prometheus_url, trainer_image, report):
            yield found


def _operator_installed(kubectl: Kubectl) -> bool:
    found = kubectl.get("deployments", "--all-namespaces", "--selector=app.kubernetes.io/name=nascale")
    return any(item.get("status", {}).get("readyReplicas") for item in found["items"])


def _operator_kubeconfig(kubectl: Kubectl, path: Path) -> Path:
    """Write a kubeconfig that holds the operator's token and nothing else."""
    token = kubectl.run(
        "create",
        "token",
        operator_process.ACCOUNT,
        f"--namespace={SYSTEM_NAMESPACE}",
        f"--duration={TOKEN_HOURS}h",
    ).strip()
    config: dict[str, Any] = json.loads(
        kubectl.run("config", "view", "--minify", "--flatten", "--output=json")
    )
    context = config["contexts"][0]
    context["context"] = {"cluster": context["context"]["cluster"], "user": "nascale-operator"}
    config["users"] = [{"name": "nascale-operator", "user": {"token": token}}]
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


@contextlib.contextmanager
def _operator_process(
    kubeconfig: Path, prometheus_url: str | None, trainer_image: str | None, report: Report
) -> Iterator[None]:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "NASCALE_OPERATOR_PORT": "0"}
    if prometheus_url:
        environment["NASCALE_PROMETHEUS_URL"] = prometheus_url
    if trainer_image:
        environment["NASCALE_TRAINER_IMAGE"] = trainer_image
    log = Path.cwd() / "nascale-operator.log"
    report(f"no operator is installed there: running one from here until the demo ends (log: {log})")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nascale.handlers.run"],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
