"""ConfigMaps and Secrets that pods refer to, each followed by a watch of its own, as the kubelet does.

A node may read only the objects that its pods name, one by one. A watch is shared by all pods that name the
object and stays for a while after the last of them, so that a run of short pods costs one request, not one
per pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from nascale.local.node.api import ApiClient, Collection, follow

logger = logging.getLogger(__name__)

Json = dict[str, Any]

LINGER_SECONDS: Final = 300.0
FIRST_ANSWER_SECONDS: Final = 5.0
RETRY_SECONDS: Final = (0.02, 5.0)
"""The API server's authorizer learns of a new pod's references a moment after the node sees the pod."""


class _Followed:
    """One object."""

    def __init__(self, client: ApiClient, kind: str, namespace: str, name: str) -> None:
        self.current: Json | None = None
        self.answered = asyncio.Event()
        self.listeners: dict[str, Callable[[], None]] = {}
        self.expiry: asyncio.TimerHandle | None = None
        collection = Collection(
            f"/api/v1/namespaces/{namespace}/{kind}", {"fieldSelector": f"metadata.name={name}"}
        )
        self.task = asyncio.create_task(
            follow(client, collection, self._on_list, self._on_event, retry=RETRY_SECONDS)
        )

    async def _on_list(self, objects: list[Json]) -> None:
        self._set(objects[0] if objects else None)

    async def _on_event(self, kind: str, found: Json) -> None:
        self._set(None if kind == "DELETED" else found)

    def _set(self, found: Json | None) -> None:
        changed = found != self.current
        self.current = found
        first = not self.answered.is_set()
        self.answered.set()
        if changed and not first:
            for listener in list(self.listeners.values()):
                listener()


class References:
    """All objects that the node's pods refer to."""

    def __init__(self, client: ApiClient) -> None:
        """Follow nothing yet."""
        self._client = client
        self._followed: dict[tuple[str, str, str], _Followed] = {}

    async def use(
        self, kind: str, namespace: str, name: str, *, owner: str, on_change: Callable[[], None]
    ) -> Json | None:
        """Return the object, or None if there is none, and follow it for ``owner``.

        Args:
            kind: ``configmaps`` or ``secrets``.
            namespace: The pod's.
            name: The object's.
            owner: The pod's uid; :meth:`release` ends its interest.
            on_change: Called whenever the object changes, appears or goes.
        """
        key = (kind, namespace, name)
        entry = self._followed.get(key)
        if entry is None:
            entry = self._followed[key] = _Followed(self._client, *key)
        if entry.expiry is not None:
            entry.expiry.cancel()
            entry.expiry = None
        entry.listeners[owner] = on_change
        if not entry.answered.is_set():
            try:
                async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                    await entry.answered.wait()
            except TimeoutError:
                logger.warning("%s %s/%s: no answer from the API server yet", *key)
        return entry.current

    def peek(self, kind: str, namespace: str, name: str) -> Json | None:
        """Return the object as last seen."""
        entry = self._followed.get((kind, namespace, name))
        return entry.current if entry else None

    def release(self, owner: str) -> None:
        """End a pod's interest in everything."""
        loop = asyncio.get_running_loop()
        for key, entry in self._followed.items():
            if entry.listeners.pop(owner, None) is not None and not entry.listeners:
                entry.expiry = loop.call_later(LINGER_SECONDS, self._drop, key)

    def close(self) -> None:
        """Stop following."""
        for entry in self._followed.values():
            entry.task.cancel()
            if entry.expiry is not None:
                entry.expiry.cancel()

    def _drop(self, key: tuple[str, str, str]) -> None:
        self._followed.pop(key).task.cancel()
