"""From what the API server shows to what is in the cache, and to the searches and sweeps that wake by it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from nascale.cluster.cache import ObjectCache
from nascale.cluster.client import ClusterClient, Listing
from nascale.cluster.errors import ClusterError
from nascale.cluster.resources import OWNERS, WATCHED, Resource
from nascale.prometheus.exporter import OperatorMetrics

logger = logging.getLogger(__name__)

AFTER_RELISTING_SECONDS: Final = 3.0
"""A watch that has begun anew with a listing may have missed deletions: compare soon afterwards."""
REGULARLY_SECONDS: Final = 600.0
WATCH_GRACE_SECONDS: Final = 2.0
"""A listing may be ahead of the watch by a moment; what is missing after this has been missed."""


class Observation:
    """Feeds the cache from watches and listings.

    Args:
        cache: What is fed.
        client: For listings.
        metrics: Shows when the last event arrived.
        namespaces: Served namespaces; ``(None,)``: all.
        wake: Called with the uid of each search or sweep that something has happened to.
    """

    def __init__(
        self,
        cache: ObjectCache,
        client: ClusterClient,
        metrics: OperatorMetrics,
        namespaces: Sequence[str | None],
        wake: Callable[[str], None],
    ) -> None:
        self._cache = cache
        self._client = client
        self._metrics = metrics
        self._namespaces = tuple(namespaces)
        self._wake = wake
        self._relisted = asyncio.Event()

    def take_event(self, resource: Resource, event: Mapping[str, Any]) -> None:
        """Take a watch event: ``type`` is ``None`` for what a watch lists when it begins."""
        document = event["object"]
        self._metrics.watch_last_event.labels(resource.plural).set(time.time())
        # Before a removal: afterwards a pod's Job, say, may be unknown.
        owner_uid = self._cache.owner_of(resource, document)
        if event["type"] == "DELETED":
            news = self._cache.remove(resource, document["metadata"]["uid"])
        else:
            news = self._cache.observe(resource, document)
        if event["type"] is None:
            self._relisted.set()
        if news:
            self._wake_all(resource, document, owner_uid)

    async def fill(self) -> None:
        """Read everything for the first time.

        Raises:
            ClusterError: a kind can't be listed.
        """
        for resource in WATCHED:
            for namespace in self._namespaces:
                self._take_listing(resource, await self._client.list_objects(resource, namespace))

    async def keep_in_line(self) -> None:
        """Compare the cache with the API server now and then, for ever."""
        await asyncio.sleep(AFTER_RELISTING_SECONDS)
        while True:
            self._relisted.clear()
            try:
                await self.compare()
            except ClusterError as error:
                logger.warning("the cache could not be compared with the API server: %s", error)
            for resource in OWNERS:
                for owner in self._cache.all(resource):
                    self._wake(owner["metadata"]["uid"])
            try:
                await asyncio.wait_for(self._relisted.wait(), REGULARLY_SECONDS)
            except TimeoutError:
                continue
            await asyncio.sleep(AFTER_RELISTING_SECONDS)

    async def compare(self) -> None:
        """Find deletions and changes that no watch has shown; cheap where there are none."""
        for resource in WATCHED:
            for namespace in self._namespaces:
                await self._compare(resource, namespace)

    async def _compare(self, resource: Resource, namespace: str | None) -> None:
        listing = await self._client.list_objects(resource, namespace, metadata_only=True)
        versions = {
            str(item["metadata"]["uid"]): int(item["metadata"]["resourceVersion"]) for item in listing.items
        }
        for document in self._cache.retain(resource, namespace, versions, listing.version):
            logger.info("%s %s was deleted unseen", resource.kind, document["metadata"]["name"])
            self._wake_all(resource, document, self._cache.owner_of(resource, document))
        if not self._cache.lags(resource, versions):
            return
        await asyncio.sleep(WATCH_GRACE_SECONDS)
        if self._cache.lags(resource, versions):
            logger.warning("the watch of %s has missed changes: reading all of them", resource.plural)
            self._take_listing(resource, await self._client.list_objects(resource, namespace))

    def _take_listing(self, resource: Resource, listing: Listing) -> None:
        for document in listing.items:
            if self._cache.observe(resource, document):
                self._wake_all(resource, document, self._cache.owner_of(resource, document))

    def _wake_all(self, resource: Resource, document: Mapping[str, Any], owner_uid: str | None) -> None:
        """Wake the owner of what has changed, and the sweeps that look at it."""
        if owner_uid is not None:
            self._wake(owner_uid)
        for uid in self._cache.dependents(resource, document):
            self._wake(uid)
