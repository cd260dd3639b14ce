"""Which GPU belongs to which container."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nascale.api.quantity import parse_quantity
from nascale.local.node.environment import GPU_RESOURCE


def assign_devices(
    containers: Iterable[Mapping[str, Any]], taken: Iterable[Mapping[str, list[int]]], count: int
) -> dict[str, list[int]]:
    """Give each container as many GPUs as it asks for.

    Args:
        containers: Of a pod that fits on the node.
        taken: What the other pods have, by container.
        count: The node's GPUs. A pretended GPU has an index too: then it is only a number.
    """
    used = {index for pod in taken for indexes in pod.values() for index in indexes}
    free = [index for index in range(count) if index not in used]
    given: dict[str, list[int]] = {}
    for container in containers:
        resources = container.get("resources") or {}
        merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        wanted = int(parse_quantity(merged.get(GPU_RESOURCE, "0")))
        if wanted:
            given[container["name"]] = free[:wanted]
            free = free[wanted:]
    return given
