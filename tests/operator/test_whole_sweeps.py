"""Whole sweeps on a real API server, real controllers and a node, under the operator's own rights."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from tests.operator.searches import (
    CLAIM,
    AuditTrail,
    Namespace,
    kill_operator,
    operator_samples,
    shell_search,
    volume_of,
    wait_until,
)
from tests.operator.sweeps import formula_sweep, found_sweep, networks, said, wait_for

from nascale.local.instance import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

MBCONV = {
    "mbconv": {
        "stages": [{"channels": [16, 24], "stride": 2}, {"channels": [32, 48], "stride": 2}],
        "resolutions": [16, 24],
    }
}

SMALL_NETWORK = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ScalingSweep",
    "metadata": {"name": "small"},
    "spec": {
        "base": {
            "architecture": {
                "stem": {"channels": 8, "stride": 1},
                "stages": [
                    {"block": "MBConv", "kernel": 3, "stride": 2, "expansion": 2, "channels": 16, "depth": 2}
                ],
                "head": {"channels": 32},
                "resolution": 8,
            }
        },
        "family": [{"name": "s", "latencyMultiple": "2"}],
        "trainingData": {"embedded": "Digits"},
        "target": {"resources": {"limits": {"cpu": "1"}}},
        "objectives": [
            {"metric": "accuracy", "direction": "Maximize"},
            {"metric": "latency_p50_seconds", "direction": "Minimize"},
        ],
        "baselines": [],
        # What this test is about is not the measurement: other tests' work must not disturb it.
        "exploration": {
            "vectors": 2,
            "trainedVectors": 2,
            "finalists": 1,
            "toleranceRatio": "0.5",
            "driftRatio": "0.9",
        },
        "measurement": {"minCalls": 20, "minMilliseconds": 0, "maxSpreadRatio": "1"},
        "budget": {"maxTrials": 60, "trialsPerPod": 4, "trialRetries": 3},
        "checkpoints": {"claimName": "checkpoints"},
    },
}


def trained_search(name: str, *, sleep: str = "0") -> dict:
    """Return a search of the built-in space whose trials compute their values."""
    found = shell_search(name, trials=2)
    template = formula_sweep(name, sleep=sleep)["spec"]["trialTemplate"]
    objectives = formula_sweep(name)["spec"]["objectives"]
    found["spec"] |= {"space": MBCONV, "objectives": objectives, "trialTemplate": template}
    return found


def assert_all_ran_once(namespace: Namespace) -> None:
    """Every trial of the namespace has succeeded in its first attempt, in a pod that ran once."""
    trials = namespace.trials()
    assert {trial["status"]["outcome"] for trial in trials} == {"Succeeded"}
    assert {trial["status"].get("attempt", 0) for trial in trials} == {0}
    jobs = namespace.items("jobs")
    assert len(jobs) == len({trial["spec"]["lead"] for trial in trials})
    pods = Counter(pod["metadata"]["ownerReferences"][0]["uid"] for pod in namespace.items("pods"))
    assert pods == Counter({job["metadata"]["uid"]: 1 for job in jobs})


class TestOneSweep:
    def test_it_runs_to_its_family_without_being_refused(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        trail = AuditTrail(operator_cluster.audit_log)
        namespace.apply(formula_sweep("w"))
        assert wait_for(namespace, "w", "Succeeded")["reason"] == "FamilyComplete"
        assert_all_ran_once(namespace)
        status = found_sweep(namespace, "w")["status"]
        assert [member["name"] for member in status["family"]] == ["s", "m"]
        assert status["trials"]["succeeded"] == status["finished"] == len(namespace.trials())
        for member in status["family"]:
            values = {entry["name"]: float(entry["value"]) for entry in member["metrics"]}
            assert values["latency_p50_seconds"] <= 1.05 * float(member["budgetSeconds"])
        assert said(namespace, "w", "LatencySteady")["status"] == "True"
        assert not trail.refusals_of_operator(namespace.name)
        assert namespace.events("SweepSucceeded")
        namespace.kubectl("wait", "--for=condition=Succeeded", "sweep/w", "--timeout=1s")

    def test_its_gauges_come_and_go_with_it(self, namespace: Namespace, operator_cluster: LocalCluster):
        own = {("namespace", namespace.name), ("sweep", "w")}

        def names() -> set[str]:
            return {name for name, labels in operator_samples(operator_cluster) if own <= labels}

        namespace.apply(formula_sweep("w"))
        wait_for(namespace, "w", "Succeeded")
        assert names() == {
            "nascale_sweep_device_seconds",
            "nascale_sweep_latency_model_error",
            "nascale_sweep_member_latency_seconds",
            "nascale_sweep_member_quality",
            "nascale_sweep_reference_drift",
            "nascale_sweep_trials",
        }
        namespace.kubectl("delete", "sweep", "w")
        wait_until(lambda: not names(), what="the series' end")


class TestBuiltInTrainer:
    @pytest.mark.timeout(600)
    def test_a_network_is_measured_and_trained_and_the_weights_of_its_family_are_kept(
        self, namespace: Namespace
    ):
        namespace.apply(CLAIM)
        namespace.apply(SMALL_NETWORK)
        folder = volume_of(namespace)
        assert wait_for(namespace, "small", "Succeeded", seconds=400)["reason"] == "FamilyComplete"
        wait_for(namespace, "small", "CheckpointsPruned", seconds=120)
        status = found_sweep(namespace, "small")["status"]
        (member,) = status["family"]
        values = {entry["name"]: float(entry["value"]) for entry in member["metrics"]}
        assert set(values) >= {
            *("accuracy", "latency_p50_seconds", "latency_p90_seconds"),
            *("throughput_samples_per_second", "parameters", "flops"),
        }
        assert 0 < values["accuracy"] <= 1
        assert values["parameters"] >= 1000
        kept = {path.parent.name for path in folder.rglob("*.safetensors")}
        assert kept == {member["trial"]}
        measuring = [trial for trial in namespace.trials() if trial["spec"]["purpose"] == "Latency"]
        assert measuring
        assert all(trial["spec"]["fidelity"]["epochs"] == 0 for trial in measuring)


class TestCrashes:
    def test_killed_and_restarted_it_finds_the_same_family_and_runs_no_trial_twice(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        budget = {"parallelTrials": 1}
        namespace.apply(formula_sweep("undisturbed", budget=budget))
        wait_for(namespace, "undisturbed", "Succeeded")
        expected = networks(found_sweep(namespace, "undisturbed")["status"])
        candidates = namespace.candidates()
        namespace.kubectl("delete", "sweep", "undisturbed")
        wait_until(lambda: not namespace.items("pods"), what="the garbage collection")
        namespace.apply(formula_sweep("disturbed", sleep="0.3", budget=budget))
        for share in (0.25, 0.6):
            wanted = int(share * len(candidates))
            wait_until(
                lambda wanted=wanted: (
                    found_sweep(namespace, "disturbed").get("status", {}).get("finished", 0) >= wanted
                ),
                what=f"{wanted} trials",
            )
            kill_operator(operator_cluster)
            operator_cluster.up()
        wait_for(namespace, "disturbed", "Succeeded")
        assert namespace.candidates() == candidates
        assert networks(found_sweep(namespace, "disturbed")["status"]) == expected
        assert_all_ran_once(namespace)


class TestBaseOfASearch:
    def test_it_waits_for_the_search_and_begins_by_itself_when_that_ends(self, namespace: Namespace):
        sweep = formula_sweep("w", base={"searchName": "s"})
        namespace.apply(sweep)
        failed = wait_for(namespace, "w", "Failed")
        assert failed["message"] == (
            "spec.base.searchName: must name an ArchitectureSearch of this namespace, and s is none"
        )
        namespace.apply(trained_search("s", sleep="3"))
        wait_until(
            lambda: said(namespace, "w", "Progressing").get("reason") == "WaitingForBase", what="waiting"
        )
        assert not [trial for trial in namespace.trials() if "purpose" in trial["spec"]]
        namespace.wait_for("s", "Succeeded")
        wait_until(
            lambda: "startTime" in found_sweep(namespace, "w")["status"], seconds=10, what="the beginning"
        )
        base = namespace.search("s")["status"]["baseNetwork"]
        namespace.kubectl("delete", "nas", "s")
        wait_for(namespace, "w", "Succeeded")
        status = found_sweep(namespace, "w")["status"]
        assert status["baseTrial"] == base["trial"]
        assert status["baseArchitecture"] == base["architecture"]
        assert [member["architecture"]["space"] for member in status["family"]] == ["mbconv", "mbconv"]


class TestReuse:
    def test_another_sweep_of_the_same_networks_measures_latency_only(self, namespace: Namespace):
        namespace.apply(formula_sweep("first"))
        wait_for(namespace, "first", "Succeeded")
        before = len(namespace.trials())
        namespace.apply(formula_sweep("second", reuseTrialsFrom="first"))
        wait_for(namespace, "second", "Succeeded")
        purposes = Counter(
            trial["spec"]["purpose"]
            for trial in namespace.trials()
            if trial["metadata"]["labels"]["nascale.io/sweep"] == "second"
        )
        assert set(purposes) == {"Reference", "Latency"}
        assert purposes.total() < before
        first, second = (found_sweep(namespace, name)["status"] for name in ("first", "second"))
        assert networks(first) == networks(second)
        assert second["reused"] > 0


class TestIdleness:
    def test_nothing_is_written_while_nothing_happens(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        namespace.apply(formula_sweep("waiting", base={"searchName": "s"}))
        namespace.apply(formula_sweep("ended"))
        wait_for(namespace, "ended", "Succeeded")
        wait_for(namespace, "waiting", "Failed")
        # Events come as a series at once and their counts within ten seconds.
        time.sleep(12)
        trail = AuditTrail(operator_cluster.audit_log)
        # More than one resync.
        time.sleep(6)
        assert trail.writes_by_operator({namespace.name}) == []


class TestRemoval:
    def test_deleting_a_running_sweep_leaves_nothing(self, namespace: Namespace):
        namespace.apply(formula_sweep("w", sleep="1"))
        wait_until(lambda: len(namespace.items("trials")) >= 5, what="trials")
        namespace.kubectl("delete", "sweep", "w")
        for kind in ("trials", "jobs", "pods"):
            wait_until(lambda kind=kind: not namespace.items(kind), what=f"the end of all {kind}")

    def test_an_ended_sweep_goes_when_its_time_has_come(self, namespace: Namespace):
        namespace.apply(formula_sweep("w", ttlSecondsAfterFinished=3, budget={"maxTrials": 8}))
        wait_for(namespace, "w", "Failed")
        wait_until(lambda: not namespace.items("scalingsweeps"), seconds=30, what="the sweep's end")
        wait_until(lambda: not namespace.items("trials"), what="the trials' end")
