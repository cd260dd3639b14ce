"""Devices of which several pods have a share: what is measured there depends on who has the others.

NVIDIA's device plugin hands out a GPU to several pods by time-slicing or MPS. With ``renameByDefault`` the
resource's name tells (``nvidia.com/gpu.shared``); without, only labels of the node do, which GPU feature
discovery sets: ``nvidia.com/gpu.replicas``, ``nvidia.com/gpu.sharing-strategy``, and a
``nvidia.com/gpu.product`` that ends in ``-SHARED``; of a MIG profile the same under its own name
(``nvidia.com/mig-1g.5gb.replicas``).
https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/gpu-sharing.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from nascale.reconcile.actions import Manifest
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion
from nascale.reconcile.observed import SharingNodes
from nascale.reconcile.pod_parts import ResourceLists, is_device

SHARED: Final = ".shared"
LABELLED: Final = "nvidia.com/"
"""Resources of this domain whose nodes carry the labels."""
REPLICAS: Final = ".replicas"
STRATEGY: Final = ".sharing-strategy"
_PRODUCT_SHARED: Final = "-SHARED"
_CONSEQUENCE: Final = "latency that is measured there depends on whoever has the other shares"
_PLACES: Final = (("trialTemplate",), ("target",), ("podTemplate",), ("placement",), ("defaults", "hardware"))
"""Where the specs of the three kinds name what a measuring pod asks for."""


def asked_of_nodes(owner: Manifest) -> tuple[str, ...]:
    """Return the resources that an owner's measuring pods ask for and that nodes have labels about, by name.

    Args:
        owner: The custom resource, which may be one that can't be carried out.
    """
    spec = owner.get("spec") or {}
    if "podTemplate" in spec and not spec.get("schedule"):
        # A training whose stages are written down measures nothing.
        return ()
    return tuple(sorted(name for name in _named(spec) if name.startswith(LABELLED)))


def _named(spec: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for place in _PLACES:
        part: Any = spec
        for key in place:
            part = (part or {}).get(key)
        resources = (part or {}).get("resources") or {}
        for entries in (resources.get("requests"), resources.get("limits"), resources):
            found |= {key for key in entries or () if is_device(key)}
    return found


def exclusiveness(
    resources: ResourceLists, node_selector: Mapping[str, str], nodes: SharingNodes
) -> Assertion | None:
    """Say whether measuring pods have their devices to themselves.

    Args:
        resources: What one of them asks for.
        node_selector: Labels of the nodes that the target allows.
        nodes: What is known of nodes that hand out shares.

    Returns:
        ``None`` where no device is asked for that anything could be known of.
    """
    kind = OwnerCondition.DEVICES_EXCLUSIVE
    devices = sorted(name for name in resources.get("limits", {}) if is_device(name))
    renamed = [name for name in devices if name.endswith(SHARED)]
    if renamed:
        message = f"{', '.join(renamed)} is a share of a device: {_CONSEQUENCE}"
        return assertion(kind, False, "SharedResource", message)
    labelled = [name for name in devices if name.startswith(LABELLED)]
    if not labelled:
        return None
    said = list(_selected(labelled, node_selector))
    if said:
        message = f"the node selector asks for {', '.join(said)}, nodes that hand out shares: {_CONSEQUENCE}"
        return assertion(kind, False, "SharedNodes", message)
    told = [text for name in labelled for text in _shares(name, node_selector, nodes.get(name, ()))]
    if told:
        return assertion(kind, False, "SharedNodes", f"{'; '.join(told)}: {_CONSEQUENCE}")
    if any(name not in nodes for name in labelled):
        message = "the operator does not read nodes: whether they hand out shares of a device is not known"
        return assertion(kind, None, "NodesNotRead", message)
    return assertion(kind, True, "NoShares", "no node of the target says that it hands out shares")


def _selected(devices: Iterable[str], node_selector: Mapping[str, str]) -> Iterator[str]:
    """Return the labels of a selector that only nodes with shares have."""
    for name in devices:
        keys = {
            f"{name}{REPLICAS}": _count(node_selector.get(f"{name}{REPLICAS}")) > 1,
            f"{name}{STRATEGY}": node_selector.get(f"{name}{STRATEGY}", "none") != "none",
            f"{name}.product": node_selector.get(f"{name}.product", "").endswith(_PRODUCT_SHARED),
        }
        yield from (f"{key}={node_selector[key]}" for key, shared in keys.items() if shared)


def _shares(name: str, node_selector: Mapping[str, str], nodes: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Say what nodes that the target allows hand out; how many, since their names are not everybody's."""
    wanted = node_selector.items()
    label = f"{name}{REPLICAS}"
    allowed = [labels for labels in nodes if wanted <= labels.items() and _count(labels.get(label)) > 1]
    if not allowed:
        return
    most = max(_count(labels.get(label)) for labels in allowed)
    strategies = sorted({labels.get(name + STRATEGY, "") for labels in allowed} - {"", "none"})
    by = f" by {' or '.join(strategies)}" if strategies else ""
    yield f"{len(allowed)} of the nodes that the target allows hand out {name} in up to {most} shares{by}"


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
