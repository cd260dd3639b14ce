"""Times as the API writes them."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def timestamp(seconds: float | None = None) -> str:
    """Return RFC 3339 with whole seconds (now by default)."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp() -> str:
    """Return the present moment with microseconds, as leases have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> float:
    """Return seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()
