"""One active operator among several replicas: it works while it holds the Lease, and ends when that is lost.

A replica that has lost the Lease can't know what another one does by now. So its process ends at once,
without tidying up, and its client refuses writes from the very moment on (``ClusterClient``'s ``may_write``).
What was under way in the network all the same is harmless: children have deterministic names, and changes of
what exists carry preconditions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import Final

from nascale.cluster.client import ClusterClient, RequestCounter, RetryPolicy
from nascale.cluster.connection import Connection
from nascale.cluster.errors import ClusterError
from nascale.cluster.lease import RENEWAL_SHARE, Lease
from nascale.handlers.settings import LeaseSettings

logger = logging.getLogger(__name__)

EXIT_LEASE_LOST: Final = 3
LONGEST_CHECK_SECONDS: Final = 0.5
REQUESTS_PER_VALIDITY: Final = 3
"""Renewals that may time out before the lease is lost."""


class Leadership:
    """Takes, keeps and gives back the Lease of this process.

    Args:
        lease: What is taken.
        end_process: Ends this process with an exit code, at once.
    """

    def __init__(self, lease: Lease, end_process: Callable[[int], None] = os._exit) -> None:
        self._lease = lease
        self._end_process = end_process
        self._over = threading.Event()
        self._renewal: asyncio.Task[None] | None = None

    async def take(self) -> None:
        """Wait until the lease is ours, then keep it."""
        said = ""
        while True:
            try:
                if await self._lease.try_to_take():
                    break
                news = f"standing by: {self._lease.holder or 'another replica'} holds the lease"
            except ClusterError as error:
                news = f"the lease can't be looked at: {error}; trying again"
            if news != said:
                said = news
                logger.info("%s", news)
            await asyncio.sleep(self._lease.pause_seconds)
        logger.info("%s holds the lease now", self._lease.identity)
        self._renewal = asyncio.get_running_loop().create_task(self._renew())
        # A thread, since the loop may be what hangs.
        threading.Thread(target=self._guard, name="lease", daemon=True).start()

    async def give_back(self) -> None:
        """Let the next replica go on at once; this one must have stopped to work."""
        self._over.set()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None
        try:
            await self._lease.release()
        except ClusterError as error:
            logger.warning("the lease could not be given back, it runs out: %s", error)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease.pause_seconds)
            try:
                await self._lease.renew()
            except ClusterError as error:
                logger.warning("the lease was not renewed: %s", error)

    def _guard(self) -> None:
        """End the process when the lease is no longer ours."""
        pause = min(LONGEST_CHECK_SECONDS, self._lease.pause_seconds)
        while not self._over.wait(pause):
            # In this order: who gives the lease back sets the event first.
            if not self._lease.held() and not self._over.is_set():
                logger.critical("the lease is lost, perhaps to another replica: this process ends")
                self._end_process(EXIT_LEASE_LOST)
                return


def make_client(settings: LeaseSettings, connection: Connection, count: RequestCounter) -> ClusterClient:
    """Return a client for the lease alone: no other request keeps a renewal waiting."""
    timeout = settings.duration_seconds * RENEWAL_SHARE / REQUESTS_PER_VALIDITY
    return ClusterClient(connection, count, timeout_seconds=timeout, retries=RetryPolicy(attempts=1))


def make_lease(settings: LeaseSettings, client: ClusterClient) -> Lease:
    """Return the lease as this process sees it, under a name that no other process ever has."""
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:12]}"
    return Lease(
        client,
        settings.namespace,
        settings.name,
        identity=identity,
        duration_seconds=settings.duration_seconds,
    )
