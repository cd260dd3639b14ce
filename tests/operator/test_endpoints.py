"""The operator's HTTP endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nascale.prometheus.exporter import OperatorMetrics
from nascale.prometheus.server import EndpointServer


@dataclass
class Endpoints:
    url: str = ""
    unhealthy: list[str] = field(default_factory=list)
    unready: list[str] = field(default_factory=list)

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}{path}") as response:
            return response.status, await response.text()


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    served = Endpoints()
    server = EndpointServer(OperatorMetrics(), lambda: served.unhealthy, lambda: served.unready)
    port = await server.start("127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{port}"
    yield served
    await server.close()


async def test_all_is_well(endpoints):
    assert await endpoints.get("/healthz") == (200, "ok\n")
    assert await endpoints.get("/readyz") == (200, "ok\n")


async def test_what_is_wrong_is_said_with_503(endpoints):
    endpoints.unhealthy = ["a worker is stuck", "the watch is silent"]
    endpoints.unready = ["reading the present state"]
    assert await endpoints.get("/healthz") == (503, "a worker is stuck\nthe watch is silent\n")
    assert await endpoints.get("/readyz") == (503, "reading the present state\n")


async def test_metrics_are_in_the_text_format(endpoints):
    status, text = await endpoints.get("/metrics")
    assert status == 200
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"nascale_build_info", "nascale_queue_depth"} <= names


async def test_nothing_else_is_served(endpoints):
    assert (await endpoints.get("/"))[0] == 404


async def test_a_taken_port_is_an_error_that_names_it(endpoints):
    port = int(endpoints.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match=str(port)):
        await EndpointServer(OperatorMetrics(), list, list).start("127.0.0.1", port)
