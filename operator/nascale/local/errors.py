"""What can go wrong with an embedded cluster; each message is written for who runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

TAIL_LINES: Final = 30


class LocalError(RuntimeError):
    """The embedded cluster can't do what was asked."""


class ClusterError(LocalError):
    """The cluster could not be brought to the wanted state, or does not exist."""


class SourceError(LocalError):
    """The CRDs or the chart were not found, or were refused."""


class ApiError(LocalError):
    """A server refused a request."""

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        """Keep the status; the message holds what the server says."""
        self.status = status
        super().__init__(f"{method} {path}: {status}: {body.strip()[:1000]}")


class BuildError(LocalError):
    """A program could not be built."""

    def __init__(self, command: Sequence[str], code: int, output: str) -> None:
        """Say which command failed, and the end of what it printed."""
        tail = "\n".join(output.strip().splitlines()[-TAIL_LINES:])
        super().__init__(f"{' '.join(command)}\nfailed with exit code {code}:\n{tail or '(no output)'}")
