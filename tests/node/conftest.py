"""A control plane without a node, and a node beside it that tests may kill and start again."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import pytest
import yaml
from tests.node.running_node import Pods, RunningNode, wait_until

from nascale.local.instance import LocalCluster
from nascale.local.node import provisioner
from nascale.local.node.teardown import remove_everything


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster("pods", root=tmp_path_factory.mktemp("clusters"))
    try:
        made.up({"node": False, "prometheus": False}, report=print)
        made.end_with(os.getpid())
        # The cluster does this where it runs the node itself.
        made.kubectl(
            *("create", "clusterrolebinding", "test-logs", "--clusterrole=system:kubelet-api-admin"),
            "--user=kube-apiserver-kubelet-client",
        )
        made.kubectl(
            "apply", "-f", "-", stdin=yaml.safe_dump_all(provisioner.manifests(f"nascale-{made.name}"))
        )
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def node(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    running = RunningNode(cluster, tmp_path_factory.mktemp("node"))
    running.start()
    try:
        wait_until("node ready", lambda: "True" in _readiness(cluster, running.name))
        yield running
    finally:
        running.end(signal.SIGTERM)
        remove_everything(running.state)


def _readiness(cluster: LocalCluster, name: str) -> str:
    path = "{.status.conditions[?(@.type=='Ready')].status}{.spec.taints}"
    return cluster.kubectl("get", "node", name, "--ignore-not-found", "-o", f"jsonpath={path}")


@pytest.fixture
def pods(cluster: LocalCluster, node: RunningNode) -> Iterator[Pods]:  # noqa: ARG001  the node runs them
    """An empty namespace on a cluster with a running node."""
    namespace = f"pods-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace)
    made = Pods(cluster, namespace)
    account = lambda: made.kubectl("get", "serviceaccount", "default", "--ignore-not-found")  # noqa: E731
    wait_until("service account", account)
    yield made
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
