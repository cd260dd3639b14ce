"""The operator's own metrics. Names and labels are documented in ``docs/metrics.md``.

Labels are of bounded sets, except those of the per-search gauges, whose series go with their search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import nascale
from nascale.reconcile.actions import Counted

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
_SEARCH_LABELS: Final = ("namespace", "search")

SEARCH_GAUGES: Final[Mapping[str, str]] = {
    "pareto_size": "Trials on the search's Pareto front.",
    "hypervolume": "Hypervolume of the search's Pareto front in scaled objectives, 0 to 1.",
    "device_seconds": "Seconds that the search's pods have held their devices.",
}
"""Gauges of a plan that need no further label."""


class OperatorMetrics:
    """Counters, histograms and gauges on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._make_counters()
        self._make_search_gauges()

    def _make_counters(self) -> None:
        registry = self.registry
        self.reconcile_duration = Histogram(
            "nascale_reconcile_duration_seconds",
            "Time of one reconcile, from the snapshot to the last write.",
            ("kind", "result"),
            buckets=_FAST,
            registry=registry,
        )
        self.reconcile_errors = Counter(
            "nascale_reconcile_errors", "Reconciles that failed.", ("kind", "reason"), registry=registry
        )
        self.queue_depth = Gauge(
            "nascale_queue_depth", "Objects that wait for a reconcile.", registry=registry
        )
        self.api_requests = Counter(
            "nascale_api_requests",
            "Requests to the API server but for watches, by HTTP status (error: none came).",
            ("verb", "resource", "code"),
            registry=registry,
        )
        self.watch_last_event = Gauge(
            "nascale_watch_last_event_timestamp_seconds",
            "When the last watch event arrived.",
            ("resource",),
            registry=registry,
        )
        Info("nascale_build", "Version of the operator.", registry=registry).info(
            {"version": nascale.__version__}
        )
        self._counters = {
            "trials_finished": Counter(
                "nascale_trials_finished", "Trials that ended.", ("outcome",), registry=registry
            ),
            "trial_retries": Counter(
                "nascale_trial_retries", "Attempts begun after a failed one.", ("cause",), registry=registry
            ),
            "prometheus_fallbacks": Counter(
                "nascale_prometheus_fallbacks",
                "Values taken from a report because Prometheus had none.",
                ("reason",),
                registry=registry,
            ),
        }
        self._histograms = {
            "trial_wait_seconds": Histogram(
                "nascale_trial_wait_seconds",
                "Time from a trial's creation to the start of its container.",
                buckets=_SLOW,
                registry=registry,
            ),
            "trial_run_seconds": Histogram(
                "nascale_trial_run_seconds",
                "Time from the start of a trial's container to its end.",
                buckets=_SLOW,
                registry=registry,
            ),
        }

    def _make_search_gauges(self) -> None:
        self._gauges: dict[str, Gauge] = {
            name: Gauge(f"nascale_search_{name}", text, _SEARCH_LABELS, registry=self.registry)
            for name, text in SEARCH_GAUGES.items()
        }
        self._labelled: dict[str, Gauge] = {
            "trials": Gauge(
                "nascale_search_trials",
                "Trials of the search by state.",
                (*_SEARCH_LABELS, "state"),
                registry=self.registry,
            ),
            "best": Gauge(
                "nascale_search_best_objective",
                "Best value on the front, in the objective's own unit.",
                (*_SEARCH_LABELS, "metric"),
                registry=self.registry,
            ),
        }
        self._series: dict[tuple[str, str], set[tuple[str, str]]] = {}

    def count_request(self, verb: str, resource: str, code: str) -> None:
        """Count one request to the API server."""
        self.api_requests.labels(verb, resource, code).inc()

    def count(self, counted: Counted) -> None:
        """Count what a plan has brought about.

        Raises:
            KeyError: there is no counter or histogram of that name.
        """
        if counted.name in self._histograms:
            self._histograms[counted.name].observe(counted.amount)
            return
        self._counters[counted.name].labels(**counted.labels).inc(counted.amount)

    def show_search(self, namespace: str, search: str, gauges: Mapping[str, float]) -> None:
        """Show a search's present figures; figures that are no longer given go.

        Args:
            namespace: Of the search.
            search: Its name.
            gauges: Values by name: ``pareto_size`` and the like, ``trials/<state>``, ``best/<metric>``.

        Raises:
            KeyError: there is no gauge of that name.
        """
        shown: set[tuple[str, str]] = set()
        for key, value in gauges.items():
            name, _, label = key.partition("/")
            if label:
                self._labelled[name].labels(namespace, search, label).set(value)
            else:
                self._gauges[name].labels(namespace, search).set(value)
            shown.add((name, label))
        for name, label in self._series.get((namespace, search), set()) - shown:
            self._remove(namespace, search, name, label)
        self._series[namespace, search] = shown

    def forget_search(self, namespace: str, search: str) -> None:
        """Remove all series of a search that is gone."""
        for name, label in self._series.pop((namespace, search), set()):
            self._remove(namespace, search, name, label)

    def export(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def watch_queue(self, depth: Callable[[], float]) -> None:
        """Take the queue's depth from the queue itself, at each scrape."""
        self.queue_depth.set_function(depth)

    def _remove(self, namespace: str, search: str, name: str, label: str) -> None:
        if label:
            self._labelled[name].remove(namespace, search, label)
        else:
            self._gauges[name].remove(namespace, search)
