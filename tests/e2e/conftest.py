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
from benchmarks.real_node import Place, RealNode, real_node
from tests.e2e import built_images, machine, small_examples
from tests.e2e.cluster_dns import cluster_dns
from tests.e2e.installation import METRICS_PORT, METRICS_SERVICE, SYSTEM, TEAM, Installation
from tests.e2e.relay import loopback, relay

from nascale.local import components as parts
from nascale.local.binaries import ensure
from nascale.local.certificates import Authority
from nascale.local.instance import LocalCluster
from nascale.local.kubeconfig import with_certificate
from nascale.local.products import HELM, KUBELET

CHART = Path(__file__).parents[2] / "charts" / "nascale"
PROMETHEUS_PORT = 9090
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
    """Build both images, start a cluster with two real nodes, and install the chart on it."""
    folder = tmp_path_factory.mktemp("e2e")
    say("building both images")
    archives = built_images.build(folder)
    kubelet, helm = ensure([KUBELET], report=say)["kubelet"], ensure([HELM], report=say)["helm"]
    cluster = LocalCluster("e2e", root=folder)
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.down)
        state = cluster.up({"node": False, "operator": False}, owner=os.getpid(), report=say)
        names = (parts.node_name(state), f"{parts.node_name(state)}-2")
        node, second = (
            stack.enter_context(_node(cluster, kubelet, folder / name, name, place))
            for name, place in zip(names, (machine.PLACE, machine.SECOND_PLACE), strict=True)
        )
        place = node.place
        _take_address(place, machine.KUBERNETES_SERVICE[0])
        stack.enter_context(relay(*machine.KUBERNETES_SERVICE, loopback(cluster.port(parts.API_SERVER))))
        stack.enter_context(relay(place.gateway, PROMETHEUS_PORT, loopback(cluster.port(parts.PROMETHEUS))))
        installed = Installation(cluster, node, second, helm, archives)
        for each in (node, second):
            say(f"bringing the images to {each.name}")
            for archive in archives.values():
                each.load(archive)
            stack.enter_context(cluster_dns(each.place.gateway, installed.service))
        _prepare(installed, folder)
        values = folder / "values.json"
        values.write_text(json.dumps(_values(f"http://{place.gateway}:{PROMETHEUS_PORT}")))
        installed.install(CHART, values)
        service = installed.service(METRICS_SERVICE, SYSTEM)
        _take_address(place, service)
        stack.enter_context(relay(service, METRICS_PORT, installed.metrics_endpoint))
        yield installed


@contextlib.contextmanager
def _node(cluster: LocalCluster, kubelet: Path, folder: Path, name: str, place: Place) -> Iterator[RealNode]:
    folder.mkdir()
    authority = Authority(cluster.layout.pki, "")
    kubeconfig = with_certificate(
        folder / "kubeconfig",
        name=name,
        server=f"https://127.0.0.1:{cluster.port(parts.API_SERVER)}",
        authority=authority.pair.certificate,
        pair=authority.issue(name, f"system:node:{name}", groups=["system:nodes"]),
    )
    with real_node(
        kubelet, kubeconfig, authority.pair.certificate, folder, name, place=place, dns=place.gateway
    ) as node:
        yield node


def _take_address(place: Place, address: str) -> None:
    """Let this machine have a Service's address, as long as the node's bridge is there."""
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", place.bridge], check=True)


def _prepare(installed: Installation, folder: Path) -> None:
    """Wait for the nodes, pretend devices on them, make namespaces that enforce Pod Security, and volumes."""

    def ready() -> bool:
        assert [node.fault() for node in (installed.node, installed.second)] == ["", ""]
        listed = installed.cluster.kubectl("get", "nodes", "--no-headers", check=False)
        return listed.count(" Ready ") == len(machine.DEVICES)

    installed.wait_until("the nodes are ready", ready, 180)
    for node, devices in zip((installed.node, installed.second), machine.DEVICES, strict=True):
        capacity = json.dumps({"status": {"capacity": devices}})
        patch = ("--subresource=status", "--type=merge", f"--patch={capacity}")
        installed.kubectl("patch", "node", node.name, *patch)
    installed.kubectl(
        "label", "node", installed.node.name, *(f"{key}={value}" for key, value in machine.SHARES.items())
    )
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
