"""Projected service-account tokens: bound to their pod, renewed before they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nascale.local.node.api import FORBIDDEN, ApiClient, ApiError
from nascale.local.node.clock import parse_timestamp

RENEWAL_SHARE: Final = 0.8
"""A token is renewed after this share of its life, as the kubelet does."""
DEFAULT_SECONDS: Final = 3600
FORBIDDEN_RETRIES: Final = 8
FORBIDDEN_PAUSE_SECONDS: Final = 0.02
"""Doubles; the API server's authorizer learns of a new pod a moment after the node sees it."""


@dataclass(frozen=True)
class Token:
    """A token and when to ask for the next."""

    text: str
    renew_at: float


class TokenSource:
    """The tokens of one pod."""

    def __init__(self, client: ApiClient, pod: Mapping[str, Any]) -> None:
        """Ask for nothing yet."""
        self._client = client
        self._pod = pod
        self._tokens: dict[tuple[str, int], Token] = {}

    async def get(self, projection: Mapping[str, Any]) -> str:
        """Return a valid token for a ``serviceAccountToken`` projection.

        Raises:
            ApiError: the API server gives none.
        """
        key = (
            projection.get("audience", ""),
            int(projection.get("expirationSeconds") or DEFAULT_SECONDS),
        )
        token = self._tokens.get(key)
        if token is None or token.renew_at <= time.time():
            token = self._tokens[key] = await self._request(*key)
        return token.text

    def next_renewal(self) -> float | None:
        """Return when the next token must be renewed, in seconds since 1970."""
        return min((token.renew_at for token in self._tokens.values()), default=None)

    async def _request(self, audience: str, seconds: int) -> Token:
        metadata = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
        asked = time.time()
        answer = await self._post_patiently(path, body)
        life = parse_timestamp(answer["status"]["expirationTimestamp"]) - asked
        return Token(answer["status"]["token"], asked + RENEWAL_SHARE * life)

    async def _post_patiently(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(FORBIDDEN_RETRIES):
            try:
                return await self._client.post(path, body)
            except ApiError as error:
                if error.status != FORBIDDEN:
                    raise
                await asyncio.sleep(FORBIDDEN_PAUSE_SECONDS * 2**attempt)
        return await self._client.post(path, body)
