"""Events about pods. Only what goes wrong: a pod that runs as it should costs no request here."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from nascale.local.node.api import ApiClient, ApiError
from nascale.local.node.clock import timestamp

logger = logging.getLogger(__name__)

MAX_MESSAGE: Final = 1024
"""The API's limit for an event's message."""
MAX_REMEMBERED: Final = 4096


class EventRecorder:
    """Creates each distinct warning about a pod once."""

    def __init__(self, client: ApiClient, node_name: str) -> None:
        """Send nothing yet."""
        self._client = client
        self._node_name = node_name
        self._sent: set[tuple[str, str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def warn(self, pod: Mapping[str, Any], reason: str, message: str) -> None:
        """Record a warning, in the background."""
        metadata = pod["metadata"]
        key = (metadata["uid"], reason, message)
        if key in self._sent:
            return
        if len(self._sent) >= MAX_REMEMBERED:
            self._sent.clear()
        self._sent.add(key)
        now = timestamp()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{secrets.token_hex(8)}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": "Warning",
            "reason": reason,
            "message": message[:MAX_MESSAGE],
            "source": {"component": "nascale-node", "host": self._node_name},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        task = asyncio.create_task(self._send(metadata["namespace"], event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, namespace: str, event: dict[str, Any]) -> None:
        try:
            await self._client.post(f"/api/v1/namespaces/{namespace}/events", event)
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            # An event is a courtesy: the pod's status says the same.
            logger.info("event %s: %s", event["reason"], error)
