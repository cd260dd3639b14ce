"""The operator's own metrics: documented names, no series that outlives its search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nascale.prometheus.exporter import OperatorMetrics
from nascale.reconcile.actions import Counted


def samples(metrics: OperatorMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.export().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def search_series(metrics: OperatorMetrics, search: str) -> set[str]:
    return {name for name, labels in samples(metrics) if ("search", search) in labels}


GAUGES = {
    "pareto_size": 3.0,
    "hypervolume": 0.5,
    "device_seconds": 12.0,
    "trials/Running": 2.0,
    "trials/Succeeded": 5.0,
    "best/accuracy": 0.9,
}


def test_a_searchs_figures_are_shown_with_its_name_and_namespace():
    metrics = OperatorMetrics()
    metrics.show("ArchitectureSearch", "team", "s", GAUGES)
    found = samples(metrics)
    own = (("namespace", "team"), ("search", "s"))
    assert found["nascale_search_hypervolume", own] == 0.5
    assert found["nascale_search_pareto_size", own] == 3.0
    assert found["nascale_search_trials", (*own, ("state", "Succeeded"))] == 5.0
    assert found["nascale_search_best_objective", (("metric", "accuracy"), *own)] == 0.9


def test_figures_that_are_no_longer_given_go():
    metrics = OperatorMetrics()
    metrics.show("ArchitectureSearch", "team", "s", GAUGES)
    metrics.show("ArchitectureSearch", "team", "s", {"trials/Succeeded": 7.0})
    assert search_series(metrics, "s") == {"nascale_search_trials"}


def test_all_series_of_a_search_go_with_it_and_others_stay():
    metrics = OperatorMetrics()
    metrics.show("ArchitectureSearch", "team", "s", GAUGES)
    metrics.show("ArchitectureSearch", "team", "other", GAUGES)
    before = search_series(metrics, "other")
    metrics.forget("ArchitectureSearch", "team", "s")
    metrics.forget("ArchitectureSearch", "team", "never-shown")
    assert search_series(metrics, "s") == set()
    assert search_series(metrics, "other") == before


def test_a_sweeps_figures_come_and_go_with_it():
    metrics = OperatorMetrics()
    gauges = {
        "trials/running": 2.0,
        "device_seconds/measuring": 7.0,
        "member_latency/s": 0.002,
        "member_quality/s": 0.93,
        "latency_model_error": 0.04,
        "reference_drift": -0.01,
    }
    metrics.show("ScalingSweep", "team", "w", gauges)
    metrics.show("ArchitectureSearch", "team", "w", GAUGES)
    found = samples(metrics)
    own = (("namespace", "team"), ("sweep", "w"))
    assert found["nascale_sweep_device_seconds", (*own[:1], ("phase", "measuring"), *own[1:])] == 7.0
    assert found["nascale_sweep_member_latency_seconds", (("member", "s"), *own)] == 0.002
    assert found["nascale_sweep_member_quality", (("member", "s"), *own)] == 0.93
    assert found["nascale_sweep_reference_drift", own] == -0.01
    metrics.forget("ScalingSweep", "team", "w")
    assert not [name for name, labels in samples(metrics) if ("sweep", "w") in labels]
    assert search_series(metrics, "w")


def test_counters_and_histograms_count_what_plans_say():
    metrics = OperatorMetrics()
    metrics.count(Counted("trials_finished", {"outcome": "Succeeded"}))
    metrics.count(Counted("trials_finished", {"outcome": "Succeeded"}))
    metrics.count(Counted("prometheus_fallbacks", {"reason": "NoSeries"}))
    metrics.count(Counted("trial_retries", {"cause": "OwnError"}))
    metrics.count(Counted("trial_run_seconds", {}, 12.5))
    found = samples(metrics)
    assert found["nascale_trials_finished_total", (("outcome", "Succeeded"),)] == 2
    assert found["nascale_prometheus_fallbacks_total", (("reason", "NoSeries"),)] == 1
    assert found["nascale_trial_retries_total", (("cause", "OwnError"),)] == 1
    assert found["nascale_trial_run_seconds_sum", ()] == 12.5


def test_counters_are_there_before_they_count_by_the_values_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(nascale_\w+_total)` \| counter \| `(\w+)` \((.+?)\) \|", page, re.MULTILINE)
    documented = {
        (name, ((label, value),)): 0.0
        for name, label, values in rows
        for value in re.findall(r"`(\w+)`", values)
    }
    names = {name for name, _ in documented}
    assert names == {
        "nascale_trials_finished_total",
        "nascale_trial_retries_total",
        "nascale_prometheus_fallbacks_total",
        "nascale_trainings_finished_total",
        "nascale_training_plans_total",
    }
    found = samples(OperatorMetrics())
    assert {key: value for key, value in found.items() if key[0] in names} == documented


@pytest.mark.parametrize("counted", [Counted("unheard_of"), Counted("trials_finished", {"nope": "x"})])
def test_unknown_names_and_labels_are_bugs_and_not_swallowed(counted):
    with pytest.raises((KeyError, ValueError)):
        OperatorMetrics().count(counted)


def test_requests_are_counted_by_verb_resource_and_code():
    metrics = OperatorMetrics()
    metrics.count_request("patch", "trials/status", "200")
    labels = (("code", "200"), ("resource", "trials/status"), ("verb", "patch"))
    assert samples(metrics)["nascale_api_requests_total", labels] == 1


def test_the_queues_depth_is_read_when_scraped():
    metrics = OperatorMetrics()
    depth = [0.0]
    metrics.watch_queue(lambda: depth[0])
    depth[0] = 4.0
    assert samples(metrics)["nascale_queue_depth", ()] == 4.0


def test_the_page_of_metrics_names_exactly_those_that_are_exported():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(nascale_[a-z_]+)` \|", page, re.MULTILINE))
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in OperatorMetrics().registry.collect()
    }
    # The info metric's sample is named with its suffix.
    exported = {"nascale_build_info" if name == "nascale_build" else name for name in exported}
    assert documented == exported
