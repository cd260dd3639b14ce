"""The operator's own metrics. Names and labels are documented in ``docs/metrics.md``.

Labels are of bounded sets, except those of the gauges of searches and sweeps, whose series go with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import nascale
from nascale.api.trial import TrialOutcome
from nascale.reconcile.actions import Counted, ReadingProblem
from nascale.reconcile.verdict import Cause

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)


@dataclass(frozen=True)
class _Figure:
    """A gauge of a search or sweep.

    Attributes:
        name: Last part of its name.
        text: What it means.
        label: What its series differ by; empty: there is one per object.
    """

    name: str
    text: str
    label: str = ""


_SEARCH: Final[Mapping[str, _Figure]] = {
    "pareto_size": _Figure("pareto_size", "Trials on the search's Pareto front."),
    "hypervolume": _Figure(
        "hypervolume", "Hypervolume of the search's Pareto front in scaled objectives, 0 to 1."
    ),
    "device_seconds": _Figure("device_seconds", "Seconds that the search's pods have held their devices."),
    "trials": _Figure("trials", "Trials of the search by state.", "state"),
    "best": _Figure("best_objective", "Best value on the front, in the objective's own unit.", "metric"),
    "latest": _Figure(
        "latest_objective", "Value of the trial that ended last, in the objective's own unit.", "metric"
    ),
}
_SWEEP: Final[Mapping[str, _Figure]] = {
    "trials": _Figure("trials", "Trials of the sweep by state.", "state"),
    "device_seconds": _Figure(
        "device_seconds", "Seconds that the sweep's pods have held their devices, by what for.", "phase"
    ),
    "member_latency": _Figure("member_latency_seconds", "Measured latency of the family's member.", "member"),
    "member_quality": _Figure(
        "member_quality", "Quality of the family's member, in the objective's own unit.", "member"
    ),
    "latency_model_error": _Figure(
        "latency_model_error",
        "Median relative error of the latency model's predictions, each made before its measurement.",
    ),
    "reference_drift": _Figure(
        "reference_drift", "Latest latency of the reference network over its median, minus 1."
    ),
}
_TRAINING: Final[Mapping[str, _Figure]] = {
    "generation": _Figure("desired_generation", "Number of the training's latest Job."),
    "desired_revision": _Figure("desired_revision", "Revision of the desired state that the pods were told."),
    "applied_revision": _Figure("known_applied_revision", "Revision that the training is known to follow."),
    "workers": _Figure("desired_workers", "Pods of the training's latest Job."),
    "suspended": _Figure("suspended", "1 where the training is suspended or being so."),
    "samples": _Figure("known_samples", "Samples that the training is known to have taken."),
    "progress": _Figure("progress_ratio", "Share of the training's length that is done, 0 to 1."),
    "lost_steps": _Figure("known_lost_steps", "Steps that are known to have been done again after a crash."),
    "device_seconds": _Figure("device_seconds", "Seconds that the training's pods have held their devices."),
    "condition": _Figure("condition", "1 where the training's condition is true.", "type"),
    "plan": _Figure("plan", "Number of the training's generated plan."),
    "planned_seconds": _Figure("planned_seconds", "Predicted time of the generated schedule."),
    "constant_seconds": _Figure(
        "constant_seconds", "Predicted time with the settings of spec.defaults throughout."
    ),
    "prediction_error": _Figure(
        "prediction_error", "Median relative error of predicted step times over held-out measurements."
    ),
    "profile_seconds": _Figure(
        "profile_device_seconds", "Seconds that measurements and proxies have held their devices.", "phase"
    ),
    "planned_ratio": _Figure("planned_throughput_ratio", "Measured over predicted throughput.", "stage"),
    "switch_seconds": _Figure("stage_switch_seconds", "Time of the switch into the stage.", "stage"),
}
_FIGURES: Final[Mapping[str, Mapping[str, _Figure]]] = {
    "search": _SEARCH,
    "sweep": _SWEEP,
    "training": _TRAINING,
}
"""Gauges by the noun in their names and by the name that plans give them."""
_NOUNS: Final[Mapping[str, str]] = {
    "ArchitectureSearch": "search",
    "ScalingSweep": "sweep",
    "ProgressiveTraining": "training",
}

_KNOWN_VALUES: Final[Mapping[str, Iterable[str]]] = {
    "trials_finished": TrialOutcome,
    "trainings_finished": ("Succeeded", "Failed"),
    "training_plans": ("Generated", "Replanned"),
    "trial_retries": Cause,
    "prometheus_fallbacks": ReadingProblem,
}
"""Values of each counter's one label. Their series are there from the start, at 0: a rate over a series that
begins at 1 misses the first time, and a panel without any series does not tell whether all is well."""


class OperatorMetrics:
    """Counters, histograms and gauges on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._make_counters()
        self._make_gauges()

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
        self.leader = Gauge(
            "nascale_leader",
            "1 where this replica is the one that works, 0 where it stands by.",
            registry=registry,
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
            "trainings_finished": Counter(
                "nascale_trainings_finished", "Trainings that ended.", ("outcome",), registry=registry
            ),
            "training_generations": Counter(
                "nascale_training_generations", "Jobs made for trainings.", registry=registry
            ),
            "training_plans": Counter(
                "nascale_training_plans", "Schedules made for trainings.", ("cause",), registry=registry
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
        for name, values in _KNOWN_VALUES.items():
            for value in values:
                self._counters[name].labels(str(value))
        self._histograms = {
            "trial_wait_seconds": Histogram(
                "nascale_trial_wait_seconds",
                "Time from a trial's creation to the start of its container.",
                buckets=_SLOW,
                registry=registry,
            ),
            "training_switch_seconds": Histogram(
                "nascale_training_switch_duration_seconds",
                "Time of a switch between two stages.",
                ("class",),
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

    def _make_gauges(self) -> None:
        self._gauges: dict[tuple[str, str], Gauge] = {}
        for noun, figures in _FIGURES.items():
            for key, figure in figures.items():
                labels = ["namespace", noun, *([figure.label] if figure.label else [])]
                name = f"nascale_{noun}_{figure.name}"
                self._gauges[noun, key] = Gauge(name, figure.text, labels, registry=self.registry)
        self._series: dict[tuple[str, str, str], set[tuple[str, ...]]] = {}

    def expect_errors(self, reasons: Iterable[str]) -> None:
        """Show from the start that no reconcile of any kind has failed for these reasons yet."""
        for reason in reasons:
            for kind in _NOUNS:
                self.reconcile_errors.labels(kind, reason)

    def count_request(self, verb: str, resource: str, code: str) -> None:
        """Count one request to the API server."""
        self.api_requests.labels(verb, resource, code).inc()

    def count(self, counted: Counted) -> None:
        """Count what a plan has brought about.

        Raises:
            KeyError: there is no counter or histogram of that name.
        """
        if counted.name in self._histograms:
            histogram = self._histograms[counted.name]
            (histogram.labels(**counted.labels) if counted.labels else histogram).observe(counted.amount)
            return
        counter = self._counters[counted.name]
        (counter.labels(**counted.labels) if counted.labels else counter).inc(counted.amount)

    def show(self, kind: str, namespace: str, name: str, gauges: Mapping[str, float]) -> None:
        """Show a search's or sweep's present figures; figures that are no longer given go.

        Args:
            kind: Of the custom resource.
            namespace: Of the custom resource.
            name: Its name.
            gauges: Values by name: ``pareto_size`` and the like, ``trials/<state>``, ``best/<metric>``.

        Raises:
            KeyError: there is no gauge of that name, or no gauges of that kind.
        """
        shown: set[tuple[str, ...]] = set()
        for key, value in gauges.items():
            figure, *label = key.split("/", 1)
            self._gauges[_NOUNS[kind], figure].labels(namespace, name, *label).set(value)
            shown.add((figure, *label))
        self._remove(kind, namespace, name, self._series.get((kind, namespace, name), set()) - shown)
        self._series[kind, namespace, name] = shown

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """Remove all series of a search or sweep that is gone."""
        self._remove(kind, namespace, name, self._series.pop((kind, namespace, name), set()))

    def export(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def watch_queue(self, depth: Callable[[], float]) -> None:
        """Take the queue's depth from the queue itself, at each scrape."""
        self.queue_depth.set_function(depth)

    def _remove(self, kind: str, namespace: str, name: str, series: set[tuple[str, ...]]) -> None:
        for figure, *label in series:
            self._gauges[_NOUNS[kind], figure].remove(namespace, name, *label)
