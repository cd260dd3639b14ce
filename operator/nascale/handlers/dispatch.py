"""Workers: take a key from the queue, reconcile it, decide when to look at it again."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from nascale.cluster.errors import (
    REASONS,
    ClusterError,
    ConflictError,
    ForbiddenError,
    ForeignObjectError,
    InvalidError,
)
from nascale.handlers.queue import QueueClosedError, WorkQueue
from nascale.prometheus.exporter import OperatorMetrics
from nascale.reconcile.actions import Event, EventType

logger = logging.getLogger(__name__)

MOST_CONFLICTS: Final = 5
"""Conflicts in a row that are retried at once; more of them mean that our view stays out of date."""
REASON_FAILED: Final = "ReconcileFailed"
REASON_BUG: Final = "Bug"
LASTING: Final = (ForbiddenError, ForeignObjectError, InvalidError)
"""Errors that a person has to do something about: they show as an event."""


class Reconciler(Protocol):
    """Brings the cluster in line with one object."""

    def kind_of(self, uid: str) -> str:
        """Return the kind of the object, for logs and metrics."""
        ...

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile, and say in how many seconds to look again."""
        ...

    def report(self, uid: str, event: Event) -> None:
        """Record an event about the object."""
        ...


class Dispatcher:
    """Runs workers on a queue.

    Args:
        queue: Keys are uids.
        reconciler: What is done for each key.
        metrics: Durations and errors.
        workers: Keys at the same time.
    """

    def __init__(
        self, queue: WorkQueue[str], reconciler: Reconciler, metrics: OperatorMetrics, workers: int
    ) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._metrics = metrics
        metrics.expect_errors((*REASONS, REASON_BUG))
        self._count = workers
        self._workers: list[asyncio.Task[None]] = []
        self._conflicts: dict[str, int] = {}

    def start(self) -> None:
        """Start the workers."""
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work()) for _ in range(self._count)]

    async def stop(self, grace_seconds: float) -> None:
        """Close the queue, let reconciles under way end, cancel what does not end in time."""
        self._queue.close()
        if not self._workers:
            return
        _, late = await asyncio.wait(self._workers, timeout=grace_seconds)
        for worker in late:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def failed_workers(self) -> list[str]:
        """Say which workers have ended although they should not; empty while all is well."""
        return [
            f"worker {number} has ended: {worker.exception()!r}"
            for number, worker in enumerate(self._workers)
            if worker.done() and not worker.cancelled() and worker.exception() is not None
        ]

    async def _work(self) -> None:
        while True:
            try:
                uid = await self._queue.get()
            except QueueClosedError:
                return
            try:
                await self._reconcile(uid)
            finally:
                self._queue.done(uid)

    async def _reconcile(self, uid: str) -> None:
        loop = asyncio.get_running_loop()
        begun, kind = loop.time(), self._reconciler.kind_of(uid)
        result = "error"
        try:
            again = await self._reconciler.reconcile(uid)
            result = "success"
        except ConflictError as error:
            self._after_conflict(kind, uid, error)
        except ClusterError as error:
            self._after_failure(kind, uid, error.reason, str(error), show=isinstance(error, LASTING))
        except Exception as error:  # one object's bug must not stop the others' work
            logger.exception("%s %s: reconciling failed by a bug", kind, uid)
            message = f"internal error {type(error).__name__}: {error}"
            self._after_failure(kind, uid, REASON_BUG, message, show=True)
        else:
            self._conflicts.pop(uid, None)
            self._queue.forget(uid)
            if again is not None:
                self._queue.add_after(uid, again)
        finally:
            duration = loop.time() - begun
            self._metrics.reconcile_duration.labels(kind, result).observe(duration)

    def _after_conflict(self, kind: str, uid: str, error: ConflictError) -> None:
        self._conflicts[uid] = self._conflicts.get(uid, 0) + 1
        if self._conflicts[uid] > MOST_CONFLICTS:
            self._after_failure(kind, uid, error.reason, str(error), show=False)
            return
        self._metrics.reconcile_errors.labels(kind, error.reason).inc()
        self._queue.add(uid)

    def _after_failure(self, kind: str, uid: str, reason: str, message: str, *, show: bool) -> None:
        self._metrics.reconcile_errors.labels(kind, reason).inc()
        pause = self._queue.retry(uid)
        logger.warning("%s %s: %s: %s; again in %.1f s", kind, uid, reason, message, pause)
        if show:
            self._reconciler.report(uid, Event(EventType.WARNING, REASON_FAILED, message))
