"""The operator's parts, put together: what starts, what runs, what stops, in which order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from nascale.cluster.cache import ObjectCache
from nascale.cluster.client import ClusterClient
from nascale.cluster.connection import Connection
from nascale.cluster.errors import ClusterError
from nascale.cluster.events import EventRecorder
from nascale.cluster.resources import WATCHED, Resource
from nascale.handlers.dispatch import Dispatcher
from nascale.handlers.health import Health
from nascale.handlers.leadership import Leadership, make_client, make_lease
from nascale.handlers.observation import Observation
from nascale.handlers.queue import WorkQueue
from nascale.handlers.readings import ReadingDesk
from nascale.handlers.reconcile_owner import Edges, OwnerReconciler
from nascale.handlers.series import SeriesDesk
from nascale.handlers.settings import Settings
from nascale.prometheus.client import PrometheusClient
from nascale.prometheus.exporter import OperatorMetrics
from nascale.prometheus.server import EndpointServer

logger = logging.getLogger(__name__)

STOP_GRACE_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0


class Operation:
    """One running operator.

    Args:
        settings: Its configuration.
        connection: Its way to the API server.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="plan")
        self._background: list[asyncio.Task[None]] = []
        self.metrics = OperatorMetrics()
        self.queue: WorkQueue[str] = WorkQueue()
        self._lease_client: ClusterClient | None = None
        self._leadership: Leadership | None = None
        may_write: Callable[[], bool] = _always
        if settings.lease is not None:
            self._lease_client = make_client(settings.lease, connection, self.metrics.count_request)
            lease = make_lease(settings.lease, self._lease_client)
            self._leadership = Leadership(lease)
            may_write = lease.held
        self._client = ClusterClient(connection, self.metrics.count_request, may_write=may_write)
        self._cache = ObjectCache()
        self._events = EventRecorder(self._client)
        self._prometheus = (
            PrometheusClient(settings.prometheus_url, confined=settings.confined_queries)
            if settings.prometheus_url
            else None
        )
        self._readings = ReadingDesk(self._prometheus, self.queue.add)
        self._series = SeriesDesk(self._prometheus, self.queue.add, settings.series_seconds)
        self._reconciler = OwnerReconciler(
            Edges(self._cache, self._client, self._events, self.metrics, self._readings, self._series),
            settings.installation,
            self._threads,
            wake=self.queue.add,
            is_wanted=self.queue.is_wanted,
        )
        self._dispatcher = Dispatcher(self.queue, self._reconciler, self.metrics, settings.workers)
        self._observation = Observation(
            self._cache, self._client, self.metrics, settings.namespaces or (None,), self.queue.add
        )
        self._health = Health(self.queue, self._cache, self._dispatcher)
        self._server = EndpointServer(self.metrics, self._health.health, self._health.readiness)
        self.metrics.watch_queue(lambda: self.queue.depth)

    async def serve(self) -> None:
        """Begin to serve the endpoints.

        Raises:
            OSError: the address or port can't be bound.
        """
        port = await self._server.start(self._settings.bind_address, self._settings.port)
        logger.info("serving metrics and health at http://%s:%d", self._settings.bind_address, port)

    async def take_the_lead(self) -> None:
        """Wait until this replica is the one that works; at once where there is no Lease to hold."""
        if self._leadership is not None:
            # Standing by is what a second replica is there for: it counts as ready.
            self._health.not_ready_because = None
            await self._leadership.take()
            self._health.not_ready_because = "the present state is read"
        self.metrics.leader.set(1)

    async def give_up_the_lead(self) -> None:
        """Let another replica go on; called when everything else has stopped."""
        if self._leadership is not None:
            await self._leadership.give_back()
        if self._lease_client is not None:
            await self._lease_client.close()

    async def start(self) -> None:
        """Wait for the API server and our kinds, fill the cache, start to work."""
        await self._wait_for_kinds()
        await self._patiently("reading the present state", self._observation.fill)
        self._dispatcher.start()
        self._spawn(self._observation.keep_in_line())
        self._health.not_ready_because = None
        logger.info("ready")

    async def stop(self) -> None:
        """Let reconciles under way end, send what is pending, close everything."""
        self._health.not_ready_because = "the operator is stopping"
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._dispatcher.stop(STOP_GRACE_SECONDS)
        await self._readings.close()
        await self._series.close()
        try:
            await asyncio.wait_for(self._events.flush(), STOP_GRACE_SECONDS)
        except TimeoutError:
            logger.warning("some events were not recorded: the API server does not answer in time")
        if self._prometheus is not None:
            await self._prometheus.close()
        await self._client.close()
        await self._server.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def take_event(self, resource: Resource, event: Any) -> None:
        """Take a watch event."""
        self._observation.take_event(resource, event)

    async def _wait_for_kinds(self) -> None:
        """Wait until every kind that we watch is served: CRDs may be installed after the operator."""
        for resource in WATCHED:

            async def served(resource: Resource = resource) -> None:
                if not await self._client.is_served(resource):
                    raise NotServedError(f"{resource.plural}.{resource.group} is not installed")

            await self._patiently(f"looking for {resource.plural}", served)

    async def _patiently(self, what: str, action: Any) -> None:
        """Repeat an action until it succeeds; say once why it does not."""
        pause = FIRST_PAUSE_SECONDS
        said: str | None = None
        while True:
            try:
                await action()
            except ClusterError as error:
                if str(error) != said:
                    said = str(error)
                    logger.warning("%s: %s; trying again", what, said)
                self._health.not_ready_because = f"{what}: {said}"
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._background.append(asyncio.get_running_loop().create_task(coroutine))


def _always() -> bool:
    return True


class NotServedError(ClusterError):
    """A kind is not installed yet."""

    reason = "NotServed"
