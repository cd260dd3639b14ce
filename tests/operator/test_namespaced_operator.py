"""An operator that may see one namespace, and has rights nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.operator.searches import Namespace, shell_search, wait_until

from nascale.local.instance import LocalCluster
from nascale.local.kubeconfig import with_token

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RULES = Path(__file__).parents[2] / "charts" / "nascale" / "files" / "operator-rules.yaml"


def grant(namespace: Namespace) -> str:
    """Give an account the operator's rights within the namespace; return a token of it."""
    namespace.kubectl("create", "serviceaccount", "operator")
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "operator"}}
    namespace.apply({**role, "rules": yaml.safe_load(RULES.read_text())})
    namespace.kubectl(
        "create", "rolebinding", "operator", "--role=operator", f"--serviceaccount={namespace.name}:operator"
    )
    return namespace.kubectl("create", "token", "operator").strip()


@pytest.fixture
def operator_of_namespace(
    namespace: Namespace, operator_cluster: LocalCluster, tmp_path: Path
) -> Iterator[subprocess.Popen]:
    operator_cluster.stop("operator")
    kubeconfig = tmp_path / "kubeconfig"
    with_token(
        kubeconfig,
        name="namespaced",
        server=f"https://127.0.0.1:{operator_cluster.port('kube-apiserver')}",
        authority=operator_cluster.layout.pki / "ca.crt",
        token=grant(namespace),
        namespace=namespace.name,
    )
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "NASCALE_NAMESPACES": namespace.name,
        "NASCALE_OPERATOR_PORT": "0",
        "NASCALE_LOG_FORMAT": "json",
    }
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "nascale.handlers.run"], env=environment, stdout=log, stderr=log
    )
    process.log_path = tmp_path / "log"
    yield process
    process.terminate()
    assert process.wait(30) == 0
    log.close()
    operator_cluster.up()


def test_it_serves_its_namespace_and_no_other(
    operator_of_namespace: subprocess.Popen, namespace: Namespace, operator_cluster: LocalCluster
):
    other = Namespace(operator_cluster, "default")
    other.apply(shell_search("elsewhere", trials=1))
    namespace.apply(shell_search("here", trials=3))
    namespace.wait_for("here", "Succeeded")
    assert "status" not in other.search("elsewhere")
    other.kubectl("delete", "nas", "elsewhere")
    assert operator_of_namespace.poll() is None
    lines = [json.loads(line) for line in operator_of_namespace.log_path.read_text().splitlines()]
    messages = [line["message"] for line in lines]
    assert "ready" in messages
    assert not [line for line in lines if line["severity"] in ("error", "warn", "warning")], messages


def test_it_ends_cleanly_when_told_to(operator_of_namespace: subprocess.Popen, namespace: Namespace):
    namespace.apply(shell_search("s", trials=30, parallel=2))
    wait_until(lambda: len(namespace.items("trials")) >= 3, what="trials")
    operator_of_namespace.terminate()
    assert operator_of_namespace.wait(30) == 0
    text = operator_of_namespace.log_path.read_text()
    assert "Traceback" not in text
    assert "never retrieved" not in text
