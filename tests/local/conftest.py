"""Clusters that a test starts, breaks and takes down by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nascale.local.instance import LocalCluster


@pytest.fixture
def new_cluster(tmp_path: Path) -> Iterator[Callable[[str], LocalCluster]]:
    """Return a function that names a new cluster; all are down when the test ends."""
    clusters: list[LocalCluster] = []

    def make(name: str) -> LocalCluster:
        cluster = LocalCluster(name, root=tmp_path / "clusters")
        clusters.append(cluster)
        return cluster

    yield make
    for cluster in clusters:
        cluster.down()
