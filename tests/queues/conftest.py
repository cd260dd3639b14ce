"""An embedded cluster with the operator and Kueue, two teams with a quota each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest
import yaml
from tests.operator.searches import CLAIM, Namespace
from tests.queues.kueue import Json, Kueue, cluster_queue, flavor, local_queue

from nascale.local.instance import LocalCluster

CPU_PER_TEAM = 2


@pytest.fixture(scope="module")
def queued_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of its own: Kueue's webhooks look at every Job."""
    cluster = LocalCluster("queues", root=tmp_path_factory.mktemp("clusters"))
    try:
        options = {
            "capacity": "cpu=8,memory=16Gi",
            "operator": True,
            "operator_environment": {"NASCALE_RESYNC_SECONDS": "2"},
        }
        cluster.up(options, owner=os.getpid(), report=print)
        Kueue(cluster).install()
        apply(cluster, flavor())
        yield cluster
    finally:
        cluster.down()


def apply(cluster: LocalCluster, *documents: Json) -> None:
    """Apply documents."""
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))


@pytest.fixture
def teams(
    queued_cluster: LocalCluster, request: pytest.FixtureRequest
) -> Iterator[tuple[Namespace, Namespace]]:
    """Two teams that lend each other what they don't use."""
    made = []
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:6]
    for team in ("vision", "speech"):
        name = f"{team}-{digest}"
        queued_cluster.kubectl("create", "namespace", name)
        apply(queued_cluster, cluster_queue(name, CPU_PER_TEAM), local_queue(name, name))
        made.append(Namespace(queued_cluster, name))
        made[-1].apply(CLAIM)
    yield made[0], made[1]
    for namespace in made:
        queued_cluster.kubectl("delete", "namespace", namespace.name, "--wait=false")
        queued_cluster.kubectl("delete", "clusterqueue", namespace.name, "--wait=false")
