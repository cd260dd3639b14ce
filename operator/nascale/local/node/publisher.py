"""Writes a pod's status to the API server: the latest one, and only when it differs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from nascale.local.node.api import CONFLICT, INVALID, NOT_FOUND, ApiClient, ApiError
from nascale.local.node.status import same_status

logger = logging.getLogger(__name__)

Json = dict[str, Any]

RETRY_SECONDS: Final = (0.2, 10.0)
GATHER_SECONDS: Final = 0.05
"""A change that is not the pod's end waits this long for others. The process that just started has the
processors to itself meanwhile, without servers and controllers that look at the new status."""


class StatusPublisher:
    """The one writer of a pod's status.

    Changes that come while a request is under way are sent together afterwards, so a pod that starts and
    ends quickly costs two requests, or one.
    """

    def __init__(
        self,
        client: ApiClient,
        pod: Mapping[str, Any],
        build: Callable[[list[Json]], Json],
    ) -> None:
        """Take what the API server has as published; ``build`` makes the status from the last conditions."""
        metadata = pod["metadata"]
        self._client = client
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._uid = metadata["uid"]
        self._build = build
        self._published: Json = pod.get("status") or {}
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._gone = False

    def changed(self, *, urgent: bool = False) -> None:
        """Publish what is new: at once where it is urgent, else soon, with what comes until then."""
        self._settled.clear()
        self._changed.set()
        if urgent:
            self._urgent.set()

    async def settle(self) -> None:
        """Wait until everything is published, or the pod is gone."""
        await self._settled.wait()

    async def run(self) -> None:
        """Publish until cancelled."""
        delay = RETRY_SECONDS[0]
        while True:
            await self._changed.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._urgent.wait()
            self._changed.clear()
            self._urgent.clear()
            if self._gone or await self._publish():
                delay = RETRY_SECONDS[0]
                if not self._changed.is_set():
                    self._settled.set()
                continue
            self._changed.set()
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_SECONDS[1])

    async def _publish(self) -> bool:
        status = self._build(self._published.get("conditions") or [])
        if same_status(status, self._published):
            return True
        try:
            # With the uid, a patch for a pod that was deleted and made anew is refused.
            await self._client.patch(self._path, {"metadata": {"uid": self._uid}, "status": status})
        except ApiError as error:
            if error.status in (CONFLICT, NOT_FOUND):
                self._gone = True
                return True
            logger.warning("status of pod %s: %s", self._uid, error)
            # The same status would be refused again; the next change gives another.
            return error.status == INVALID
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("status of pod %s: %s", self._uid, error or type(error).__name__)
            return False
        self._published = status
        return True
