"""What a node is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nascale.api.quantity import parse_quantity

LOOPBACK: Final = "127.0.0.1"
DEFAULT_POD_RANGE: Final = "127.88.0.0/16"
DEFAULT_PODS: Final = "110"
"""A kubelet's default for the number of pods."""


@dataclass(frozen=True)
class NodeSettings:
    """The settings of one node."""

    kubeconfig: Path
    name: str
    state_directory: Path
    capacity: dict[str, str]
    """Resource name to quantity. Always holds ``cpu``, ``memory`` and ``pods``."""
    pod_range: ipaddress.IPv4Network
    """Where the pods' addresses come from: a part of 127.0.0.0/8, all of which is this machine."""
    address: str = LOOPBACK
    """The node's own address: the API server calls it for logs."""
    claims_directory: Path | None = None
    """Where folders for claims of the storage class ``nascale-local`` are made; None: they are not."""
    port: int = 0
    """The port of the log server; 0 for a free one."""


def parse_capacity(text: str) -> dict[str, str]:
    """Read ``cpu=2,memory=8Gi,nvidia.com/gpu=1``.

    Raises:
        ValueError: a part is no ``name=quantity``, a quantity is negative, or cpu or memory is missing.
    """
    capacity: dict[str, str] = {"pods": DEFAULT_PODS}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, quantity = part.partition("=")
        if not separator or not name:
            raise ValueError(f"capacity: must be name=quantity pairs separated by commas, not {part!r}")
        if parse_quantity(quantity) < 0:
            raise ValueError(f"capacity: {name}: must be at least 0, not {quantity}")
        capacity[name] = quantity
    for name in ("cpu", "memory"):
        if name not in capacity:
            raise ValueError(f"capacity: {name}: must be given, as in cpu=2,memory=8Gi")
    return capacity


def parse_pod_range(text: str) -> ipaddress.IPv4Network:
    """Read the range of the pods' addresses.

    Raises:
        ValueError: the text is no IPv4 network of at least 8 addresses inside 127.0.0.0/8.
    """
    network = ipaddress.IPv4Network(text)
    smallest_prefix = 29
    if not network.subnet_of(ipaddress.IPv4Network("127.0.0.0/8")) or network.prefixlen > smallest_prefix:
        raise ValueError(f"pod-cidr: must be a part of 127.0.0.0/8 with at least 8 addresses, not {text}")
    return network
