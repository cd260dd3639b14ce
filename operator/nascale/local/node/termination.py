"""The message that a container leaves at its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MAX_MESSAGE: Final = 4096
"""Bytes of one container's message."""
MAX_POD_MESSAGES: Final = 12288
"""Bytes of all messages of a pod."""
FALLBACK_BYTES: Final = 2048
FALLBACK_LINES: Final = 80


def message_limit(containers: int) -> int:
    """Return how many bytes the message of each of so many containers may have."""
    return min(MAX_MESSAGE, MAX_POD_MESSAGES // max(containers, 1))


def read_message(path: Path, log: Path | None, limit: int) -> str:
    """Return the last ``limit`` bytes of the message's file, or else the end of the log if one is given."""
    message = _tail(path, limit)
    if message or log is None:
        return message
    lines = _tail(log, min(FALLBACK_BYTES, limit)).splitlines(keepends=True)
    return "".join(lines[-FALLBACK_LINES:])


def _tail(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(max(0, size - limit))
            return stream.read(limit).decode(errors="replace")
    except (FileNotFoundError, IsADirectoryError):
        return ""
