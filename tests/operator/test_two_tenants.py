"""Two teams on one cluster: what one writes into its namespace does not reach the other's objects."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.operator.searches import AuditTrail, Namespace, scraped_search, shell_search, wait_until

from nascale.local.instance import LocalCluster
from nascale.prometheus.client import PrometheusClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

INTRUDER = """
import json, os, time
from pathlib import Path
from nascale_trainer import Metrics
metrics = Metrics(os.environ.get("NASCALE_BIND_ADDRESS"), int(os.environ["NASCALE_METRICS_PORT"]))
trial = os.environ["FORGED_TRIAL"]
metrics.set(trial, "latency_p50_seconds", -1.0)
result = {"trial": trial, "outcome": "Succeeded", "metrics": {"error": -1.0, "latency_p50_seconds": -1.0}}
report = {"version": "nascale.io/report/v1", "attempt": 0, "results": [result]}
Path(os.environ["NASCALE_TERMINATION_LOG"]).write_text(json.dumps(report))
time.sleep(20)
"""
"""Says under a foreign trial's name what nobody has measured, by report and by metrics."""


@pytest.fixture
def other(namespace: Namespace, operator_cluster: LocalCluster) -> Iterator[Namespace]:
    """The other team's namespace."""
    name = f"{namespace.name}-other"
    operator_cluster.kubectl("create", "namespace", name)
    yield Namespace(operator_cluster, name)
    operator_cluster.kubectl("delete", "namespace", name, "--wait=false")


def forged_job(job: dict[str, Any], namespace: str, trial: str) -> dict[str, Any]:
    """Return a copy of a Job for another namespace: name, labels, owner's uid, and a script of its own."""
    forged = copy.deepcopy(job)
    metadata = forged["metadata"]
    kept = {key: value for key, value in metadata["labels"].items() if "controller-uid" not in key}
    forged["metadata"] = {"name": metadata["name"], "namespace": namespace, "labels": kept}
    forged["metadata"]["annotations"] = metadata.get("annotations", {})
    forged.pop("status", None)
    spec = forged["spec"]
    spec.pop("selector", None)
    template = spec["template"]["metadata"]
    template["labels"] = {
        key: value
        for key, value in template["labels"].items()
        if "controller-uid" not in key and "job-name" not in key
    }
    (container,) = spec["template"]["spec"]["containers"]
    container |= {"command": ["python", "-c"], "args": [INTRUDER]}
    container["env"] = [*container["env"], {"name": "FORGED_TRIAL", "value": trial}]
    return forged


def test_forged_children_of_a_foreign_search_change_nothing(
    namespace: Namespace, other: Namespace, operator_cluster: LocalCluster
):
    search = scraped_search("s", trials=1, metricsCollection={"maxLingerSeconds": 20})
    (script,) = search["spec"]["trialTemplate"]["args"]
    assert "time.sleep(0.1)" in script
    search["spec"]["trialTemplate"]["args"] = [script.replace("time.sleep(0.1)", "time.sleep(20)")]
    namespace.apply(search)
    job = wait_until(lambda: (found := namespace.items("jobs")) and found[0], what="the first Job")
    (victim,) = namespace.trials()
    trail = AuditTrail(operator_cluster.audit_log)
    other.apply(forged_job(job, other.name, victim["metadata"]["name"]))
    forged = copy.deepcopy(victim)
    forged["metadata"] = {key: victim["metadata"][key] for key in ("name", "labels")}
    forged.pop("status", None)
    other.apply(forged)
    series = f'count(nascale_trial_metric{{trial="{victim["metadata"]["name"]}"}}) by (namespace)'
    wait_until(
        lambda: asyncio.run(_namespaces(operator_cluster.prometheus_url, series)) == 2, what="both series"
    )
    assert "outcome" not in namespace.trials()[0].get("status", {})

    namespace.wait_for("s", "Succeeded")

    (trial,) = namespace.trials()
    values = {own["name"]: (own["source"], float(own["value"])) for own in trial["status"]["metrics"]}
    (x,) = (float(own["value"]) for own in trial["spec"]["parameters"])
    assert values == {
        "error": ("Report", 1.0 / (1.0 + x)),
        "latency_p50_seconds": ("Prometheus", 0.001 / 3 + x),
    }
    written = [entry for entry in trail.writes_by_operator({other.name}) if entry.namespace == other.name]
    assert written == []
    assert other.items("events") == [] or not [
        event for event in other.items("events") if event["source"].get("component") == "nascale"
    ]


async def _namespaces(prometheus: str, series: str) -> float:
    async with PrometheusClient(prometheus) as client:
        return (await client.query(f"count({series}) or vector(0)", time.time())).value or 0.0


def test_equal_names_are_different_objects(namespace: Namespace, other: Namespace):
    for team, seed in ((namespace, 1), (other, 2)):
        search = shell_search("s", trials=4, parallel=2)
        search["spec"]["algorithm"]["seed"] = seed
        team.apply(search)
    for team in (namespace, other):
        team.wait_for("s", "Succeeded")
        uid = team.search("s")["metadata"]["uid"]
        assert len(team.trials()) == 4
        assert {own["metadata"]["ownerReferences"][0]["uid"] for own in team.trials()} == {uid}
        front = {point["trial"] for point in team.search("s")["status"]["front"]}
        assert front <= {trial["metadata"]["name"] for trial in team.trials()}
    assert namespace.candidates() != other.candidates()
    other.kubectl("delete", "nas", "s")
    wait_until(lambda: not other.items("trials"), what="the removal")
    assert len(namespace.trials()) == 4, json.dumps(namespace.search("s")["status"])
