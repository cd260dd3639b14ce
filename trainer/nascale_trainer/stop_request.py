"""SIGTERM, remembered until the work looks."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers SIGTERM."""

    def __init__(self) -> None:
        """Remember none yet."""
        self.received = False

    def install(self) -> None:
        """Take over the signal; as a container's first process, one without a handler would never end."""
        signal.signal(signal.SIGTERM, self._handle)

    def __call__(self) -> bool:
        """Say whether the process was asked to end."""
        return self.received

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True
