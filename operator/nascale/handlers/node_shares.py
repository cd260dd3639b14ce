"""Which nodes hand out shares of a device: their labels say so, and nothing else of a node is read."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from nascale.cluster.client import ClusterClient
from nascale.cluster.errors import ClusterError, ForbiddenError
from nascale.cluster.resources import NODES
from nascale.reconcile.actions import Manifest
from nascale.reconcile.observed import SharingNodes
from nascale.reconcile.shared_devices import REPLICAS, asked_of_nodes

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 600.0
"""How a node's devices are handed out changes when somebody configures the device plugin anew: seldom."""
AFTER_FAILURE_SECONDS: Final = 60.0
AFTER_REFUSAL_SECONDS: Final = 3600.0
LONGEST_LABEL_NAME: Final = 63


@dataclass(frozen=True)
class _Answer:
    nodes: tuple[dict[str, str], ...] | None
    next_look: datetime


class NodeShares:
    """Lists the labels of nodes with shares, seldom, once for all owners that ask for the same resource.

    Args:
        client: Lists nodes.
        allowed: Whether the installation lets the operator do so; else nothing is known.
    """

    def __init__(self, client: ClusterClient, *, allowed: bool) -> None:
        self._client = client
        self._allowed = allowed
        self._answers: dict[str, _Answer] = {}
        self._looking = asyncio.Lock()

    async def look(self, owner: Manifest, now: datetime) -> SharingNodes:
        """Return what is known of the nodes with shares of what an owner's measuring pods ask for."""
        if not self._allowed or (owner.get("status") or {}).get("completionTime") is not None:
            return {}
        found: dict[str, tuple[dict[str, str], ...]] = {}
        for name in asked_of_nodes(owner):
            nodes = await self._nodes(name, now)
            if nodes is not None:
                found[name] = nodes
        return found

    async def _nodes(self, name: str, now: datetime) -> tuple[dict[str, str], ...] | None:
        async with self._looking:
            answer = self._answers.get(name)
            if answer is None or now >= answer.next_look:
                answer = await self._ask(name, now, None if answer is None else answer.nodes)
                self._answers[name] = answer
        return answer.nodes

    async def _ask(self, name: str, now: datetime, known: tuple[dict[str, str], ...] | None) -> _Answer:
        label = f"{name}{REPLICAS}"
        if len(label.rpartition("/")[2]) > LONGEST_LABEL_NAME:
            return _Answer((), now + timedelta(seconds=INTERVAL_SECONDS))
        # notin alone would select all nodes without the label as well.
        sharing = replace(NODES, label_selector=f"{label},{label} notin (0,1)")
        try:
            listing = await self._client.list_objects(sharing, None, metadata_only=True)
        except ForbiddenError as error:
            logger.warning("whether nodes share their devices is not known, they may not be read: %s", error)
            return _Answer(None, now + timedelta(seconds=AFTER_REFUSAL_SECONDS))
        except ClusterError as error:
            logger.warning("nodes that share their devices could not be listed: %s", error)
            return _Answer(known, now + timedelta(seconds=AFTER_FAILURE_SECONDS))
        nodes = tuple(item["metadata"].get("labels") or {} for item in listing.items)
        return _Answer(nodes, now + timedelta(seconds=INTERVAL_SECONDS))
