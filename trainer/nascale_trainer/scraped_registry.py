"""A registry of series that is served, and an exit that waits until its last values have been scraped.

A process may be shorter than a scrape interval. So the registry remembers, for each key, whether its last
change was part of a scrape that was served to the end, and ``close`` waits for exactly that, within bounds.
Any complete ``GET /metrics`` counts as a scrape: the exporter can't tell Prometheus from another client, and
who else may reach the port is the network policy's matter.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, generate_latest

from nascale.contract import environment
from nascale_trainer.scrape_server import Exposition, ScrapeServer

log = logging.getLogger(__name__)

STEP_BUCKETS: Final = (
    *(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128),
    *(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)
"""Seconds; powers of two from a tiny network on a processor to a large one at its memory's limit."""

_SIGNAL_CHECK_SECONDS: Final = 0.05
_LOCAL_ONLY: Final = "127.0.0.1"
_LAST_PORT: Final = 65_535


class ScrapedRegistry:
    """Serves a registry until closed.

    A port that can't be bound is logged and otherwise harmless: the report is exact without it. Then
    ``address`` is ``None``.

    Attributes:
        registry: Where collectors are registered.
    """

    def __init__(self, bind_address: str | None = None, port: int | None = None) -> None:
        """Start to serve.

        Args:
            bind_address: Where to listen; by default ``NASCALE_BIND_ADDRESS``, else this machine alone.
            port: The port, 0 for a free one; by default ``NASCALE_METRICS_PORT``, else 9464.
        """
        self.registry = CollectorRegistry(auto_describe=True)
        self._lock = threading.Lock()
        self._version: dict[Hashable, int] = {}
        self._scraped: dict[Hashable, int] = {}
        self._scrape_seen = threading.Event()
        self._interrupted = False
        self._server = self._serve(
            bind_address or os.environ.get(environment.BIND_ADDRESS) or _LOCAL_ONLY,
            metrics_port(os.environ) if port is None else port,
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port on which ``/metrics`` is served; ``None`` where it is not."""
        return self._server.address if self._server else None

    def changed(self, key: Hashable) -> None:
        """Take note that a value has changed; call it after the change."""
        with self._lock:
            self._version[key] = self._version.get(key, 0) + 1

    def acknowledged(self, wanted: Callable[[Hashable], bool]) -> bool:
        """Say whether the last change of each wanted key has been scraped.

        A key that never changed has nothing to be scraped.
        """
        with self._lock:
            return all(
                self._scraped.get(key, 0) >= version for key, version in self._version.items() if wanted(key)
            )

    def interrupt(self) -> None:
        """End a running or later wait of ``close`` at once; safe to call from a signal handler."""
        self._interrupted = True

    def close(self, wanted: Callable[[Hashable], bool], max_linger_seconds: float) -> bool:
        """Wait until the wanted keys have been scraped, then stop serving.

        It returns as soon as the last change of every wanted key was part of a scrape that began after it
        and was served to the end; at once where that is so already. SIGTERM ends the wait.

        Args:
            wanted: Which keys to wait for.
            max_linger_seconds: The longest wait.

        Returns:
            Whether all were scraped.
        """
        if self._server is None:
            return self.acknowledged(wanted)
        deadline = time.monotonic() + max_linger_seconds
        with self._interrupted_by_sigterm():
            while not self.acknowledged(wanted) and not self._interrupted:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                # A signal's handler runs between two waits: short ones make it seen soon.
                self._scrape_seen.wait(min(remaining, _SIGNAL_CHECK_SECONDS))
                self._scrape_seen.clear()
        self._server.stop()
        return self.acknowledged(wanted)

    def _serve(self, host: str, port: int) -> ScrapeServer | None:
        try:
            return ScrapeServer(host, port, self._expose)
        except OSError as error:
            log.warning("metrics are not served on %s port %d: %s", host, port, error)
            return None

    def _expose(self, accept: str) -> Exposition:
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # an Accept header with a version that is none
            encode, content_type = generate_latest, "text/plain; version=0.0.4; charset=utf-8"
        # Versions first: the page then holds them or later ones, and a change need not wait for the page.
        with self._lock:
            contained = dict(self._version)
        body = encode(self.registry)
        return Exposition(body, content_type, lambda: self._served(contained))

    def _served(self, contained: Mapping[Hashable, int]) -> None:
        with self._lock:
            for key, version in contained.items():
                self._scraped[key] = max(version, self._scraped.get(key, 0))
        self._scrape_seen.set()

    @contextmanager
    def _interrupted_by_sigterm(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may install handlers
            return
        before = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: FrameType | None) -> None:
            self.interrupt()
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def metrics_port(environ: Mapping[str, str]) -> int:
    """Return the port that the environment names, else the usual one."""
    text = environ.get(environment.METRICS_PORT) or str(environment.DEFAULT_METRICS_PORT)
    if not text.isdecimal() or int(text) > _LAST_PORT:
        log.warning(
            "%s must be a port from 0 to %d, not %r: serving on %d instead",
            environment.METRICS_PORT,
            _LAST_PORT,
            text[:16],
            environment.DEFAULT_METRICS_PORT,
        )
        return environment.DEFAULT_METRICS_PORT
    return int(text)
