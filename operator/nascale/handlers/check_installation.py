"""``python -m nascale.handlers.check_installation``: is this installation whole? What ``helm test`` runs.

It looks at three things: that the API server serves the kinds, that the operator says it is ready, and that
it exports its metrics.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

import aiohttp

from nascale.cluster.client import ClusterClient
from nascale.cluster.connection import Connection, ConnectionSettingsError
from nascale.cluster.errors import ClusterError
from nascale.cluster.resources import OWNERS, TRIALS

URL_VARIABLE: Final = "NASCALE_OPERATOR_URL"
EXPORTED: Final = "nascale_build_info"
TIMEOUT_SECONDS: Final = 30.0


async def faults(url: str, connection: Connection) -> list[str]:
    """Return what is wrong with an installation; empty: nothing.

    Args:
        url: Base URL of the operator's endpoints.
        connection: To the API server.
    """
    return [*await _missing_kinds(connection), *await _operator_faults(url)]


async def _missing_kinds(connection: Connection) -> list[str]:
    client = ClusterClient(connection)
    try:
        return [
            f"{resource.plural}.{resource.group}: must be served, its CRD is not installed"
            for resource in (*OWNERS, TRIALS)
            if not await client.is_served(resource)
        ]
    except (ClusterError, ConnectionSettingsError) as error:
        return [f"the API server does not answer: {error}"]
    finally:
        await client.close()


async def _operator_faults(url: str) -> list[str]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    found: list[str] = []
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for path, expected in (("/healthz", ""), ("/readyz", ""), ("/metrics", EXPORTED)):
                async with session.get(url + path) as answer:
                    text = await answer.text()
                if not answer.ok:
                    found.append(f"{path}: must answer 200, not {answer.status}: {text.strip()}")
                elif expected not in text:
                    found.append(f"{path}: must hold {expected}")
    except (aiohttp.ClientError, TimeoutError) as error:
        found.append(f"{url}: the operator does not answer: {type(error).__name__}: {error}")
    return found


def main() -> None:
    """Say what is wrong on standard output, and exit 1 for it."""
    url = os.environ.get(URL_VARIABLE, "")
    if not url:
        sys.exit(f"{URL_VARIABLE}: must be the base URL of the operator's endpoints")
    found = asyncio.run(faults(url, Connection(os.environ.get("KUBECONFIG", ""))))
    print("\n".join(found) or "the kinds are served, the operator is ready")  # noqa: T201 - what helm test shows
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
