"""When a search has ended, checkpoints that shall not stay are dropped from the volume, once."""

from __future__ import annotations

import pytest
from tests.reconcile.searches import search
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator
from tests.reconcile.test_convergence import assert_at_rest
from tests.reconcile.test_job_manifest import container_of, pod_of, restricted_faults

PRUNER = "digits-27dfb-checkpoints"


def condition(cluster):
    found = [entry for entry in cluster.owner["status"]["conditions"] if entry["type"] == "CheckpointsPruned"]
    return found[0] if found else None


def ended(retention, fate=None, **spec):
    checkpoints = {"claimName": "weights", "path": "runs", "retention": retention}
    cluster = SimulatedCluster(search(checkpoints=checkpoints, budget={"maxTrials": 3}, **spec))
    if fate is not None:
        cluster.fate = lambda job, _ordinal: fate if job["metadata"]["name"] == PRUNER else Fate()
    operator = SimulatedOperator(cluster)
    operator.run()
    for _ in range(10):
        operator.settle()
        cluster.tick()
    operator.settle()
    return cluster


def test_the_fronts_checkpoints_stay():
    cluster = ended("ParetoFront")
    job = cluster.jobs[PRUNER]
    container = container_of(job)
    status = cluster.owner["status"]
    front = {point["trial"] for point in status["front"]} | {status["baseNetwork"]["trial"]}
    assert container["args"][0] == "keep-checkpoints"
    assert set(container["args"][1:]) == front
    folder = container["env"][0]["value"]
    trial_folders = {
        entry["value"]
        for other in cluster.jobs.values()
        for entry in container_of(other)["env"]
        if entry["name"] == "NASCALE_CHECKPOINT_DIRECTORY"
    }
    assert trial_folders == {folder}
    assert restricted_faults(pod_of(job)) == []
    said = condition(cluster)
    assert (said["status"], said["reason"]) == ("True", "Pruned")
    assert f"checkpoints of {len(front)} trials" in said["message"]
    assert_at_rest(cluster)


def test_none_stay_where_none_shall():
    job = ended("None").jobs[PRUNER]
    assert container_of(job)["args"] == ["keep-checkpoints"]


@pytest.mark.parametrize("spec", [{"checkpoints": {"claimName": "w", "retention": "All"}}, {}])
def test_nothing_is_started_where_all_stay_or_there_is_no_volume(spec):
    cluster = SimulatedCluster(search(**spec))
    SimulatedOperator(cluster).run()
    assert_at_rest(cluster)
    assert PRUNER not in cluster.jobs
    assert condition(cluster) is None


def test_it_happens_once_although_the_job_goes():
    cluster = ended("ParetoFront")
    del cluster.jobs[PRUNER]
    assert_at_rest(cluster)
    assert PRUNER not in cluster.jobs


def test_a_failure_is_told_and_not_repeated():
    cluster = ended("ParetoFront", fate=Fate("crash"))
    said = condition(cluster)
    assert (said["status"], said["reason"]) == ("False", "PruningFailed")
    assert [reason for reason, _ in cluster.events].count("PruningFailed") == 1
    assert_at_rest(cluster)


def test_the_ttl_waits_for_it():
    cluster = ended("ParetoFront", fate=Fate(seconds=10**6), ttlSecondsAfterFinished=0)
    assert not cluster.owner_deleted
    cluster.fate = lambda _job, _ordinal: Fate()
    operator = SimulatedOperator(cluster)
    for _ in range(5):
        operator.look()
        cluster.tick()
    assert cluster.owner_deleted
