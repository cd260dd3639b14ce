"""A small client of the Kubernetes API: what a node says and asks."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp

from nascale.local.node.credentials import Credentials

logger = logging.getLogger(__name__)

Json = dict[str, Any]

STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
MERGE: Final = "application/merge-patch+json"
GONE: Final = 410
NOT_FOUND: Final = 404
CONFLICT: Final = 409
INVALID: Final = 422
FORBIDDEN: Final = 403
REQUEST_TIMEOUT_SECONDS: Final = 30.0
WATCH_SECONDS: Final = (300, 600)
"""How long a watch is asked to last: spread, so that a node's watches don't all end at once."""
STALLED_SECONDS: Final = 90.0
"""The API server sends a bookmark at least every minute; after this silence a watch is taken for dead."""
RETRY_SECONDS: Final = (0.2, 10.0)


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status beside the server's message."""
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Collection:
    """A watched set of objects."""

    path: str
    """Of the list, for example ``/api/v1/pods``."""
    selector: Mapping[str, str] = field(default_factory=dict)
    """Query parameters such as ``fieldSelector``."""


class ApiClient:
    """JSON over TLS, with the kubeconfig's certificate or token."""

    def __init__(self, credentials: Credentials, user_agent: str) -> None:
        """Open no connection yet."""
        headers = {"User-Agent": user_agent, "Accept": "application/json"}
        if credentials.token:
            headers["Authorization"] = f"Bearer {credentials.token}"
        self._server = credentials.server
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=credentials.ssl_context(), limit=0, keepalive_timeout=120),
            headers=headers,
            json_serialize=lambda value: json.dumps(value, separators=(",", ":")),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections."""
        await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        """Read an object or a list."""
        return await self._request("GET", path, params=params)

    async def post(self, path: str, body: Json) -> Json:
        """Create an object."""
        return await self._request("POST", path, body=body)

    async def put(self, path: str, body: Json) -> Json:
        """Replace an object."""
        return await self._request("PUT", path, body=body)

    async def patch(self, path: str, body: Json, kind: str = STRATEGIC_MERGE) -> Json:
        """Change parts of an object."""
        return await self._request("PATCH", path, body=body, content_type=kind)

    async def delete(self, path: str, body: Json) -> Json:
        """Delete an object, with DeleteOptions."""
        return await self._request("DELETE", path, body=body)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        async with self._session.request(
            method,
            self._server + path,
            params=params,
            data=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
            headers=None if body is None else {"Content-Type": content_type},
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
        ) as response:
            return await _decoded(response)

    async def watch_events(self, collection: Collection, resource_version: str) -> AsyncIterator[Json]:
        """Yield watch events from ``resource_version`` on, until the server ends the watch.

        Raises:
            ApiError: the watch can't begin or go on; status 410 asks for a new list.
        """
        params = {
            **collection.selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311  spreading, no secret
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_SECONDS)
        async with self._session.get(
            self._server + collection.path, params=params, timeout=timeout, read_bufsize=2**20
        ) as response:
            if response.status >= HTTPStatus.BAD_REQUEST:
                await _decoded(response)
            async for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(int(status.get("code", 500)), str(status.get("message", "")))
                yield event


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, however long they are."""
    rest = b""
    while True:
        async with asyncio.timeout(STALLED_SECONDS):
            chunk = await response.content.readany()
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


async def _decoded(response: aiohttp.ClientResponse) -> Json:
    content = await response.read()
    if response.status >= HTTPStatus.BAD_REQUEST:
        try:
            message = str(json.loads(content).get("message", ""))
        except (ValueError, AttributeError):
            message = content.decode(errors="replace")[:512]
        raise ApiError(response.status, message)
    return dict(json.loads(content)) if content else {}


async def follow(
    client: ApiClient,
    collection: Collection,
    on_list: Callable[[list[Json]], Awaitable[None]],
    on_event: Callable[[str, Json], Awaitable[None]],
    retry: tuple[float, float] = RETRY_SECONDS,
) -> None:
    """List a collection and follow its changes until cancelled, through every kind of interruption.

    Args:
        client: The API.
        collection: What is followed.
        on_list: Called with all objects, at the start and whenever changes may have been missed.
        on_event: Called with ``ADDED``, ``MODIFIED`` or ``DELETED`` and the object.
        retry: Seconds before the first and at most before any further attempt after an error.
    """
    version: str | None = None
    delay = retry[0]
    while True:
        try:
            if version is None:
                listed = await client.get(collection.path, collection.selector)
                await on_list(listed.get("items") or [])
                version = listed["metadata"]["resourceVersion"]
                delay = retry[0]
            async for event in client.watch_events(collection, version):
                version = event["object"]["metadata"]["resourceVersion"]
                delay = retry[0]
                if event["type"] != "BOOKMARK":
                    await on_event(event["type"], event["object"])
        except ApiError as error:
            if error.status == GONE:
                version = None
            logger.warning("watch of %s: %s", collection.path, error)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.warning("watch of %s: %s", collection.path, error or type(error).__name__)
        await asyncio.sleep(delay)
        delay = min(2 * delay, retry[1])
