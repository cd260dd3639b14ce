"""Small HTTP servers that answer as a test says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from tests.operator.searches import Namespace

from nascale.cluster.client import ClusterClient, RetryPolicy
from nascale.cluster.connection import Connection
from nascale.local.instance import LocalCluster


@dataclass
class Seen:
    """One request that the server got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class ScriptedServer:
    """Answers requests in order from ``script``; the last answer repeats."""

    script: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def answer(self, status: int, body: Any, **headers: str) -> None:
        """Add an answer."""
        self.script.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.text()
        try:
            body: Any = json.loads(raw) if raw else None
        except ValueError:
            body = raw
        self.seen.append(Seen(request.method, request.path, dict(request.query), dict(request.headers), body))
        status, answer, headers = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(status=status, text=text, headers=headers, content_type="application/json")


@pytest.fixture
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
def kubeconfig(tmp_path) -> Callable[[str], str]:
    """Return a function that writes a kubeconfig for a server's URL and returns its path."""

    def write(server: str, user: str = "a-token") -> str:
        path = tmp_path / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": user}}],
        }
        path.write_text(json.dumps(document))
        return str(path)

    return write


@dataclass
class Counts:
    """Requests that the client has counted."""

    requests: list[tuple[str, str, str]] = field(default_factory=list)

    def __call__(self, verb: str, resource: str, code: str) -> None:
        self.requests.append((verb, resource, code))


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
async def api_client(scripted_server, kubeconfig, counts) -> AsyncIterator[ClusterClient]:
    retries = RetryPolicy(attempts=3, first_pause_seconds=0.001, longest_pause_seconds=0.02)
    client = ClusterClient(Connection(kubeconfig(scripted_server.url)), counts, retries=retries)
    yield client
    await client.close()


@pytest.fixture(scope="session")
def operator_cluster(embedded_cluster: LocalCluster) -> LocalCluster:
    """The embedded cluster with the operator, which runs under the chart's rules and looks often."""
    embedded_cluster.up({"operator": True, "operator_environment": {"NASCALE_RESYNC_SECONDS": "2"}})
    return embedded_cluster


@pytest.fixture
def namespace(operator_cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A fresh namespace; what is left of the test in it goes afterwards."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    name = f"edge-{digest}"
    operator_cluster.up()
    operator_cluster.kubectl("create", "namespace", name)
    yield Namespace(operator_cluster, name)
    operator_cluster.kubectl("delete", "namespace", name, "--wait=false")
