"""A work queue of keys: no key twice, no key at two workers, timers and back-off per key.

It has the semantics of the queues that Kubernetes' own controllers use: a key that is added while it is
being worked on is worked on once more afterwards, however often it was added.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class QueueClosedError(Exception):
    """The queue takes and gives no more keys."""


@dataclass(frozen=True)
class Backoff:
    """Pauses after failures of one key: doubling, bounded, with jitter.

    Attributes:
        first_seconds: Upper bound of the first pause.
        longest_seconds: Upper bound of every pause.
    """

    first_seconds: float = 1.0
    longest_seconds: float = 300.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 or more): half to all of the bound."""
        # The exponent is bounded as well: 2.0 ** 2000 would overflow.
        bound = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 32))
        return bound * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret


class WorkQueue(Generic[K]):
    """Keys to be worked on, in the order in which they became due.

    All methods belong to one event loop; ``get`` waits, the others return at once.
    """

    def __init__(self, backoff: Backoff = Backoff()) -> None:
        self._backoff = backoff
        self._ready: deque[K] = deque()
        self._since: dict[K, float] = {}
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def add(self, key: K) -> None:
        """Make a key due now; a timer of it is moot then."""
        self._drop_timer(key)
        if self._closed:
            return
        if key in self._working:
            self._again.add(key)
        elif key not in self._since:
            self._since[key] = _now()
            self._ready.append(key)
            self._wake_one()

    def add_after(self, key: K, seconds: float) -> None:
        """Make a key due in a while, in place of an earlier timer; nothing where it is due anyway."""
        if self._closed or key in self._since or key in self._again:
            return
        self._drop_timer(key)
        if seconds <= 0:
            self.add(key)
        else:
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._due, key)

    def retry(self, key: K) -> float:
        """Make a key due after its back-off, which grows with each call; return the pause in seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        pause = self._backoff.pause(self._failures[key])
        self.add_after(key, pause)
        return pause

    def forget(self, key: K) -> None:
        """Reset a key's back-off: it was worked on with success."""
        self._failures.pop(key, None)

    def discard(self, key: K) -> None:
        """Drop timer and back-off of a key whose object is gone."""
        self._drop_timer(key)
        self.forget(key)

    async def get(self) -> K:
        """Wait for the next due key; the caller says ``done`` when it has been worked on.

        Raises:
            QueueClosedError: the queue was closed.
        """
        while not self._ready:
            if self._closed:
                raise QueueClosedError
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # Our wake-up may have come at the same moment: pass it on.
                if waiter.done() and not waiter.cancelled():
                    self._wake_one()
                raise
        key = self._ready.popleft()
        del self._since[key]
        self._working[key] = _now()
        return key

    def done(self, key: K) -> None:
        """Say that a key has been worked on; it is due again if it was added meanwhile."""
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Give out no more keys, drop all timers."""
        self._closed = True
        self._ready.clear()
        self._since.clear()
        self._again.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        while self._waiting:
            self._wake_one()

    def is_wanted(self, key: K) -> bool:
        """Say whether a key that is being worked on has been added again meanwhile."""
        return key in self._again

    @property
    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        return len(self._ready)

    def longest_wait(self) -> float:
        """Seconds that the key waits which has been due longest; 0 where none is."""
        return _now() - self._since[self._ready[0]] if self._ready else 0.0

    def longest_work(self) -> float:
        """Seconds that the key is worked on whose work has lasted longest; 0 where none is."""
        return _now() - min(self._working.values()) if self._working else 0.0

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _drop_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


def _now() -> float:
    return asyncio.get_running_loop().time()
