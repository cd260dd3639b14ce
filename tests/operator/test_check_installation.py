"""What helm test runs: it finds no fault with a whole installation, and names what others lack."""

from __future__ import annotations

from typing import Any

import pytest

from nascale.cluster.connection import Connection
from nascale.cluster.resources import OWNERS, TRIALS
from nascale.handlers.check_installation import faults
from nascale.local.instance import LocalCluster

KINDS = (*OWNERS, TRIALS)


def _served(*plurals: str) -> dict[str, Any]:
    return {"resources": [{"name": plural} for plural in plurals]}


async def test_what_is_missing_is_named(scripted_server: Any, kubeconfig: Any):
    for _ in KINDS:
        scripted_server.answer(200, _served(*(kind.plural for kind in OWNERS)))
    scripted_server.answer(200, "ok")
    scripted_server.answer(503, "the present state is read")
    scripted_server.answer(200, "something_else 1")

    found = await faults(scripted_server.url, Connection(kubeconfig(scripted_server.url)))

    assert found == [
        "trials.nascale.io: must be served, its CRD is not installed",
        "/readyz: must answer 200, not 503: the present state is read",
        "/metrics: must hold nascale_build_info",
    ]
    paths = [request.path for request in scripted_server.seen]
    assert paths[len(KINDS) :] == ["/healthz", "/readyz", "/metrics"]


async def test_an_operator_that_does_not_answer_is_named(scripted_server: Any, kubeconfig: Any):
    scripted_server.answer(200, _served(*(kind.plural for kind in KINDS)))

    found = await faults("http://127.0.0.1:1", Connection(kubeconfig(scripted_server.url)))

    (fault,) = found
    assert fault.startswith("http://127.0.0.1:1: the operator does not answer: ")


@pytest.mark.cluster
@pytest.mark.slow
async def test_nothing_is_wrong_with_a_whole_installation(operator_cluster: LocalCluster):
    connection = Connection(str(operator_cluster.kubeconfig))

    assert await faults(operator_cluster.operator_url, connection) == []
