"""The operator's HTTP endpoints: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TypeAlias

from aiohttp import web

from nascale.prometheus.exporter import CONTENT_TYPE, OperatorMetrics

Check: TypeAlias = Callable[[], Sequence[str]]
"""Returns what is wrong, one sentence each; nothing: all is well."""


class EndpointServer:
    """Serves the endpoints until closed.

    Args:
        metrics: What ``/metrics`` shows.
        health: What ``/healthz`` reports.
        readiness: What ``/readyz`` reports.
    """

    def __init__(self, metrics: OperatorMetrics, health: Check, readiness: Check) -> None:
        self._metrics = metrics
        self._health = health
        self._readiness = readiness
        self._runner: web.AppRunner | None = None

    async def start(self, address: str, port: int) -> int:
        """Begin to serve; port 0 takes a free one.

        Returns:
            The port.

        Raises:
            OSError: the address or port can't be bound.
        """
        application = web.Application()
        application.router.add_get("/metrics", self._serve_metrics)
        application.router.add_get("/healthz", self._serve_check(self._health))
        application.router.add_get("/readyz", self._serve_check(self._readiness))
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.export(), headers={"Content-Type": CONTENT_TYPE})

    def _serve_check(self, check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(_request: web.Request) -> web.Response:
            problems = check()
            if problems:
                return web.Response(text="\n".join(problems) + "\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
            return web.Response(text="ok\n")

        return serve
