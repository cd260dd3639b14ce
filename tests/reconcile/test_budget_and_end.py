"""When a search ends, what it ends as, and what happens to what still runs."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from tests.reconcile.searches import search
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator, is_over
from tests.reconcile.test_convergence import assert_at_rest, assert_sound

from nascale.reconcile.actions import DeleteOwner


def condition(cluster, kind):
    return next(entry for entry in cluster.owner["status"]["conditions"] if entry["type"] == kind)


def result(cluster):
    kinds = ("Succeeded", "Failed")
    return {kind: (condition(cluster, kind)["status"], condition(cluster, kind)["reason"]) for kind in kinds}


def pods_at_once(cluster):
    return sum(not is_over(pod) for pod in cluster.pods.values())


@pytest.mark.parametrize(("parallel", "per_pod"), [(1, 1), (3, 1), (2, 3)])
def test_no_more_pods_than_allowed_at_any_time(parallel, per_pod):
    budget = {"maxTrials": 12, "parallelTrials": parallel, "trialsPerPod": per_pod}
    cluster = SimulatedCluster(search(budget=budget))
    operator = SimulatedOperator(cluster)
    most = 0
    while "completionTime" not in cluster.owner.get("status", {}):
        operator.settle()
        cluster.tick()
        most = max(most, pods_at_once(cluster))
    assert most == parallel
    assert len(cluster.jobs) == 12 // per_pod
    assert len(cluster.trials) == 12


def test_raising_and_lowering_what_is_allowed_takes_effect():
    cluster = SimulatedCluster(search(budget={"maxTrials": 20, "parallelTrials": 1}))
    cluster.fate = lambda _job, _ordinal: Fate(seconds=10)
    operator = SimulatedOperator(cluster)
    operator.settle()
    assert len(cluster.trials) == 1
    cluster.edit(lambda spec: spec["budget"].update(parallelTrials=4))
    operator.settle()
    assert len(cluster.trials) == 4
    cluster.edit(lambda spec: spec["budget"].update(parallelTrials=2, maxTrials=2))
    operator.run()
    assert len(cluster.trials) == 4, "what runs goes on"
    assert result(cluster)["Succeeded"] == ("True", "MaxTrialsReached")


def test_the_deadline_ends_a_search_and_what_runs():
    cluster = SimulatedCluster(search(budget={"activeDeadlineSeconds": 30, "maxTrials": 100}))
    cluster.fate = lambda _job, _ordinal: Fate(seconds=7)
    SimulatedOperator(cluster).run()
    assert result(cluster)["Succeeded"] == ("True", "DeadlineReached")
    outcomes = Counter(trial["status"]["outcome"] for trial in cluster.trials.values())
    assert set(outcomes) == {"Succeeded", "EarlyStopped"}
    stopped = [trial for trial in cluster.trials.values() if trial["status"]["outcome"] == "EarlyStopped"]
    reasons = {
        entry["reason"]
        for trial in stopped
        for entry in trial["status"]["conditions"]
        if entry["type"] == "Ended"
    }
    assert reasons == {"SearchEnded"}
    assert pods_at_once(cluster) == 0
    assert_sound(cluster)
    assert_at_rest(cluster)


def test_a_deadline_without_any_trial_fails():
    cluster = SimulatedCluster(search(budget={"activeDeadlineSeconds": 5}))
    cluster.fate = lambda _job, _ordinal: Fate(seconds=60)
    operator = SimulatedOperator(cluster)
    operator.settle()
    assert operator.last.requeue_after_seconds is not None
    assert operator.last.requeue_after_seconds <= 5, "nothing else would wake the operator at the deadline"
    operator.run()
    assert result(cluster)["Failed"] == ("True", "NoFeasibleTrial")
    assert "activeDeadlineSeconds (5 s) have passed" in condition(cluster, "Failed")["message"]
    assert_sound(cluster)


def test_time_in_suspension_does_not_count_against_the_deadline():
    cluster = SimulatedCluster(search(budget={"activeDeadlineSeconds": 60, "maxTrials": 4}))
    operator = SimulatedOperator(cluster)
    operator.settle()
    cluster.edit(lambda spec: spec.update(suspend=True))
    operator.settle()
    cluster.tick(300)
    operator.settle()
    assert "completionTime" not in cluster.owner["status"]
    cluster.edit(lambda spec: spec.update(suspend=False))
    operator.run()
    assert result(cluster)["Succeeded"] == ("True", "MaxTrialsReached")
    assert cluster.owner["status"]["suspendedSeconds"] == 300
    assert "suspendedSince" not in cluster.owner["status"]


@pytest.mark.parametrize("gpus", [0, 2])
def test_device_seconds_count_every_device_of_every_pod(gpus):
    target = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    budget = {"deviceSeconds": 40, "maxTrials": 100, "parallelTrials": 1}
    cluster = SimulatedCluster(search(budget=budget, target=target))
    cluster.fate = lambda _job, _ordinal: Fate(seconds=10)
    SimulatedOperator(cluster).run()
    assert result(cluster)["Succeeded"] == ("True", "DeviceSecondsReached")
    succeeded = cluster.owner["status"]["trials"]["succeeded"]
    assert succeeded == (2 if gpus else 4)
    assert 40 <= cluster.owner["status"]["deviceSeconds"] <= 42


def test_trials_that_share_a_pod_share_its_seconds():
    cluster = SimulatedCluster(search(budget={"maxTrials": 3, "parallelTrials": 1, "trialsPerPod": 3}))
    cluster.fate = lambda _job, _ordinal: Fate(seconds=7)
    SimulatedOperator(cluster).run()
    parts = sorted(trial["status"]["deviceSeconds"] for trial in cluster.trials.values())
    assert parts == [2, 2, 3]
    assert cluster.owner["status"]["deviceSeconds"] == 7


def test_more_failures_than_allowed_fail_the_search():
    cluster = SimulatedCluster(
        search(budget={"maxTrials": 50, "parallelTrials": 2, "maxFailedTrials": 3, "trialRetries": 0})
    )
    cluster.fate = lambda job, _ordinal: Fate(
        "crash" if int(job["metadata"]["name"].split("-")[2]) % 2 else "report"
    )
    SimulatedOperator(cluster).run()
    assert result(cluster) == {
        "Succeeded": ("False", "MaxFailedTrialsReached"),
        "Failed": ("True", "MaxFailedTrialsReached"),
    }
    message = condition(cluster, "Failed")["message"]
    assert "must be at most maxFailedTrials (3), not 4" in message
    assert "ended with exit code 1" in message
    assert cluster.owner["status"]["baseNetwork"]["trial"], "what was found is not lost"
    assert_sound(cluster)
    assert_at_rest(cluster)


def test_an_exhausted_space_ends_the_search():
    space = {"parameters": [{"name": "width", "integer": {"min": 1, "max": 3}}]}
    cluster = SimulatedCluster(search(space=space, budget={"maxTrials": 50, "parallelTrials": 4}))
    SimulatedOperator(cluster).run()
    assert len(cluster.trials) == 3
    assert result(cluster)["Succeeded"] == ("True", "SpaceExhausted")


def test_goals_that_are_reached_end_the_search_early():
    objectives = [
        {"metric": "accuracy", "direction": "Maximize", "goal": "0.7"},
        {"metric": "latency_p50_seconds", "direction": "Minimize"},
    ]
    cluster = SimulatedCluster(search(objectives=objectives, budget={"maxTrials": 100}))
    SimulatedOperator(cluster).run()
    assert result(cluster)["Succeeded"] == ("True", "GoalsReached")
    best = max(
        float(entry["value"])
        for trial in cluster.trials.values()
        for entry in trial["status"].get("metrics", ())
        if entry["name"] == "accuracy"
    )
    assert best >= 0.7
    assert len(cluster.trials) < 50


def test_without_a_feasible_trial_the_nearest_one_is_named():
    objectives = [
        {"metric": "accuracy", "direction": "Maximize", "constraint": {"atLeast": "0.999"}},
        {"metric": "latency_p50_seconds", "direction": "Minimize"},
    ]
    cluster = SimulatedCluster(search(objectives=objectives))
    SimulatedOperator(cluster).run()
    assert result(cluster)["Failed"] == ("True", "NoFeasibleTrial")

    def accuracy(trial):
        return next(
            float(entry["value"]) for entry in trial["status"]["metrics"] if entry["name"] == "accuracy"
        )

    nearest = max(cluster.trials.values(), key=accuracy)
    message = condition(cluster, "Failed")["message"]
    assert nearest["metadata"]["name"] in message
    assert f"accuracy must be at least 0.999, not {accuracy(nearest):.6g}" in message
    assert "baseNetwork" not in cluster.owner["status"]


def test_promotions_run_at_their_own_fidelity():
    fidelities = {"levels": [{"epochs": 1}, {"epochs": 9}], "reductionFactor": 3}
    cluster = SimulatedCluster(search(fidelities=fidelities, budget={"maxTrials": 16, "trialsPerPod": 2}))
    SimulatedOperator(cluster).run()
    rungs = Counter(trial["spec"]["rung"] for trial in cluster.trials.values())
    assert rungs[1] >= 2
    by_index = {trial["spec"]["index"]: trial for trial in cluster.trials.values()}
    for trial in by_index.values():
        spec = trial["spec"]
        assert spec["fidelity"]["epochs"] == (9 if spec["rung"] else 1)
        origin = by_index[spec["candidate"]]["spec"]
        assert origin["parameters"] == spec["parameters"]
    for job in cluster.jobs.values():
        names = job["metadata"]["annotations"]["nascale.io/trials"].split(",")
        assert len({cluster.trials[name]["spec"]["rung"] for name in names}) == 1
    assert cluster.owner["status"]["baseNetwork"]["trial"] in {
        trial["metadata"]["name"] for trial in by_index.values() if trial["spec"]["rung"] == 1
    }


def test_the_search_is_deleted_after_its_ttl():
    cluster = SimulatedCluster(search(ttlSecondsAfterFinished=100))
    operator = SimulatedOperator(cluster)
    operator.run()
    assert operator.last.requeue_after_seconds == 100
    cluster.tick(99)
    operator.settle()
    assert not cluster.owner_deleted
    assert operator.last.requeue_after_seconds == 1
    cluster.tick(1)
    operator.look()
    assert cluster.owner_deleted
    assert operator.last.actions == (DeleteOwner("owner-uid"),)


def test_a_search_that_is_being_deleted_is_left_alone():
    cluster = SimulatedCluster(search())
    operator = SimulatedOperator(cluster)
    operator.settle()
    cluster.tick()
    cluster.owner["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:01Z"
    cluster.edit(lambda _spec: None)
    assert operator.look() is False


def test_a_stray_trial_of_an_ended_search_is_ended():
    cluster = SimulatedCluster(search(budget={"maxTrials": 2}))
    operator = SimulatedOperator(cluster)
    operator.settle()
    old = cluster.observe()
    operator.run()
    name = max(cluster.trials)
    stray = cluster.trials[name]
    del stray["status"]
    cluster.outcomes_written.clear()
    cluster.jobs.pop(f"{name}-a0")
    stray["metadata"]["resourceVersion"] = "999999"
    operator.settle()
    assert cluster.trials[name]["status"]["outcome"] == "EarlyStopped"
    assert old.owner["status"].get("completionTime") is None
    assert_at_rest(cluster)


def test_a_deleted_trial_is_made_up_for():
    cluster = SimulatedCluster(search(budget={"maxTrials": 4, "parallelTrials": 1}))
    operator = SimulatedOperator(cluster)
    operator.settle()
    for _ in range(6):
        cluster.tick()
        operator.settle()
    first = min(cluster.trials)
    assert "outcome" in cluster.trials[first]["status"]
    del cluster.trials[first]
    del cluster.jobs[f"{first}-a0"]
    del cluster.outcomes_written[first]
    cluster.counted.clear()
    operator.run()
    assert len(cluster.trials) == 4
    assert_sound(cluster)


def test_the_estimate_falls_as_trials_end():
    cluster = SimulatedCluster(search(budget={"maxTrials": 10, "parallelTrials": 1}))
    operator = SimulatedOperator(cluster)
    estimates = []
    while "completionTime" not in cluster.owner.get("status", {}):
        operator.settle()
        estimates.append(cluster.owner["status"].get("estimatedRemainingSeconds"))
        cluster.tick()
    known = [estimate for estimate in estimates if estimate is not None]
    assert known == sorted(known, reverse=True)
    duration = (cluster.now - cluster.__class__.now) / timedelta(seconds=1)
    assert 0.5 * duration < known[0] < 1.5 * duration
    assert "estimatedRemainingSeconds" not in cluster.owner["status"]


def test_figures_of_a_search_show_its_best_values_and_those_of_the_trial_that_ended_last():
    cluster = SimulatedCluster(search(budget={"maxTrials": 4, "parallelTrials": 1}))
    operator = SimulatedOperator(cluster)
    operator.look()
    assert not [name for name in operator.last.gauges if name.startswith("latest/")]
    operator.run()
    trials = cluster.trials.values()
    last = max(trials, key=lambda trial: (trial["status"]["completionTime"], trial["spec"]["index"]))
    values = {entry["name"]: float(entry["value"]) for entry in last["status"]["metrics"]}
    names = {objective["metric"] for objective in cluster.owner["spec"]["objectives"]}
    figures = operator.last.gauges
    assert {name: figures[f"latest/{name}"] for name in names} == {name: values[name] for name in names}
    assert {name for name in figures if name.startswith("best/")} == {f"best/{name}" for name in names}
