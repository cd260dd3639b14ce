"""Clusters that benchmarks run on: the embedded node, or a real kubelet with containerd."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from nascale.local import binaries
from nascale.local.components import node_name
from nascale.local.instance import LocalCluster
from nascale.local.products import KUBELET
from real_node import real_node

CAPACITY = "cpu=16,memory=16Gi"
"""More than the machine has: no-op trials must wait for our own pace, not for the scheduler's bookkeeping."""


def say(line: str) -> None:
    """Report progress where it does not mix with figures."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def embedded(*, operator: bool = True, prometheus: bool = False) -> Iterator[LocalCluster]:
    """Run an embedded cluster with the operator until the block ends."""
    with TemporaryDirectory(prefix="nascale-benchmark-") as root:
        cluster = LocalCluster("embedded", root=Path(root))
        try:
            cluster.up({"operator": operator, "prometheus": prometheus, "capacity": CAPACITY}, report=say)
            cluster.end_with(os.getpid())
            yield cluster
        finally:
            cluster.down()


@contextlib.contextmanager
def real_kubelet(*, operator: bool = True) -> Iterator[LocalCluster]:
    """Run the same control plane and operator with a real kubelet as its only node.

    Raises:
        RuntimeError: this machine can't (``real_node.missing`` says why).
    """
    kubelet = binaries.ensure([KUBELET], report=say)["kubelet"]
    with TemporaryDirectory(prefix="nascale-benchmark-") as root:
        cluster = LocalCluster("real", root=Path(root))
        try:
            state = cluster.up({"operator": operator, "prometheus": False, "node": False}, report=say)
            cluster.end_with(os.getpid())
            layout = cluster.layout
            folder = Path(root) / "node"
            folder.mkdir()
            kubeconfig = layout.component_kubeconfig("node")
            with real_node(kubelet, kubeconfig, layout.pki / "ca.crt", folder, node_name(state)):
                _wait_for_node(cluster)
                yield cluster
        finally:
            cluster.down()


def _wait_for_node(cluster: LocalCluster, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while " Ready" not in cluster.kubectl("get", "nodes", "--no-headers"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the real node must be ready within {seconds:.0f} s")
        time.sleep(0.5)
