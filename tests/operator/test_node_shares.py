"""Nodes are asked about seldom, by labels alone, and a refusal harms nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.operator.conftest import ScriptedServer

from nascale.cluster.client import ClusterClient, RetryPolicy
from nascale.cluster.connection import Connection
from nascale.handlers.node_shares import AFTER_REFUSAL_SECONDS, INTERVAL_SECONDS, NodeShares

START = datetime(2026, 1, 1, tzinfo=UTC)
GPU = "nvidia.com/gpu"
SLICED = {"nvidia.com/gpu.replicas": "4"}


def _owner(*resources: str, **status: Any) -> dict[str, Any]:
    return {"spec": {"target": {"resources": {"limits": dict.fromkeys(resources, 1)}}}, "status": status}


def _nodes(*labels: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"resourceVersion": "1"},
        "items": [{"metadata": {"labels": each}} for each in labels],
    }


@pytest.fixture
async def client(scripted_server: ScriptedServer, kubeconfig: Any):
    client = ClusterClient(
        Connection(kubeconfig(scripted_server.url)), retries=RetryPolicy(attempts=1, first_pause_seconds=0.0)
    )
    yield client
    await client.close()


async def test_labels_of_nodes_with_shares_are_listed_once_for_all_owners(
    scripted_server: ScriptedServer, client: ClusterClient
):
    scripted_server.answer(200, _nodes(SLICED))
    shares = NodeShares(client, allowed=True)

    for seconds in (0.0, 1.0, INTERVAL_SECONDS - 1):
        assert await shares.look(_owner(GPU), START + timedelta(seconds=seconds)) == {GPU: (SLICED,)}

    (request,) = scripted_server.seen
    assert (request.method, request.path) == ("GET", "/api/v1/nodes")
    assert request.query["labelSelector"] == "nvidia.com/gpu.replicas,nvidia.com/gpu.replicas notin (0,1)"
    assert "PartialObjectMetadataList" in request.headers["Accept"]


async def test_they_are_listed_anew_after_a_while(scripted_server: ScriptedServer, client: ClusterClient):
    scripted_server.answer(200, _nodes())
    scripted_server.answer(200, _nodes(SLICED))
    shares = NodeShares(client, allowed=True)

    assert await shares.look(_owner(GPU), START) == {GPU: ()}
    later = START + timedelta(seconds=INTERVAL_SECONDS)
    assert await shares.look(_owner(GPU), later) == {GPU: (SLICED,)}


async def test_after_a_refusal_nothing_is_known_and_nobody_asks_for_a_long_while(
    scripted_server: ScriptedServer, client: ClusterClient
):
    scripted_server.answer(403, {"kind": "Status", "reason": "Forbidden", "message": "no"})
    shares = NodeShares(client, allowed=True)

    for seconds in (0.0, INTERVAL_SECONDS, AFTER_REFUSAL_SECONDS - 1):
        assert await shares.look(_owner(GPU), START + timedelta(seconds=seconds)) == {}
    assert len(scripted_server.seen) == 1


async def test_what_was_known_stays_while_the_api_server_is_away(
    scripted_server: ScriptedServer, client: ClusterClient
):
    scripted_server.answer(200, _nodes(SLICED))
    scripted_server.answer(503, "starting")
    shares = NodeShares(client, allowed=True)

    await shares.look(_owner(GPU), START)
    later = START + timedelta(seconds=INTERVAL_SECONDS)
    assert await shares.look(_owner(GPU), later) == {GPU: (SLICED,)}
    assert len(scripted_server.seen) == 2


async def test_nobody_asks_where_that_is_not_wanted_or_has_no_use(
    scripted_server: ScriptedServer, client: ClusterClient
):
    scripted_server.answer(200, _nodes(SLICED))

    assert await NodeShares(client, allowed=False).look(_owner(GPU), START) == {}
    shares = NodeShares(client, allowed=True)
    assert await shares.look(_owner("cpu", "amd.com/gpu"), START) == {}
    assert await shares.look(_owner(GPU, completionTime="2026-01-01T00:00:00Z"), START) == {}
    unlabelled = f"nvidia.com/{'g' * 60}"
    assert await shares.look(_owner(unlabelled), START) == {unlabelled: ()}
    assert scripted_server.seen == []
