"""What an old snapshot, or one whose kinds are of different age, must not lead to."""

from __future__ import annotations

import json

import pytest
from tests.reconcile.searches import search
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator

from nascale.reconcile.actions import CreateJob, CreateTrial, DeleteJob, PatchTrialStatus
from nascale.reconcile.architecture_search import plan

NAME = "digits-27dfb-0"


def of_kind(made, kind):
    return [action for action in made.actions if isinstance(action, kind)]


def test_a_job_of_a_later_attempt_than_the_trials_is_not_deleted():
    cluster = SimulatedCluster(search(budget={"parallelTrials": 1}))
    cluster.fate = lambda job, _ordinal: Fate(
        "crash" if job["metadata"]["name"].endswith("-0-a0") else "report", seconds=5
    )
    operator = SimulatedOperator(cluster)
    operator.settle()
    before = cluster.snapshot()["trials"]
    for _ in range(12):
        cluster.tick()
        operator.settle()
    assert f"{NAME}-a1" in cluster.jobs
    del cluster.jobs[f"{NAME}-a0"]
    made = plan(cluster.observe({"trials": before}))
    assert of_kind(made, DeleteJob) == []


def test_a_trial_that_the_snapshot_lacks_keeps_its_job():
    cluster = SimulatedCluster(search(budget={"parallelTrials": 1}))
    cluster.fate = lambda _job, _ordinal: Fate(seconds=50)
    operator = SimulatedOperator(cluster)
    for _ in range(5):
        operator.settle()
        cluster.tick()
    made = plan(cluster.observe({"trials": {}}))
    assert of_kind(made, DeleteJob) == []
    (created,) = of_kind(made, CreateTrial)
    assert created.manifest["metadata"]["name"] == "digits-27dfb-1", "an index with a Job is taken"


def test_a_deleted_trials_index_is_used_again_only_without_its_job():
    cluster = SimulatedCluster(search(budget={"maxTrials": 2, "parallelTrials": 1}))
    operator = SimulatedOperator(cluster)
    for _ in range(7):
        operator.settle()
        cluster.tick()
    assert "outcome" in cluster.trials[NAME]["status"]
    del cluster.trials[NAME]
    operator.settle()
    assert NAME not in cluster.trials
    del cluster.jobs[f"{NAME}-a0"]
    cluster.outcomes_written.clear()
    operator.run()
    assert NAME in cluster.trials


def test_a_trial_gets_a_job_only_when_it_has_been_observed():
    cluster = SimulatedCluster(search())
    observed = cluster.observe()
    made = plan(observed)
    assert len(of_kind(made, CreateTrial)) == 2
    assert of_kind(made, CreateJob) == []
    assert made.requeue_after_seconds == 0.0


def test_a_status_is_only_written_over_the_version_that_was_observed():
    cluster = SimulatedCluster(search())
    operator = SimulatedOperator(cluster)
    for _ in range(4):
        operator.settle()
        cluster.tick()
    cluster.tick(3)
    made = plan(cluster.observe())
    patches = of_kind(made, PatchTrialStatus)
    assert len(patches) == 2
    for patch in patches:
        assert patch.resource_version == cluster.trials[patch.name]["metadata"]["resourceVersion"]


@pytest.mark.parametrize("outcome", ["EarlyStopped", "Failed"])
def test_the_word_of_a_pod_that_was_told_to_stop_counts_only_where_it_had_finished(outcome):
    def run(reported):
        result = {"trial": NAME, "outcome": reported, "metrics": {"accuracy": 0.5}}
        text = json.dumps({"version": "nascale.io/report/v1", "results": [result]})
        cluster = SimulatedCluster(search(budget={"maxTrials": 1, "parallelTrials": 1, "trialRetries": 0}))
        operator = SimulatedOperator(cluster)
        for _ in range(3):
            operator.settle()
            cluster.tick()
        (job,) = cluster.jobs.values()
        (pod,) = cluster.pods_of(job)
        cluster._terminate(pod, 0, text)
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:03Z"
        pod["status"]["phase"] = "Failed"
        cluster._touch(pod)
        operator.run()
        return cluster.trials[NAME]["status"]

    assert run(outcome)["outcome"] == "Succeeded", "it was run again"
    assert run(outcome)["attempt"] == 1
    assert run("Infeasible")["outcome"] == "Infeasible"
    assert run("Infeasible").get("attempt", 0) == 0
