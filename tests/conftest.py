"""Embedded clusters for tests: started on first use, gone when the test session ends, however it ends.

Workers of pytest-xdist get one each. A fixture's value is ``nascale.local.instance.LocalCluster``; of use to
tests are ``kubeconfig`` (path), ``kubectl("get", "pods")`` (returns the output, raises on failure), ``api()``
(plain requests), ``directory``, ``audit_log``, ``prometheus_url``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from nascale.local.instance import LocalCluster

# How long an example takes depends on what else the machine does: no test may fail for it.
hypothesis.settings.register_profile("nascale", deadline=None)
hypothesis.settings.load_profile("nascale")

CAPACITY = "cpu=8,memory=16Gi,nvidia.com/gpu=2"
"""What the node claims to have: pods run side by side as on a larger machine, and two GPUs are pretended."""
CLUSTERS = {"control_plane", "embedded_cluster"}
"""Fixtures that start one."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a cluster, before ``-m`` chooses: ``make test`` runs all others side by side."""
    for item in items:
        if CLUSTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A real API with RBAC, controllers and scheduler, but no node: pods stay pending."""
    yield from _cluster("api", tmp_path_factory, {"node": False, "prometheus": False})


@pytest.fixture(scope="session")
def embedded_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """The whole embedded cluster: a node that runs pods, and Prometheus that scrapes them each second."""
    yield from _cluster("full", tmp_path_factory, {"capacity": CAPACITY})


def _cluster(name: str, paths: pytest.TempPathFactory, options: dict[str, Any]) -> Iterator[LocalCluster]:
    cluster = LocalCluster(name, root=paths.mktemp("clusters"))
    try:
        # The owner, because the finalizer below does not run when pytest is killed.
        cluster.up(options, owner=os.getpid(), report=print)
        yield cluster
    finally:
        cluster.down()
