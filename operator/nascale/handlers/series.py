"""Series of running pods: asked for every few seconds in the background, kept until nobody follows them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from nascale.prometheus.client import PrometheusClient
from nascale.reconcile.actions import FollowSeries, ReadingProblem, Sample, SeriesReading

logger = logging.getLogger(__name__)

PodKey: TypeAlias = tuple[str, str]
"""An owner's uid and the name of a pod."""


class SeriesDesk:
    """Follows the series that plans ask for, without holding up any reconcile.

    What it knows is in memory only: after a restart the figures come back with the first answer, and a
    standstill is timed anew.

    Args:
        prometheus: Where to ask; ``None``: nowhere, every reading is a problem then.
        wake: Called with the owner's uid when a reading has changed.
        interval_seconds: Time between two questions about one pod.
        now: The clock, timezone-aware.
    """

    def __init__(
        self,
        prometheus: PrometheusClient | None,
        wake: Callable[[str], None],
        interval_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._prometheus = prometheus
        self._wake = wake
        self._interval = interval_seconds
        self._now = now
        self._requests: dict[PodKey, FollowSeries] = {}
        self._readings: dict[PodKey, SeriesReading] = {}
        self._tasks: dict[PodKey, asyncio.Task[None]] = {}

    def follow(self, owner_uid: str, namespace: str, wanted: Iterable[FollowSeries]) -> None:
        """Follow these pods of an owner, and no others of it any more."""
        requests = {request.pod: request for request in wanted}
        for key in [key for key in self._tasks if key[0] == owner_uid and key[1] not in requests]:
            self._tasks.pop(key).cancel()
            self._readings.pop(key, None)
            self._requests.pop(key, None)
        for pod, request in requests.items():
            key = (owner_uid, pod)
            self._requests[key] = request
            if key not in self._tasks:
                watching = self._watch(key, namespace)
                self._tasks[key] = asyncio.get_running_loop().create_task(watching)

    def of(self, owner_uid: str) -> Mapping[str, SeriesReading]:
        """Return the latest readings of an owner's pods, by the pod's name."""
        return {key[1]: reading for key, reading in self._readings.items() if key[0] == owner_uid}

    def forget(self, owner_uid: str) -> None:
        """Stop to follow the pods of an owner that is gone."""
        self.follow(owner_uid, "", ())

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, key: PodKey, namespace: str) -> None:
        while True:
            request = self._requests[key]
            try:
                answer = await self._ask(namespace, request)
            except Exception as error:  # a bug here must not end the watch
                logger.exception("series of pod %s/%s could not be read", namespace, request.pod)
                answer = SeriesReading(
                    problem=ReadingProblem.UNREACHABLE, message=f"internal error: {error!r}"
                )
            before = self._readings.get(key, SeriesReading())
            reading = continued(before, answer, request.counter, self._now())
            known = key in self._readings
            self._readings[key] = reading
            if not known or reading != before:
                self._wake(key[0])
            await asyncio.sleep(self._interval)

    async def _ask(self, namespace: str, request: FollowSeries) -> SeriesReading:
        if self._prometheus is None:
            return SeriesReading(problem=ReadingProblem.UNREACHABLE, message="no Prometheus is configured")
        found = await self._prometheus.series(
            f'{{__name__=~"{request.prefix}.+",namespace={json.dumps(namespace)},'
            f"pod={json.dumps(request.pod)}}}"
        )
        if request.question is None:
            return found
        answer = await self._prometheus.query(request.question.promql, self._now().timestamp(), namespace)
        return replace(found, question=request.question, answer=answer)


def continued(before: SeriesReading, answer: SeriesReading, counter: str, now: datetime) -> SeriesReading:
    """Return what is known after an answer: samples stay where it has none, a standstill goes on."""
    samples = before.samples if answer.problem is not None else answer.samples
    moved = before.still_since is None or _value(samples, counter) != _value(before.samples, counter)
    seen = _value(samples, counter) is not None
    still_since = (now if moved else before.still_since) if seen else None
    return replace(answer, samples=samples, still_since=still_since)


def _value(samples: Iterable[Sample], counter: str) -> float | None:
    return next((sample.value for sample in samples if sample.name == counter), None)
