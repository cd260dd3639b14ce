"""Free ports on the loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from typing import Final

from nascale.local.certificates import LOOPBACK
from nascale.local.errors import LocalError

FIRST: Final = 20_000
LAST: Final = 29_999
"""Below Linux's range for outgoing connections (32768 and up), which would otherwise take a port that is
free now before a restarted process needs it again, and below Kubernetes' node ports (30000 and up)."""
ATTEMPTS: Final = 1_000


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(names: Collection[str], *, reserved: Collection[int] = ()) -> dict[str, int]:
    """Choose a free port for each name.

    Args:
        names: What the ports are for.
        reserved: Ports that may be free now but belong to somebody.

    Raises:
        LocalError: no free port was found.
    """
    # Random, so that two clusters that start at the same moment don't try the same ports.
    source = random.SystemRandom()
    taken = set(reserved)
    chosen: dict[str, int] = {}
    for name in names:
        for _ in range(ATTEMPTS):
            port = source.randint(FIRST, LAST)
            if port not in taken and is_free(port):
                break
        else:
            raise LocalError(f"no free port for {name} between {FIRST} and {LAST} on {LOOPBACK}")
        taken.add(port)
        chosen[name] = port
    return chosen
