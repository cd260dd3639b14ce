"""Whole searches on a real API server, real controllers and a node, under the operator's own rights."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from tests.operator.searches import (
    OPERATOR_NAMESPACE,
    AuditTrail,
    Namespace,
    kill_operator,
    operator_pid,
    operator_samples,
    requests_per_trial,
    shell_search,
    total,
    wait_until,
)

from nascale.local.instance import LocalCluster
from nascale.reconcile.naming import child_prefix, job_name

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def assert_each_trial_ran_once(namespace: Namespace, trials: int) -> None:
    """Every trial has succeeded in its first attempt: one Job and one pod each."""
    found = namespace.trials()
    assert [trial["spec"]["index"] for trial in found] == list(range(trials))
    assert {trial["status"]["outcome"] for trial in found} == {"Succeeded"}
    assert {trial["status"].get("attempt", 0) for trial in found} == {0}
    jobs = namespace.items("jobs")
    assert len(jobs) == trials
    pods = Counter(pod["metadata"]["ownerReferences"][0]["uid"] for pod in namespace.items("pods"))
    assert pods == Counter({job["metadata"]["uid"]: 1 for job in jobs})


class TestOneSearch:
    def test_it_runs_to_its_end_with_few_requests_and_without_being_refused(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        before = total(operator_cluster, "nascale_trials_finished_total", outcome="Succeeded")
        trail = AuditTrail(operator_cluster.audit_log)
        namespace.apply(shell_search("s", trials=20, parallel=3))
        succeeded = namespace.wait_for("s", "Succeeded")
        per_trial, kinds = requests_per_trial(trail, 20)
        assert_each_trial_ran_once(namespace, 20)
        assert succeeded["reason"] == "MaxTrialsReached"
        status = namespace.search("s")["status"]
        assert status["trials"]["succeeded"] == status["finished"] == 20
        assert status["baseNetwork"]["trial"] in {point["trial"] for point in status["front"]}
        assert per_trial <= 6.0, kinds
        assert not trail.refusals_of_operator(namespace.name)
        assert {entry.agent.split("/")[0] for entry in trail.by_operator()} == {"nascale-operator"}
        after = total(operator_cluster, "nascale_trials_finished_total", outcome="Succeeded")
        assert after - before == 20
        assert namespace.events("SearchSucceeded")
        namespace.kubectl("wait", "--for=condition=Succeeded", "nas/s", "--timeout=1s")

    def test_several_trials_share_a_pod(self, namespace: Namespace):
        search = shell_search("s", trials=6, budget={"trialsPerPod": 3})
        search["spec"]["trialTemplate"] |= {"command": ["python", "-c"], "args": [SHARED_TRIAL]}
        namespace.apply(search)
        namespace.wait_for("s", "Succeeded")
        assert [trial["status"]["outcome"] for trial in namespace.trials()] == ["Succeeded"] * 6
        assert len(namespace.items("jobs")) == 2

    def test_the_gauges_of_a_search_come_and_go_with_it(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        own = {("namespace", namespace.name), ("search", "s")}

        def names() -> set[str]:
            return {name for name, labels in operator_samples(operator_cluster) if own <= labels}

        namespace.apply(shell_search("s", trials=2))
        namespace.wait_for("s", "Succeeded")
        assert names() == {
            "nascale_search_best_objective",
            "nascale_search_device_seconds",
            "nascale_search_hypervolume",
            "nascale_search_latest_objective",
            "nascale_search_pareto_size",
            "nascale_search_trials",
        }
        namespace.kubectl("delete", "nas", "s")
        wait_until(lambda: not names(), what="the series' end")


SHARED_TRIAL = """
from nascale_trainer import load_work_order, report
order = load_work_order()
cost = {candidate.trial: candidate.parameters["x"] for candidate in order.candidates}
report(order, {trial: {"error": 1.0 / x, "cost": x} for trial, x in cost.items()})
"""


class TestCrashes:
    def test_killed_and_restarted_it_finds_the_same_candidates_and_runs_no_trial_twice(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        namespace.apply(shell_search("undisturbed", trials=10))
        namespace.wait_for("undisturbed", "Succeeded")
        expected = namespace.candidates()
        namespace.kubectl("delete", "nas", "undisturbed")
        wait_until(lambda: not namespace.items("pods"), what="the garbage collection")
        namespace.apply(shell_search("disturbed", trials=10, sleep="0.3"))
        for finished in (2, 5, 8):
            wait_until(
                lambda finished=finished: (
                    namespace.search("disturbed").get("status", {}).get("finished", 0) >= finished
                ),
                what=f"{finished} trials",
            )
            kill_operator(operator_cluster)
            operator_cluster.up()
        namespace.wait_for("disturbed", "Succeeded")
        assert namespace.candidates() == expected
        assert_each_trial_ran_once(namespace, 10)

    def test_trials_that_end_while_the_operator_is_away_are_not_lost(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        namespace.apply(shell_search("s", trials=6, parallel=3, sleep="2"))
        wait_until(lambda: len(namespace.items("pods")) == 3, what="three pods")
        operator_cluster.stop("operator")
        wait_until(
            lambda: {pod["status"]["phase"] for pod in namespace.items("pods")} == {"Succeeded"},
            what="the pods' end",
        )
        assert not any(trial.get("status", {}).get("outcome") for trial in namespace.trials())
        operator_cluster.up()
        namespace.wait_for("s", "Succeeded")
        assert_each_trial_ran_once(namespace, 6)

    def test_an_api_server_that_restarts_is_waited_for(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        before = operator_pid(operator_cluster)
        namespace.apply(shell_search("s", trials=6, parallel=2, sleep="1"))
        wait_until(lambda: namespace.search("s").get("status", {}).get("finished", 0) >= 2, what="two trials")
        operator_cluster.stop("kube-apiserver")
        # Longer than the requests' own retries, so that the work queue's back-off is needed.
        time.sleep(8)
        operator_cluster.up()
        namespace.wait_for("s", "Succeeded")
        assert_each_trial_ran_once(namespace, 6)
        assert operator_pid(operator_cluster) == before


class TestTroubles:
    def test_a_quota_that_forbids_pods_is_told_with_its_name(self, namespace: Namespace):
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
        namespace.apply({**quota, "spec": {"hard": {"pods": "0"}}})
        # Until the quota controller has seen it, a quota forbids nothing.
        wait_until(
            lambda: namespace.items("resourcequotas")[0].get("status", {}).get("hard"),
            what="the quota's status",
        )
        namespace.apply(shell_search("s", trials=1))
        events = wait_until(lambda: namespace.events("TrialBlocked"), what="the event", seconds=120)
        assert "exceeded quota: none" in events[0]["message"]
        assert events[0]["involvedObject"]["kind"] == "Trial"
        assert namespace.wait_for("s", "Progressing", status="False")["reason"] == "WaitingForInfrastructure"


class TestIdleness:
    def test_nothing_is_written_while_nothing_happens_not_even_by_a_restart(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        namespace.apply(shell_search("ended", trials=2))
        namespace.apply(shell_search("asleep", trials=2, suspend=True))
        namespace.apply(shell_search("running", trials=1, sleep="120"))
        namespace.wait_for("ended", "Succeeded")
        namespace.wait_for("asleep", "Suspended")
        wait_until(lambda: namespace.search("running")["status"]["trials"]["running"] == 1, what="running")
        reconciles = "nascale_reconcile_duration_seconds_count"
        # Events come as a series at once and their counts within ten seconds.
        time.sleep(12)
        trail = AuditTrail(operator_cluster.audit_log)
        before = total(operator_cluster, reconciles)
        wait_until(lambda: total(operator_cluster, reconciles) >= before + 5, what="five more looks")
        operator_cluster.stop("operator")
        operator_cluster.up()
        wait_until(lambda: total(operator_cluster, reconciles) >= 8, what="looks after the restart")
        assert trail.writes_by_operator({namespace.name, OPERATOR_NAMESPACE}) == []
        assert trail.by_operator() != []

    def test_no_object_carries_a_finalizer_or_annotation_of_the_operators_framework(
        self, namespace: Namespace
    ):
        namespace.apply(shell_search("s", trials=2))
        namespace.wait_for("s", "Succeeded")
        for kind in ("architecturesearches", "trials", "jobs", "pods"):
            for found in namespace.items(kind):
                assert not [
                    f for f in found["metadata"].get("finalizers", []) if "nascale" in f or "kopf" in f
                ]
                assert not [a for a in found["metadata"].get("annotations", {}) if "kopf" in a]


class TestSuspension:
    def test_suspending_stops_pods_and_resuming_goes_on_to_the_end(self, namespace: Namespace):
        namespace.apply(shell_search("s", trials=4, parallel=2, sleep="3"))
        wait_until(lambda: len(namespace.items("pods")) == 2, what="two pods")
        namespace.patch_search("s", {"suspend": True})
        namespace.wait_for("s", "Suspended")
        unended = [trial for trial in namespace.trials() if not trial.get("status", {}).get("outcome")]
        wait_until(
            lambda: all(
                job["spec"]["suspend"]
                for job in namespace.items("jobs")
                if job["metadata"]["name"].rsplit("-a", 1)[0] in {t["metadata"]["name"] for t in unended}
            ),
            what="the Jobs' suspension",
        )
        wait_until(
            lambda: not [pod for pod in namespace.items("pods") if pod["status"]["phase"] == "Running"],
            what="the pods' end",
        )
        known = len(namespace.trials())
        namespace.patch_search("s", {"suspend": False})
        namespace.wait_for("s", "Succeeded")
        assert known <= 4
        assert [trial["status"]["outcome"] for trial in namespace.trials()] == ["Succeeded"] * 4


class TestRemoval:
    def test_deleting_a_running_search_leaves_nothing(self, namespace: Namespace):
        namespace.apply(shell_search("s", trials=50, parallel=3, sleep="1"))
        wait_until(lambda: len(namespace.items("trials")) >= 4, what="trials")
        namespace.kubectl("delete", "nas", "s")
        for kind in ("trials", "jobs", "pods"):
            wait_until(lambda kind=kind: not namespace.items(kind), what=f"the end of all {kind}")

    def test_an_ended_search_goes_when_its_time_has_come(self, namespace: Namespace):
        namespace.apply(shell_search("s", trials=1, ttlSecondsAfterFinished=3))
        namespace.wait_for("s", "Succeeded")
        wait_until(lambda: not namespace.items("architecturesearches"), seconds=30, what="the search's end")
        wait_until(lambda: not namespace.items("trials"), what="the trials' end")


class TestForeignObjects:
    def test_a_name_that_somebody_else_took_is_told_and_awaited(self, namespace: Namespace):
        namespace.apply(shell_search("s", trials=1, suspend=True))
        namespace.wait_for("s", "Suspended")
        namespace.apply(shell_search("probe", trials=1))
        namespace.wait_for("probe", "Succeeded")
        foreign = child_name(namespace.search("s"))
        namespace.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": foreign},
                "spec": {
                    "suspend": True,
                    "template": {
                        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
                    },
                },
            }
        )
        namespace.patch_search("s", {"suspend": False})
        (event,) = wait_until(lambda: namespace.events("ReconcileFailed"), what="the event")
        assert event["type"] == "Warning"
        assert "the name is taken by an object that nobody controls" in event["message"]
        namespace.kubectl("delete", "job", foreign)
        namespace.wait_for("s", "Succeeded")


def child_name(search: dict) -> str:
    """Name of a search's first Job."""
    metadata = search["metadata"]
    return job_name(child_prefix(metadata["name"], metadata["uid"]), 0, 0)
