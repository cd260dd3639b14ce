"""Names of all series that nascale's code exports, as queries may use them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from nascale.contract import metric_names, training_series
from nascale.prometheus.exporter import OperatorMetrics

_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gauge": ("",),
    "info": ("_info",),
}


def operator_series() -> set[str]:
    """Return the operator's series."""
    return _series(OperatorMetrics().registry)


def pod_series() -> set[str]:
    """Return the series of trials' and trainings' own pods, as the contract names them."""
    constants = {**vars(metric_names), **vars(training_series)}
    names = {
        value
        for key, value in constants.items()
        if isinstance(value, str) and value.startswith("nascale_") and key != "PREFIX"
    }
    histograms = {metric_names.SERIES_TRIAL_STEP_SECONDS, training_series.STEP_SECONDS}
    return (names - histograms) | {name + suffix for name in histograms for suffix in _SUFFIXES["histogram"]}


def _series(registry: CollectorRegistry) -> set[str]:
    return {family.name + suffix for family in registry.collect() for suffix in _SUFFIXES[family.type]}
