"""Suspending a search, and living with a queue that suspends Jobs by itself."""

from __future__ import annotations

from tests.reconcile.searches import search
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator, is_over, stamp

from nascale.reconcile.actions import DeleteJob, SuspendJob

QUEUE = {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/priority-class": "low", "team": "a"}


def running(cluster):
    return [pod for pod in cluster.pods.values() if not is_over(pod)]


def condition(cluster, kind):
    return next(entry for entry in cluster.owner["status"]["conditions"] if entry["type"] == kind)


def started(**options):
    cluster = SimulatedCluster(search(**options))
    cluster.fate = lambda _job, _ordinal: Fate(seconds=20)
    operator = SimulatedOperator(cluster)
    for _ in range(6):
        operator.settle()
        cluster.tick()
    operator.settle()
    return cluster, operator


def suspend(cluster, value):
    cluster.edit(lambda spec: spec.update(suspend=value))


def test_suspension_stops_pods_and_keeps_jobs():
    cluster, operator = started()
    assert len(running(cluster)) == 2
    assert cluster.owner["status"]["trials"]["running"] == 2
    jobs = set(cluster.jobs)
    suspend(cluster, True)
    operator.settle()
    cluster.tick()
    operator.settle()
    assert running(cluster) == []
    assert set(cluster.jobs) == jobs
    assert condition(cluster, "Suspended")["status"] == "True"
    assert cluster.owner["status"]["suspendedSince"] == stamp(cluster.now.replace(second=6))
    assert cluster.owner["status"]["trials"]["pending"] == 2
    assert cluster.owner["status"]["trials"]["running"] == 0


def test_a_suspended_search_starts_nothing_and_writes_nothing():
    cluster, operator = started()
    suspend(cluster, True)
    for _ in range(3):
        operator.settle()
        cluster.tick()
    before = len(cluster.writes)
    for _ in range(20):
        operator.settle()
        cluster.tick(60)
    assert len(cluster.writes) == before
    assert len(cluster.trials) == 2


def test_a_search_that_is_born_suspended_waits():
    cluster = SimulatedCluster(search(suspend=True))
    operator = SimulatedOperator(cluster)
    operator.settle()
    assert cluster.trials == {}
    assert condition(cluster, "Suspended")["status"] == "True"
    suspend(cluster, False)
    operator.run()
    assert len(cluster.trials) == 6
    assert condition(cluster, "Suspended")["reason"] == "Resumed"


def test_resuming_goes_on_with_the_same_jobs():
    cluster, operator = started()
    jobs = {name: job["metadata"]["uid"] for name, job in cluster.jobs.items()}
    suspend(cluster, True)
    for _ in range(3):
        operator.settle()
        cluster.tick()
    suspend(cluster, False)
    operator.settle()
    assert {name: job["metadata"]["uid"] for name, job in cluster.jobs.items()} == jobs
    assert not any(job["spec"]["suspend"] for job in cluster.jobs.values())
    operator.run()
    assert cluster.owner["status"]["trials"]["succeeded"] == 6
    assert cluster.counted["trial_retries", "Infrastructure"] == 0
    reasons = [reason for reason, _ in cluster.events]
    assert (reasons.count("Suspended"), reasons.count("Resumed")) == (1, 1)


def test_results_of_pods_that_end_while_suspended_count():
    cluster, operator = started()
    suspend(cluster, True)
    for job in cluster.jobs.values():
        (pod,) = cluster.pods_of(job)
        cluster._end_pod(job, pod, Fate())
    operator.settle()
    assert cluster.owner["status"]["trials"]["succeeded"] == 2


def test_queue_labels_reach_the_job_and_no_others_do():
    cluster = SimulatedCluster(search(labels=QUEUE), admits=False)
    SimulatedOperator(cluster).settle()
    for job in cluster.jobs.values():
        labels = job["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "team"
        assert labels["kueue.x-k8s.io/priority-class"] == "low"
        assert "team" not in labels
        assert job["spec"]["suspend"] is True


def test_a_job_that_waits_in_its_queue_is_left_alone():
    cluster = SimulatedCluster(search(labels=QUEUE), admits=False)
    operator = SimulatedOperator(cluster)
    for _ in range(30):
        operator.settle()
        cluster.tick(5)
    assert not {"SuspendJob", "DeleteJob"} & set(cluster.writes)
    assert condition(cluster, "Progressing")["reason"] == "Queued"
    assert cluster.owner["status"]["trials"]["pending"] == 2
    assert [reason for reason, _ in cluster.events].count("Queued") == 1
    cluster.admits = True
    operator.run()
    assert cluster.owner["status"]["trials"]["succeeded"] == 6
    assert "SuspendJob" not in cluster.writes


def test_preemption_by_the_queue_is_no_failure():
    cluster, operator = started(labels=QUEUE)
    assert len(running(cluster)) == 2
    cluster.admits = False
    for job in cluster.jobs.values():
        job["spec"]["suspend"] = True
        cluster._touch(job)
    for _ in range(3):
        cluster.tick()
        operator.settle()
    assert running(cluster) == []
    assert cluster.owner["status"]["trials"]["running"] == 0
    assert cluster.counted["trial_retries", "Infrastructure"] == 0
    cluster.admits = True
    operator.run()
    assert cluster.owner["status"]["trials"]["succeeded"] == 6
    assert "SuspendJob" not in cluster.writes


def test_suspending_a_queued_search_gives_its_quota_back():
    cluster, operator = started(labels=QUEUE)
    suspend(cluster, True)
    operator.settle()
    assert cluster.jobs == {}
    assert "SuspendJob" not in cluster.writes, "its queue would only start it again"
    suspend(cluster, False)
    operator.run()
    assert cluster.owner["status"]["trials"]["succeeded"] == 6
    assert {trial["status"].get("ownFailures", 0) for trial in cluster.trials.values()} == {0}


def test_a_job_that_somebody_else_suspended_stays_suspended():
    cluster, operator = started()
    first = min(cluster.jobs)
    cluster.jobs[first]["spec"]["suspend"] = True
    cluster._touch(cluster.jobs[first])
    operator.settle()
    cluster.tick(5)
    operator.settle()
    assert cluster.jobs[first]["spec"]["suspend"] is True
    assert not any(isinstance(action, SuspendJob | DeleteJob) for action in operator.last.actions)
