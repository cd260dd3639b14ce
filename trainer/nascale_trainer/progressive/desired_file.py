"""The desired state as it reaches a pod: an annotation that the kubelet writes into a file.

The kubelet writes a new folder beside the old one and swaps a symbolic link, so a reader sees the whole old
or the whole new text. A look costs one ``stat`` as long as nothing has changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from nascale.contract import environment
from nascale.contract.errors import ContractError
from nascale.contract.run_order import DesiredState, parse_desired_state

MAX_BYTES: Final = 1 << 18
"""All annotations of an object together are at most 256 KiB."""
INTERVAL_SECONDS: Final = 0.05
"""Shortest time between two looks: steps of a tiny network would else spend themselves in system calls."""

log = logging.getLogger(__name__)

_Identity = tuple[int, int, int, int]


class DesiredFile:
    """Reads the newest desired state; never raises, for a broken document must not end a training.

    Attributes:
        broken: Documents that could not be used.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the file.

        Args:
            path: The file; ``None``: nobody sends desired states.
            interval_seconds: Shortest time between two looks, 0 or more.
            clock: Seconds.
        """
        self.broken = 0
        self._path = path
        self._interval = interval_seconds
        self._clock = clock
        self._next_look = -float("inf")
        self._seen: _Identity | None = None
        self._complaint = ""
        self._newest: DesiredState | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> DesiredFile:
        """Find the file by its variable."""
        name = environ.get(environment.DESIRED_STATE_FILE)
        return cls(Path(name) if name else None)

    def newest(self) -> DesiredState | None:
        """Return the desired state with the highest revision seen so far; ``None``: none yet."""
        now = self._clock()
        if self._path is None or now < self._next_look:
            return self._newest
        self._next_look = now + self._interval
        try:
            # The path leads through links that are swapped: stat tells of the file behind them.
            status = self._path.stat()
            identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            if identity != self._seen:
                text = self._read(self._path)
                self._seen = identity
                self._take(text)
        except FileNotFoundError:
            self._seen = None
        except (OSError, UnicodeDecodeError, ContractError, RecursionError) as error:
            self._complain(str(error))
        return self._newest

    def _read(self, path: Path) -> str:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ContractError(f"desired state: must be at most {MAX_BYTES} bytes")
        return content.decode()

    def _take(self, text: str) -> None:
        if not text.strip():  # the annotation isn't there yet
            return
        state = parse_desired_state(text)
        if self._newest is None or state.revision > self._newest.revision:
            self._newest = state
        self._complaint = ""

    def _complain(self, message: str) -> None:
        if message == self._complaint:
            return
        self._complaint = message
        self.broken += 1
        log.warning("the desired state is ignored: %s", message)
