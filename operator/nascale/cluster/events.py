"""Events about searches and trials, as few requests as possible.

The first event of a series (same object, type and reason) is sent at once. What follows within a window is
counted, and sent as one update that carries the newest message and the count.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from nascale.cluster.client import ClusterClient
from nascale.cluster.errors import AlreadyExistsError, ClusterError, NotFoundError
from nascale.cluster.resources import EVENTS
from nascale.reconcile.actions import Event, Manifest

logger = logging.getLogger(__name__)

COMPONENT: Final = "nascale-operator"
WINDOW_SECONDS: Final = 10.0
MOST_SERIES: Final = 4096
LONGEST_MESSAGE: Final = 1024
"""The API's own bound on an event's message."""


@dataclass
class _Series:
    namespace: str
    name: str
    first: datetime
    last: datetime
    message: str
    manifest: Mapping[str, Any]
    count: int = 1
    sent: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    update: asyncio.TimerHandle | None = None


class EventRecorder:
    """Sends events; what fails is logged and never holds up a reconcile.

    Args:
        client: To the API server.
        now: The clock, timezone-aware.
        window_seconds: How long repeats are gathered before an update is sent.
    """

    def __init__(
        self,
        client: ClusterClient,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        self._client = client
        self._now = now
        self._window = window_seconds
        self._series: OrderedDict[tuple[str, str, str], _Series] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, about: Manifest, event: Event) -> None:
        """Record an event about an object and return at once."""
        key = (str(about["metadata"]["uid"]), event.type.value, event.reason)
        now = self._now()
        series = self._series.get(key)
        if series is None:
            series = self._begin(about, event, now)
            self._series[key] = series
            while len(self._series) > MOST_SERIES:
                self._series.popitem(last=False)
            self._spawn(series)
            return
        self._series.move_to_end(key)
        series.count += 1
        series.last = now
        series.message = event.message[:LONGEST_MESSAGE]
        if series.update is None:
            loop = asyncio.get_running_loop()
            series.update = loop.call_later(self._window, self._spawn, series)

    async def flush(self) -> None:
        """Send what is pending, without waiting for any window."""
        for series in self._series.values():
            if series.update is not None:
                series.update.cancel()
                self._spawn(series)
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _begin(self, about: Manifest, event: Event, now: datetime) -> _Series:
        metadata = about["metadata"]
        # The start time makes the name new after a restart; a repeated request finds the same name.
        identity = f"{metadata['uid']}/{event.type}/{event.reason}/{now.isoformat()}"
        name = f"{metadata['name'][:230]}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        manifest = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": event.type.value,
            "reason": event.reason,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
        }
        return _Series(
            metadata["namespace"], name, now, now, event.message[:LONGEST_MESSAGE], manifest=manifest
        )

    def _spawn(self, series: _Series) -> None:
        series.update = None
        task = asyncio.get_running_loop().create_task(self._send(series))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, series: _Series) -> None:
        async with series.lock:
            count = series.count
            if count == series.sent:
                return
            try:
                await self._write(series)
            except ClusterError as error:
                logger.warning("event %s/%s was not recorded: %s", series.namespace, series.name, error)
                return
            series.sent = count

    async def _write(self, series: _Series) -> None:
        changing = {
            "message": series.message,
            "count": series.count,
            "lastTimestamp": timestamp(series.last),
        }
        if series.sent:
            try:
                await self._client.patch_event(series.namespace, series.name, EVENTS, changing)
            except NotFoundError:
                # Events expire after an hour: begin the series anew under its name.
                pass
            else:
                return
        body = {**series.manifest, **changing, "firstTimestamp": timestamp(series.first)}
        try:
            await self._client.create(EVENTS, body)
        except AlreadyExistsError:
            logger.debug("event %s/%s was recorded by a repeated request", series.namespace, series.name)


def timestamp(moment: datetime) -> str:
    """Return a moment as metav1.Time: RFC 3339, whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
