"""One loopback address per pod, so that every pod may listen on the same port."""

from __future__ import annotations

import ipaddress


class AddressPool:
    """Hands out the host addresses of a range, least recently used first.

    A metrics server would take a new pod at the address of one that just ended for the same target, so an
    address comes back only after all others were used.
    """

    def __init__(self, network: ipaddress.IPv4Network) -> None:
        """Start with every address of ``network`` free, except its first and last."""
        self._first = int(network.network_address) + 1
        self._count = network.num_addresses - 2
        self._next = 0
        self._taken: set[str] = set()

    def take(self) -> str:
        """Return a free address.

        Raises:
            RuntimeError: all are taken.
        """
        for _ in range(self._count):
            address = str(ipaddress.IPv4Address(self._first + self._next))
            self._next = (self._next + 1) % self._count
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise RuntimeError(f"all {self._count} pod addresses are taken")

    def claim(self, address: str) -> None:
        """Mark an address that a pod of an earlier run of the node has."""
        self._taken.add(address)
        offset = int(ipaddress.IPv4Address(address)) - self._first
        if 0 <= offset < self._count:
            self._next = max(self._next, (offset + 1) % self._count)

    def release(self, address: str) -> None:
        """Give an address back."""
        self._taken.discard(address)
