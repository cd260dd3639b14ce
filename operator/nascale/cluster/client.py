"""Requests to the API server: few, typed by intent, safe to repeat, each one counted."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import aiohttp
from kubernetes.aio import client as kubernetes_client

from nascale.cluster.connection import Connection
from nascale.cluster.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    FencedError,
    ForeignObjectError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    error_class,
)
from nascale.cluster.resources import Resource
from nascale.reconcile.actions import Manifest

RequestCounter: TypeAlias = Callable[[str, str, str], None]
"""Called after each request with verb, resource (``trials/status``) and HTTP status (``error``: none)."""

METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
PAGE_ITEMS: Final = 500
"""Objects in one response: bounds what the API server and we hold in memory for it."""
LONGEST_MESSAGE: Final = 512


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and with which pauses, a request is repeated within one call.

    What still fails after that goes to the work queue's back-off, so this bridges short gaps only.

    Attributes:
        attempts: Requests in all.
        first_pause_seconds: Before the second one; each further pause is twice as long.
        longest_pause_seconds: Bound on a pause, also on one that the server asks for (Retry-After).
    """

    attempts: int = 4
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0

    def pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next request, with jitter so that many callers don't return at once."""
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        wanted = max(self.first_pause_seconds * 2.0**attempt * jitter, asked or 0.0)
        return min(self.longest_pause_seconds, wanted)


@dataclass(frozen=True)
class Listing:
    """A consistent list: its items, and the version of the collection that it shows."""

    items: tuple[dict[str, Any], ...]
    version: int


class ClusterClient:
    """A thin asynchronous client that speaks JSON documents.

    Args:
        connection: Where the API server is and who we are.
        count: Told of every request.
        parallel: Most requests at the same time.
        timeout_seconds: Longest wait for one response.
        retries: How short outages are bridged.
        may_write: Asked before each request that changes something.
    """

    def __init__(
        self,
        connection: Connection,
        count: RequestCounter = lambda _verb, _resource, _code: None,
        *,
        parallel: int = 32,
        timeout_seconds: float = 30.0,
        retries: RetryPolicy = RetryPolicy(),
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connection = connection
        self._count = count
        self._slots = asyncio.Semaphore(parallel)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=min(5.0, timeout_seconds))
        self._retries = retries
        self._may_write = may_write
        self._api: kubernetes_client.ApiClient | None = None
        self._renewing = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        if self._api is not None:
            await self._api.close()  # type: ignore[no-untyped-call]
            self._api = None

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        """Read one object."""
        return await self._call("get", resource, "GET", resource.path(namespace, name))

    async def list_objects(
        self, resource: Resource, namespace: str | None, *, metadata_only: bool = False, fields: str = ""
    ) -> Listing:
        """Read a collection, restricted by the resource's label selector, in one consistent view.

        Args:
            resource: What to list.
            namespace: Where; ``None``: everywhere.
            metadata_only: Ask for the objects' metadata alone, which is much cheaper.
            fields: Field selector.

        Raises:
            ConflictError: the view expired before its last page was read; begin again.
        """
        selectors = [("labelSelector", resource.label_selector), ("fieldSelector", fields)]
        accept = METADATA_ONLY if metadata_only else "application/json"
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            query = [("limit", str(PAGE_ITEMS)), *selectors, ("continue", token)]
            answer = await self._call(
                "list",
                resource,
                "GET",
                resource.path(namespace),
                query=[(key, value) for key, value in query if value],
                accept=accept,
            )
            items += answer.get("items") or ()
            token = answer["metadata"].get("continue") or ""
            if not token:
                break
        for item in items:
            # Lists leave out what all items share.
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return Listing(tuple(items), int(answer["metadata"]["resourceVersion"]))

    async def create(self, resource: Resource, manifest: Manifest) -> dict[str, Any]:
        """Create an object; ``AlreadyExistsError`` where the name is taken."""
        path = resource.path(manifest["metadata"]["namespace"])
        return await self._call("create", resource, "POST", path, body=manifest)

    async def create_owned(self, resource: Resource, manifest: Manifest) -> dict[str, Any]:
        """Create a child under its deterministic name; one of the same controller counts as done.

        Raises:
            ForeignObjectError: the name is taken by an object that another controller owns.
        """
        try:
            return await self.create(resource, manifest)
        except AlreadyExistsError:
            metadata = manifest["metadata"]
            existing = await self.get(resource, metadata["namespace"], metadata["name"])
            if controller_uid(existing) != controller_uid(manifest):
                raise ForeignObjectError(
                    f"{resource.kind} {metadata['namespace']}/{metadata['name']}: the name is taken by an "
                    f"object that {controller_name(existing)} controls; delete it or rename the search"
                ) from None
            return existing

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        uid: str,
        status: Mapping[str, Any],
        *,
        resource_version: str = "",
    ) -> dict[str, Any]:
        """Merge into the status of the object with this uid (and, unless empty, of this version).

        Raises:
            ConflictError: it is another object or version by now.
        """
        precondition = {"resourceVersion": resource_version} if resource_version else {}
        body = {"metadata": {"uid": uid, **precondition}, "status": status}
        return await self._patch(resource, namespace, name, body, "status")

    async def patch(
        self, resource: Resource, namespace: str, name: str, uid: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge into the object with this uid; ``ConflictError`` where it is another one."""
        metadata = {**(body.get("metadata") or {}), "uid": uid}
        return await self._patch(resource, namespace, name, {**body, "metadata": metadata}, None)

    async def patch_event(
        self, namespace: str, name: str, resource: Resource, body: Mapping[str, Any]
    ) -> None:
        """Merge into an event, which has no uid that we would know."""
        await self._patch(resource, namespace, name, body, None)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> dict[str, Any] | None:
        """Delete the object with this uid, dependents in the background.

        Returns:
            The object where it lives on for a while (finalizers); ``None`` where it is gone, also when it was
            gone before or the name belongs to another object by now.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        try:
            answer = await self._call("delete", resource, "DELETE", resource.path(namespace, name), body=body)
        except (NotFoundError, ConflictError):
            return None
        return answer if answer.get("kind") == resource.kind else None

    async def is_served(self, resource: Resource) -> bool:
        """Say whether the API server knows the kind (the CRD is installed and established)."""
        path = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
        try:
            answer = await self._call("get", resource, "GET", path)
        except NotFoundError:
            return False
        return any(found["name"] == resource.plural for found in answer.get("resources") or ())

    async def _patch(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any], subresource: str | None
    ) -> dict[str, Any]:
        path = resource.path(namespace, name, subresource)
        return await self._call(
            "patch", resource, "PATCH", path, body=body, content_type=MERGE_PATCH, subresource=subresource
        )

    async def _call(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        content_type: str = "application/json",
        subresource: str | None = None,
    ) -> dict[str, Any]:
        """Send a request, bridge short outages, and turn what is wrong into our errors."""
        counted_as = f"{resource.plural}/{subresource}" if subresource else resource.plural
        headers = {"Accept": accept, "Content-Type": content_type}
        for attempt in range(self._retries.attempts):
            used = self._api
            try:
                async with self._slots:
                    if method != "GET" and not self._may_write():
                        raise FencedError(f"{method} {path}: not sent, this process may not write any more")
                    code, answer, retry_after = await self._send(method, path, query, dict(headers), body)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._count(verb, counted_as, "error")
                failure: ClusterError = UnavailableError(f"{method} {path}: {type(error).__name__}: {error}")
            else:
                self._count(verb, counted_as, str(code))
                if code < HTTPStatus.MULTIPLE_CHOICES:
                    return answer
                failure = _failure(f"{method} {path}", code, answer, retry_after)
            last = attempt + 1 == self._retries.attempts
            if last or not isinstance(failure, (UnavailableError, UnauthorizedError)):
                raise failure
            if isinstance(failure, UnauthorizedError):
                await self._renew(used)
            await asyncio.sleep(self._retries.pause(attempt, failure.retry_after_seconds))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None,
        headers: dict[str, str],
        body: Mapping[str, Any] | None,
    ) -> tuple[int, dict[str, Any], float | None]:
        api = self._api or await self._renew(None)
        _, url, headers, _, _ = await api.param_serialize(
            method, path, query_params=query or [], header_params=headers, auth_settings=["BearerToken"]
        )
        response = await api.rest_client.request(  # type: ignore[no-untyped-call]
            method, url, headers=headers, body=body, _request_timeout=self._timeout
        )
        raw = await response.read()
        return response.status, _parse(raw), _retry_after(response.headers.get("Retry-After"))

    async def _renew(self, used: kubernetes_client.ApiClient | None) -> kubernetes_client.ApiClient:
        """Read the credentials anew, once for all requests that were refused with the ones in ``used``."""
        async with self._renewing:
            if self._api is None or self._api is used:
                await self._connection.reload()
                old, self._api = self._api, self._connection.api_client()
                if old is not None:
                    await old.close()  # type: ignore[no-untyped-call]
            return self._api


def controller_uid(manifest: Manifest) -> str | None:
    """Uid of the owner that controls an object; ``None`` without one."""
    for reference in manifest["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return None


def controller_name(manifest: Manifest) -> str:
    """Kind and name of the controlling owner, for messages."""
    for reference in manifest["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return f"{reference['kind']} {reference['name']}"
    return "nobody"


def _parse(raw: bytes) -> dict[str, Any]:
    """Read a JSON object; proxies in between may answer with something else, which is kept as a message."""
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    return {"message": raw[:LONGEST_MESSAGE].decode(errors="replace")}


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header; its other form, a date, is not used by API servers."""
    return float(header) if header and header.isdigit() else None


def _failure(request: str, code: int, answer: Mapping[str, Any], retry_after: float | None) -> ClusterError:
    reason, message = str(answer.get("reason") or ""), str(answer.get("message") or "")
    kind = error_class(code, reason)
    return kind(f"{request}: {code} {reason}: {message[:LONGEST_MESSAGE]}", retry_after)
