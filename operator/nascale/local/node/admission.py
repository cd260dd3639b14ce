"""Whether a pod fits on the node: the check that a kubelet repeats after the scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from nascale.api.quantity import parse_quantity, to_milli


@dataclass(frozen=True)
class Refusal:
    """Why a pod was not taken: the reason and message of its status."""

    reason: str
    message: str


def pod_requests(pod: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return what a pod needs at once: all its containers, or its largest init container if that is more.

    Overhead comes on top. Every pod counts as one of the resource ``pods``.
    """
    spec = pod["spec"]
    total: dict[str, Decimal] = {}
    for container in spec["containers"]:
        for name, quantity in _requests(container).items():
            total[name] = total.get(name, Decimal(0)) + quantity
    for container in spec.get("initContainers") or []:
        for name, quantity in _requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), quantity)
    for name, text in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Decimal(0)) + parse_quantity(text)
    total["pods"] = Decimal(1)
    return total


def check_fit(
    pod: Mapping[str, Any], present: Iterable[Mapping[str, Any]], capacity: Mapping[str, str]
) -> Refusal | None:
    """Return why ``pod`` does not fit beside the pods that are ``present``, or None if it does."""
    requested = pod_requests(pod)
    used: dict[str, Decimal] = {}
    for other in present:
        for name, quantity in pod_requests(other).items():
            used[name] = used.get(name, Decimal(0)) + quantity
    for name in sorted(requested):
        limit = parse_quantity(capacity.get(name, "0"))
        already = used.get(name, Decimal(0))
        if requested[name] > 0 and already + requested[name] > limit:
            return Refusal(
                f"OutOf{name}",
                f"Node didn't have enough resource: {name}, requested: {_shown(name, requested[name])}, "
                f"used: {_shown(name, already)}, capacity: {_shown(name, limit)}",
            )
    return None


def _requests(container: Mapping[str, Any]) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: parse_quantity(quantity) for name, quantity in merged.items()}


def _shown(name: str, quantity: Decimal) -> int:
    # As the kubelet's message: CPU in thousandths, everything else in units.
    return to_milli(quantity) if name == "cpu" else int(quantity)
