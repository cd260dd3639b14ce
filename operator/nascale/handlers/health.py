"""Whether the operator makes progress. An idle one does; a silent or stuck one does not."""

from __future__ import annotations

from dataclasses import dataclass

from nascale.cluster.cache import ObjectCache
from nascale.handlers.dispatch import Dispatcher
from nascale.handlers.queue import WorkQueue


@dataclass(frozen=True)
class HealthLimits:
    """When something has lasted too long.

    Attributes:
        reconcile_seconds: One reconcile, all its requests and their retries included.
        wait_seconds: A due object that no worker takes.
        silence_seconds: A write of our own that no watch has shown: the watch is dead.
    """

    reconcile_seconds: float = 600.0
    wait_seconds: float = 600.0
    silence_seconds: float = 300.0


class Health:
    """Answers ``/healthz`` and ``/readyz``.

    Args:
        queue: Of keys to be reconciled.
        cache: Of the cluster's objects.
        dispatcher: Of the workers.
        limits: When something has lasted too long.
    """

    def __init__(
        self,
        queue: WorkQueue[str],
        cache: ObjectCache,
        dispatcher: Dispatcher,
        limits: HealthLimits = HealthLimits(),
    ) -> None:
        self._queue = queue
        self._cache = cache
        self._dispatcher = dispatcher
        self._limits = limits
        self.not_ready_because: str | None = "the operator has not started yet"

    def health(self) -> list[str]:
        """Return what keeps the operator from making progress; empty: nothing does."""
        problems = self._dispatcher.failed_workers()
        if (working := self._queue.longest_work()) > self._limits.reconcile_seconds:
            problems.append(f"one reconcile has lasted for {working:.0f} s")
        if (waiting := self._queue.longest_wait()) > self._limits.wait_seconds:
            problems.append(f"an object has been due for {waiting:.0f} s, no worker takes it")
        silent = self._cache.oldest_unconfirmed_write()
        if silent is not None and silent > self._limits.silence_seconds:
            problems.append(f"the watches have not shown our own write of {silent:.0f} s ago")
        return problems

    def readiness(self) -> list[str]:
        """Return why the operator does not work yet; empty: it does."""
        return [] if self.not_ready_because is None else [self.not_ready_because]
