"""A release of the chart on a real kubelet: built images, Pod Security, the chart's own account.

Everything is removed at the end, also where pytest is killed: cluster and node each have a watcher.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.real_node import RealNode, real_node
from tests.e2e import built_images, machine, small_examples
from tests.e2e.installation import SYSTEM, TEAM, Installation
from tests.e2e.relay import relay

from nascale.local import components as parts
from nascale.local.binaries import ensure
from nascale.local.instance import LocalCluster
from nascale.local.products import HELM, KUBELET

CHART = Path(__file__).parents[2] / "charts" / "nascale"
PROMETHEUS_PORT = 9090
GPUS = "2"
say = print
"""Shown by ``-s``."""


@pytest.fixture(scope="session")
def real_machine() -> None:
    """Skip, with the reason, where no real kubelet can run."""
    if reason := machine.reason_to_skip():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def installation(
    real_machine: None,  # noqa: ARG001 - skips
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Build both images, start a cluster with one real node, and install the chart on it."""
    folder = tmp_path_factory.mktemp("e2e")
    say("building both images")
    archives = built_images.build(folder)
    kubelet, helm = ensure([KUBELET], report=say)["kubelet"], ensure([HELM], report=say)["helm"]
    cluster = LocalCluster("e2e", root=folder)
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.down)
        state = cluster.up({"node": False, "operator": False}, owner=os.getpid(), report=say)
        node = stack.enter_context(_node(cluster, kubelet, folder / "node", parts.node_name(state)))
        place = node.place
        subprocess.run(
            ["ip", "address", "add", f"{machine.KUBERNETES_SERVICE[0]}/32", "dev", place.bridge], check=True
        )
        stack.enter_context(relay(*machine.KUBERNETES_SERVICE, cluster.port(parts.API_SERVER)))
        stack.enter_context(relay(place.gateway, PROMETHEUS_PORT, cluster.port(parts.PROMETHEUS)))
        say("bringing the images to the node")
        for archive in archives.values():
            node.load(archive)
        installed = Installation(cluster, node, helm)
        _prepare(installed, folder)
        values = folder / "values.json"
        values.write_text(json.dumps(_values(f"http://{place.gateway}:{PROMETHEUS_PORT}")))
        installed.install(CHART, values)
        yield installed


@contextlib.contextmanager
def _node(cluster: LocalCluster, kubelet: Path, folder: Path, name: str) -> Iterator[RealNode]:
    folder.mkdir()
    kubeconfig, authority = cluster.layout.component_kubeconfig(parts.NODE), cluster.layout.pki / "ca.crt"
    with real_node(kubelet, kubeconfig, authority, folder, name, place=machine.PLACE) as node:
        yield node


def _prepare(installed: Installation, folder: Path) -> None:
    """Wait for the node, pretend GPUs on it, and make namespaces that enforce Pod Security, and volumes."""
    node = installed.node.name

    def ready() -> bool:
        assert installed.node.fault() == ""
        return " Ready " in installed.cluster.kubectl("get", "nodes", node, "--no-headers", check=False)

    installed.wait_until("the node is ready", ready, 180)
    capacity = json.dumps({"status": {"capacity": {"nvidia.com/gpu": GPUS}}})
    installed.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={capacity}")
    for name in (SYSTEM, TEAM):
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        installed.apply(namespace)
    claims = folder / "claims"
    for document in small_examples.volumes(claims):
        path = Path(document["spec"].get("hostPath", {}).get("path", claims))
        if path.parent == claims:
            path.mkdir(parents=True)
            path.chmod(0o777)  # storage that honours fsGroup would belong to the pods' group
        installed.apply(document)


def _values(prometheus: str) -> dict[str, Any]:
    return {
        "image": {"repository": built_images.OPERATOR, "tag": built_images.TAG, "pullPolicy": "Never"},
        "replicas": 2,
        "leaderElection": {"leaseSeconds": 15},
        "prometheus": {"url": prometheus},
        "trials": {"image": f"{built_images.TRAINER}:{built_images.TAG}", "imagePullPolicy": "Never"},
        # As on clusters whose Prometheus finds pods by annotations.
        "podAnnotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9465"},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
    }
