"""Readings from Prometheus: taken in the background, kept until the trial's end is recorded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from nascale.prometheus.client import PrometheusClient
from nascale.reconcile.actions import Reading, ReadingProblem, ReadMetrics

logger = logging.getLogger(__name__)

TrialReadings: TypeAlias = Mapping[str, Mapping[str, Reading]]
"""By trial name, then by metric name."""


class ReadingDesk:
    """Takes the readings that plans ask for, without holding up any reconcile.

    Args:
        prometheus: Where to ask; ``None``: nowhere, every reading is a problem then.
        wake: Called with the owner's uid when a trial's readings are complete.
    """

    def __init__(self, prometheus: PrometheusClient | None, wake: Callable[[str], None]) -> None:
        self._prometheus = prometheus
        self._wake = wake
        self._taken: dict[str, dict[str, Mapping[str, Reading]]] = {}
        self._underway: dict[tuple[str, str], asyncio.Task[None]] = {}

    def request(self, owner_uid: str, namespace: str, request: ReadMetrics, patience_seconds: float) -> None:
        """Begin to take a trial's readings, unless that is under way or done."""
        key = (owner_uid, request.trial)
        if key in self._underway or request.trial in self._taken.get(owner_uid, {}):
            return
        task = asyncio.get_running_loop().create_task(
            self._take(owner_uid, namespace, request, patience_seconds)
        )
        self._underway[key] = task
        task.add_done_callback(lambda done: self._finished(key, done))

    def of(self, owner_uid: str) -> TrialReadings:
        """Return the complete readings of an owner's trials."""
        return dict(self._taken.get(owner_uid, {}))

    def keep_only(self, owner_uid: str, trials: Collection[str]) -> None:
        """Drop readings of trials whose end is recorded (or that are gone)."""
        taken = self._taken.get(owner_uid)
        if taken is None:
            return
        for trial in [trial for trial in taken if trial not in trials]:
            del taken[trial]
        if not taken:
            del self._taken[owner_uid]

    def forget(self, owner_uid: str) -> None:
        """Drop everything of an owner that is gone."""
        self._taken.pop(owner_uid, None)
        for key in [key for key in self._underway if key[0] == owner_uid]:
            self._underway.pop(key).cancel()

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = list(self._underway.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(
        self, owner_uid: str, namespace: str, request: ReadMetrics, patience_seconds: float
    ) -> None:
        if self._prometheus is None:
            missing = Reading(problem=ReadingProblem.UNREACHABLE, message="no Prometheus is configured")
            readings = dict.fromkeys(request.queries, missing)
        else:
            try:
                readings = await self._prometheus.read(request, patience_seconds, namespace)
            except Exception as error:  # a bug here must not leave the trial without an end
                logger.exception("readings of trial %s could not be taken", request.trial)
                failed = Reading(problem=ReadingProblem.UNREACHABLE, message=f"internal error: {error!r}")
                readings = dict.fromkeys(request.queries, failed)
        self._taken.setdefault(owner_uid, {})[request.trial] = readings

    def _finished(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        if self._underway.get(key) is task:
            del self._underway[key]
        if not task.cancelled():
            self._wake(key[0])
