"""Whole generated trainings on a real API server, real controllers and a node."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator.searches import CLAIM, Namespace, kill_operator, volume_of, wait_until
from tests.operator.trainings import generated_training, status_of, steps, wait_for

from nascale.local.instance import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

LONGEST_SECONDS = 600.0
"""A busy machine starts some dozens of pods in that."""
FLOOR = {"metric": "accuracy", "withinOfConstant": "0.02"}
PROXY: dict[str, Any] = {"proxy": {"candidates": 3, "length": "1ep"}, "qualityFloor": FLOOR}


def trials_of(namespace: Namespace, name: str, purpose: str) -> list[dict[str, Any]]:
    """Return the trials of a training of one purpose, by index."""
    found = [
        trial
        for trial in namespace.trials()
        if trial["spec"]["purpose"] == purpose and trial["metadata"]["ownerReferences"][0]["name"] == name
    ]
    return sorted(found, key=lambda trial: int(trial["spec"]["index"]))


def restart_operator(cluster: LocalCluster) -> None:
    kill_operator(cluster)
    cluster.up()


def settings_of(trials: list[dict[str, Any]]) -> list[Any]:
    return [sorted((own["name"], own["value"]) for own in trial["spec"]["parameters"]) for trial in trials]


def test_killed_in_each_phase_the_operator_comes_to_the_same_schedule_and_runs_it(
    namespace: Namespace, operator_cluster: LocalCluster
):
    namespace.apply(CLAIM)
    namespace.apply(generated_training("undisturbed", dryRun=True, **PROXY))
    ended = wait_for(namespace, "undisturbed", "Succeeded", seconds=LONGEST_SECONDS)
    assert ended["reason"] == "ScheduleGenerated"

    slow = generated_training("killed", **PROXY)
    # Long enough for the operator's end to fall into each phase.
    slow["spec"]["podTemplate"]["env"].append({"name": "SECONDS_PER_ORDER", "value": "4"})
    namespace.apply(slow)
    volume = volume_of(namespace)
    for purpose in ("Profile", "Proxy"):
        wait_until(
            lambda purpose=purpose: trials_of(namespace, "killed", purpose),
            seconds=LONGEST_SECONDS,
            what=f"a trial with purpose {purpose}",
        )
        restart_operator(operator_cluster)
    wait_until(
        lambda: list(volume.rglob("steps.txt")) and steps(volume)[-1][1] >= 100,
        seconds=LONGEST_SECONDS,
        what="the run's first stage",
    )
    restart_operator(operator_cluster)
    ended = wait_for(namespace, "killed", "Succeeded", seconds=LONGEST_SECONDS)
    assert ended["reason"] == "Completed"

    whole, plain = status_of(namespace, "killed"), status_of(namespace, "undisturbed")
    generated, other = whole["generated"], plain["generated"]
    for purpose in ("Profile", "Proxy"):
        trials = trials_of(namespace, "killed", purpose)
        assert {trial["status"]["outcome"] for trial in trials} == {"Succeeded"}
        assert settings_of(trials) == settings_of(trials_of(namespace, "undisturbed", purpose))
    assert len(trials_of(namespace, "killed", "Proxy")) == 3
    for field in ("activity", "candidate", "measured", "gridSize", "plan", "stages", "seconds"):
        assert generated[field] == other[field], field
    assert (generated["activity"], generated["gridSize"]) == ("Planned", 6)
    assert float(generated["seconds"]) < float(generated["constantSeconds"])
    names = [entry["name"] for entry in generated["stages"]]
    assert len(names) > 1
    assert [entry["name"] for entry in whole["stages"]] == names
    assert [row["name"] for row in generated["table"]] == names
    assert [samples for _, samples in steps(volume)] == list(range(10, 610, 10)), "nothing is trained twice"
    runs = [
        job for job in namespace.items("jobs") if "nascale.io/trials" not in job["metadata"]["annotations"]
    ]
    assert len(runs) == 1 + whole["switches"]["reschedule"]


def test_a_dry_run_ends_with_a_schedule_and_starts_nothing(namespace: Namespace):
    namespace.apply(CLAIM)
    namespace.apply(generated_training("table", dryRun=True))
    ended = wait_for(namespace, "table", "Succeeded", seconds=LONGEST_SECONDS)
    assert ended["reason"] == "ScheduleGenerated"
    jobs = namespace.items("jobs")
    assert jobs
    assert all("nascale.io/trials" in job["metadata"]["annotations"] for job in jobs)
    assert status_of(namespace, "table")["generated"]["table"]


def test_energy_is_what_prometheus_says_of_each_measurement(namespace: Namespace):
    namespace.apply(CLAIM)
    query = 'label_replace(vector(120), "trial", "$trial", "", "")'
    document = generated_training("frugal", dryRun=True, optimize="Energy", energyQuery=query)
    namespace.apply(document)
    ended = wait_for(namespace, "frugal", "Succeeded", seconds=LONGEST_SECONDS)
    assert ended["reason"] == "ScheduleGenerated"
    trials = trials_of(namespace, "frugal", "Profile")
    assert trials
    for trial in trials:
        found = {own["name"]: own for own in trial["status"]["metrics"]}
        assert (found["power_watts"]["value"], found["power_watts"]["source"]) == ("120", "Prometheus")
    generated = status_of(namespace, "frugal")["generated"]
    # All settings take the same power: the least energy is the shortest time.
    joules = float(generated["reason"].partition("the least energy (")[2].partition(" J)")[0])
    assert joules == pytest.approx(120 * float(generated["seconds"]), rel=1e-3)
