"""PromQL for the values of a finished trial."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from nascale.api.architecture_search import Objective
from nascale.contract.metric_names import SERIES_TRIAL_METRIC
from nascale.contract.work_order import MetricSource

_PLACEHOLDER: Final = re.compile(r"\$(trial|pod|namespace)\b")
_SAFE_VALUE: Final = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
_WINDOW_MARGIN_SECONDS: Final = 60
"""Clocks of node and operator differ, and a sample's time is the scrape's."""


def asked_of_prometheus(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """Return the objectives whose values are read from Prometheus first."""
    return tuple(entry for entry in objectives if entry.source is MetricSource.PROMETHEUS)


def placeholders(query: str) -> frozenset[str]:
    """Return which of ``$trial``, ``$pod`` and ``$namespace`` a query names."""
    return frozenset(_PLACEHOLDER.findall(query))


def filled_in(query: str, values: Mapping[str, str]) -> str:
    """Put the trial's names into a query.

    Only ``$trial``, ``$pod`` and ``$namespace`` are replaced, in one pass; a ``$`` of any other kind
    (an anchor in a regular expression) stays as it is.

    Args:
        query: PromQL.
        values: Names by placeholder.

    Raises:
        ValueError: a value is no DNS name: it could end the label matcher that it stands in.
    """
    for key, value in values.items():
        if not _SAFE_VALUE.match(value):
            raise ValueError(f"{key}: must be a DNS name, not {value!r}")
    return _PLACEHOLDER.sub(lambda found: values[found.group(1)], query)


def default_query(metric: str, window_seconds: int) -> str:
    """Return the query for a value that the trial's own exporter shows."""
    return (
        f'last_over_time({SERIES_TRIAL_METRIC}{{trial="$trial",metric="{metric}",'
        f'pod="$pod",namespace="$namespace"}}[{window_seconds}s])'
    )


def queries_for(
    objectives: Sequence[Objective],
    *,
    trial: str,
    pod: str,
    namespace: str,
    lifetime_seconds: float,
) -> dict[str, str]:
    """Return the queries for one finished trial, by metric.

    Args:
        objectives: Those of the search; only those with source Prometheus are asked for.
        trial: Name of the Trial.
        pod: Name of its pod.
        namespace: Namespace of both.
        lifetime_seconds: From the pod's start until now: the default query looks back as far, and a
            little further.
    """
    window = math.ceil(max(0.0, lifetime_seconds)) + _WINDOW_MARGIN_SECONDS
    values = {"trial": trial, "pod": pod, "namespace": namespace}
    return {
        entry.metric: filled_in(entry.query or default_query(entry.metric, window), values)
        for entry in asked_of_prometheus(objectives)
    }
