"""``/metrics`` of a trial, and an exit that waits until its final values have been scraped.

A trial may be shorter than a scrape interval. So the exporter remembers, for each metric, whether its last
value was part of a scrape that was served to the end, and ``Metrics.close`` waits for exactly that, within
bounds. Any complete ``GET /metrics`` counts as a scrape: the exporter can't tell Prometheus from another
client, and who else may reach the port is the network policy's matter.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.exposition import choose_encoder, generate_latest

from nascale.contract import environment
from nascale.contract.metric_names import (
    SERIES_TRIAL_METRIC,
    SERIES_TRIAL_PROGRESS,
    SERIES_TRIAL_STEP_SECONDS,
    SERIES_TRIAL_TRAINING_LOSS,
)
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

Key = tuple[str, str]
"""Trial and metric."""


class Metrics:
    """Serves a trial's metrics until closed.

    A port that can't be bound is logged and otherwise harmless: the report is exact without it. Then
    ``address`` is ``None``.
    """

    def __init__(self, bind_address: str | None = None, port: int | None = None) -> None:
        """Start to serve.

        Args:
            bind_address: Where to listen; by default ``NASCALE_BIND_ADDRESS``, else this machine alone.
            port: The port, 0 for a free one; by default ``NASCALE_METRICS_PORT``, else 9464.
        """
        self.registry = CollectorRegistry(auto_describe=True)
        self._values = Gauge(
            SERIES_TRIAL_METRIC,
            "Final value of a trial's metric.",
            ("trial", "metric"),
            registry=self.registry,
        )
        self._progress = Gauge(
            SERIES_TRIAL_PROGRESS,
            "Share of the trial's work that is done, 0 to 1.",
            ("trial",),
            registry=self.registry,
        )
        self._loss = Gauge(
            SERIES_TRIAL_TRAINING_LOSS,
            "Loss of the training so far: mean of the last epoch, nats.",
            ("trial",),
            registry=self.registry,
        )
        self._steps = Histogram(
            SERIES_TRIAL_STEP_SECONDS,
            "Wall time of one training step, seconds.",
            ("trial",),
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self._lock = threading.Lock()
        self._version: dict[Key, int] = {}
        self._scraped: dict[Key, int] = {}
        self._scrape_seen = threading.Event()
        self._interrupted = False
        self._server = self._serve(
            bind_address or os.environ.get(environment.BIND_ADDRESS) or _LOCAL_ONLY,
            _port(os.environ) if port is None else port,
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port on which ``/metrics`` is served; ``None`` where it is not."""
        return self._server.address if self._server else None

    def set(self, trial: str, name: str, value: float) -> None:
        """Publish the final value of a metric."""
        with self._lock:
            self._values.labels(trial, name).set(value)
            key = (trial, name)
            self._version[key] = self._version.get(key, 0) + 1

    def progress(self, trial: str, ratio: float) -> None:
        """Publish how much of the trial's work is done, 0 to 1."""
        self._progress.labels(trial).set(min(max(ratio, 0.0), 1.0))

    def training_loss(self, trial: str, nats: float) -> None:
        """Publish the training's loss so far."""
        self._loss.labels(trial).set(nats)

    def step(self, trial: str, seconds: float) -> None:
        """Count one training step."""
        self._steps.labels(trial).observe(seconds)

    def acknowledged(self, wait_for: Iterable[str]) -> bool:
        """Say whether the last value of each of these metrics, of every trial, has been scraped.

        A metric that was never set has nothing to be scraped.
        """
        names = frozenset(wait_for)
        with self._lock:
            return all(
                self._scraped.get(key, 0) >= version
                for key, version in self._version.items()
                if key[1] in names
            )

    def interrupt(self) -> None:
        """End a running or later wait of ``close`` at once; safe to call from a signal handler."""
        self._interrupted = True

    def close(self, wait_for: Iterable[str] = (), max_linger_seconds: float = 20.0) -> bool:
        """Wait until the metrics have been scraped, then stop serving.

        It returns as soon as the last value of every metric in ``wait_for`` was part of a scrape that began
        after it was set and was served to the end; at once where that is so already. SIGTERM ends the wait.

        Args:
            wait_for: Names of metrics; ``order.exporter.wait_for``.
            max_linger_seconds: The longest wait; ``order.exporter.max_linger_seconds``.

        Returns:
            Whether all were scraped.
        """
        names = frozenset(wait_for)
        if self._server is None:
            return self.acknowledged(names)
        deadline = time.monotonic() + max_linger_seconds
        with self._interrupted_by_sigterm():
            while not self.acknowledged(names) and not self._interrupted:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                # A signal's handler runs between two waits: short ones make it seen soon.
                self._scrape_seen.wait(min(remaining, _SIGNAL_CHECK_SECONDS))
                self._scrape_seen.clear()
        self._server.stop()
        return self.acknowledged(names)

    def __enter__(self) -> Self:
        """Serve within a ``with`` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving, without a wait."""
        self.close((), 0)

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
        with self._lock:
            contained = dict(self._version)
            body = encode(self.registry)
        return Exposition(body, content_type, lambda: self._served(contained))

    def _served(self, contained: Mapping[Key, int]) -> None:
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


def _port(environ: Mapping[str, str]) -> int:
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
