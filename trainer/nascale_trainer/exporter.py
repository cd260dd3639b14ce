"""``/metrics`` of a trial."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from types import TracebackType
from typing import Self

from prometheus_client import Gauge, Histogram

from nascale.contract.metric_names import (
    SERIES_TRIAL_METRIC,
    SERIES_TRIAL_PROGRESS,
    SERIES_TRIAL_STEP_SECONDS,
    SERIES_TRIAL_TRAINING_LOSS,
)
from nascale_trainer.scraped_registry import STEP_BUCKETS, ScrapedRegistry


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
        self._served = ScrapedRegistry(bind_address, port)
        self.registry = self._served.registry
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

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port on which ``/metrics`` is served; ``None`` where it is not."""
        return self._served.address

    def set(self, trial: str, name: str, value: float) -> None:
        """Publish the final value of a metric."""
        self._values.labels(trial, name).set(value)
        self._served.changed((trial, name))

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
        return self._served.acknowledged(_of_metrics(wait_for))

    def interrupt(self) -> None:
        """End a running or later wait of ``close`` at once; safe to call from a signal handler."""
        self._served.interrupt()

    def close(self, wait_for: Iterable[str] = (), max_linger_seconds: float = 20.0) -> bool:
        """Wait until the metrics have been scraped, then stop serving; see ``ScrapedRegistry.close``.

        Args:
            wait_for: Names of metrics; ``order.exporter.wait_for``.
            max_linger_seconds: The longest wait; ``order.exporter.max_linger_seconds``.

        Returns:
            Whether all were scraped.
        """
        return self._served.close(_of_metrics(wait_for), max_linger_seconds)

    def __enter__(self) -> Self:
        """Serve within a ``with`` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving, without a wait."""
        self.close((), 0)


def _of_metrics(names: Iterable[str]) -> Callable[[Hashable], bool]:
    """Return what chooses keys (trial, metric) by the metric."""
    wanted = frozenset(names)
    return lambda key: isinstance(key, tuple) and key[1] in wanted
