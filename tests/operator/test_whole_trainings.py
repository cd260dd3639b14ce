"""Whole trainings on a real API server, real controllers and a node, under the operator's own rights."""

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
    volume_of,
    wait_until,
)
from tests.operator.trainings import (
    patch_training,
    said,
    scripted_training,
    small_network,
    stage,
    status_of,
    steps,
    wait_for,
)

from nascale.local.instance import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

THREE = (stage("a", 300), stage("b", 300, precision="BF16"), stage("c", 300, workers=2))


def samples_of(namespace: Namespace, name: str) -> int:
    return int(status_of(namespace, name).get("samples", 0))


class TestOneTraining:
    def test_it_goes_through_its_stages_without_being_refused(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        trail = AuditTrail(operator_cluster.audit_log)
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", *THREE))
        volume = volume_of(namespace)
        assert wait_for(namespace, "t", "Succeeded")["reason"] == "Completed"
        status = status_of(namespace, "t")
        assert [entry["name"] for entry in status["stages"]] == ["a", "b", "c"]
        assert [entry["endSamples"] for entry in status["stages"]] == [300, 600, 900]
        assert status["runGeneration"] == 2
        assert status["workers"] == 2
        assert status["result"]["path"].startswith("nascale/t-")
        made = steps(volume)
        assert [samples for _, samples in made] == list(range(10, 910, 10))
        assert {generation for generation, samples in made if samples > 600} == {2}
        assert len(namespace.items("jobs")) == 2
        pods = Counter(pod["metadata"]["ownerReferences"][0]["uid"] for pod in namespace.items("pods"))
        assert sorted(pods.values()) == [1, 2]
        assert not trail.refusals_of_operator(namespace.name)
        namespace.kubectl("wait", "--for=condition=Succeeded", "ptrain/t", "--timeout=1s")
        assert {"TrainingStarted", "GenerationStarted", "StageStarted", "TrainingSucceeded"} <= {
            event["reason"] for event in namespace.items("events")
        }

    def test_its_gauges_come_and_go_with_it(self, namespace: Namespace, operator_cluster: LocalCluster):
        own = {("namespace", namespace.name), ("training", "t")}

        def names() -> set[str]:
            return {name for name, labels in operator_samples(operator_cluster) if own <= labels}

        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 100)))
        wait_for(namespace, "t", "Succeeded")
        assert {"nascale_training_progress_ratio", "nascale_training_condition"} <= names()
        namespace.kubectl("delete", "ptrain", "t")
        wait_until(lambda: not names(), what="the series' end")

    def test_status_follows_through_prometheus(self, namespace: Namespace):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 100), stage("b", 10_000)))
        wait_for(namespace, "t", "MetricsAvailable")
        wait_until(lambda: status_of(namespace, "t").get("currentStage") == "b", what="stage b")
        first = samples_of(namespace, "t")
        wait_until(lambda: samples_of(namespace, "t") > first, what="progress")
        status = status_of(namespace, "t")
        assert status["wholeSamples"] == 10_100
        assert status["throughput"] == "100"
        assert status["settings"] == [{"name": "globalBatch", "value": "10"}]
        assert status["stages"][0]["endSamples"] == 100


class TestEdits:
    def test_an_edit_reaches_the_running_pods_and_more_workers_the_next_job(self, namespace: Namespace):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 3000), stage("b", 200)))
        volume = volume_of(namespace)
        wait_for(namespace, "t", "MetricsAvailable")
        patch_training(namespace, "t", {"stages": [stage("a", 2500), stage("b", 700, workers=2)]})
        wait_until(lambda: status_of(namespace, "t").get("appliedRevision") == 1, what="the edit")
        assert said(namespace, "t", "StageApplied")["reason"] == "Applied"
        wait_for(namespace, "t", "Succeeded")
        made = steps(volume)
        assert [samples for _, samples in made] == list(range(10, 3210, 10))
        assert min(samples for generation, samples in made if generation == 2) == 2510

    def test_what_the_run_refuses_is_told_and_does_not_disturb_it(self, namespace: Namespace):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 2000), stage("b", 200, workers=2)))
        wait_for(namespace, "t", "MetricsAvailable")
        edited = [stage("a", 2000), stage("b", 200, workers=2, precision="FP16")]
        patch_training(namespace, "t", {"stages": edited})
        refused = wait_for(namespace, "t", "StageApplied", status="False")
        assert refused["reason"] == "EditRefused"
        assert "NoFp16" in refused["message"]
        wait_for(namespace, "t", "Succeeded")
        assert said(namespace, "t", "StageApplied")["reason"] == "EditRefused"
        assert status_of(namespace, "t")["refusedRevision"] == 1
        assert len(namespace.items("jobs")) == 2


class TestSuspension:
    def test_it_saves_stops_and_goes_on_at_the_same_step(self, namespace: Namespace):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 2000), stage("b", 300, workers=2)))
        volume = volume_of(namespace)
        wait_for(namespace, "t", "MetricsAvailable")
        patch_training(namespace, "t", {"suspend": True})
        wait_for(namespace, "t", "Suspended")
        stood = samples_of(namespace, "t")
        running = [pod for pod in namespace.items("pods") if pod["status"]["phase"] == "Running"]
        assert running == []
        patch_training(namespace, "t", {"suspend": False})
        wait_for(namespace, "t", "Succeeded")
        made = steps(volume)
        assert [samples for _, samples in made] == list(range(10, 2310, 10))
        assert min(samples for generation, samples in made if generation == 2) == stood + 10
        assert status_of(namespace, "t")["runGeneration"] == 3


class TestCrashes:
    def test_killed_and_restarted_it_runs_nothing_twice(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 300), stage("b", 300, workers=2), stage("c", 200)))
        volume = volume_of(namespace)
        for wanted in (100, 400):
            wait_until(
                lambda wanted=wanted: list(volume.rglob("steps.txt")) and steps(volume)[-1][1] >= wanted,
                what=f"{wanted} samples",
            )
            kill_operator(operator_cluster)
            operator_cluster.up()
        wait_for(namespace, "t", "Succeeded")
        assert [samples for _, samples in steps(volume)] == list(range(10, 810, 10))
        assert len(namespace.items("jobs")) == 3

    def test_a_lost_pod_is_replaced_and_the_run_goes_on(self, namespace: Namespace):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 2000)))
        volume = volume_of(namespace)
        wait_for(namespace, "t", "MetricsAvailable")
        (pod,) = namespace.items("pods")
        namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        wait_for(namespace, "t", "Succeeded")
        assert [samples for _, samples in steps(volume)] == list(range(10, 2010, 10))
        assert len(namespace.items("jobs")) == 1


class TestIdleness:
    def test_nothing_is_written_while_nothing_happens(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("ended", stage("a", 50)))
        namespace.apply(scripted_training("waiting", stage("a", 50), model={"searchName": "none"}))
        wait_for(namespace, "ended", "Succeeded")
        wait_for(namespace, "waiting", "Failed")
        # Events come as a series at once and their counts within ten seconds.
        time.sleep(12)
        trail = AuditTrail(operator_cluster.audit_log)
        time.sleep(6)
        assert trail.writes_by_operator({namespace.name}) == []


class TestRemoval:
    def test_deleting_a_running_training_leaves_nothing(self, namespace: Namespace):
        namespace.apply(CLAIM)
        namespace.apply(scripted_training("t", stage("a", 100_000)))
        wait_until(lambda: namespace.items("pods"), what="a pod")
        namespace.kubectl("delete", "ptrain", "t")
        for kind in ("jobs", "pods"):
            wait_until(lambda kind=kind: not namespace.items(kind), what=f"the end of all {kind}")


DIGITS = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ProgressiveTraining",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {"architecture": small_network(8)},
        "trainingData": {"embedded": "Digits"},
        "seed": 3,
        "length": "8ep",
        "defaults": {"model": {"globalBatch": 64}, "hardware": {"threads": 1}},
        "stages": [
            {"name": "first", "length": "2ep", "model": {"dropout": "0.1"}},
            {"name": "live", "length": "2ep", "model": {"learningRateFactor": "0.5"}},
            {"name": "recompile", "length": "2ep", "hardware": {"memoryFormat": "ChannelsLast"}},
            {"name": "two", "length": "2ep", "hardware": {"workers": 2}},
        ],
        "volume": {"claimName": "checkpoints"},
        "podTemplate": {"resources": {"limits": {"cpu": "1"}}},
    },
}


class TestBuiltInTrainer:
    @pytest.mark.timeout(600)
    def test_digits_in_four_stages_with_an_edit_and_a_pause(self, namespace: Namespace):
        namespace.apply(CLAIM)
        namespace.apply(DIGITS)
        volume = volume_of(namespace)
        wait_until(lambda: namespace.items("pods"), what="a pod")
        edited = [dict(entry) for entry in DIGITS["spec"]["stages"]]
        edited[3] = {**edited[3], "model": {"labelSmoothing": "0.05"}}
        patch_training(namespace, "digits", {"stages": edited})
        wait_for(namespace, "digits", "StageApplied", seconds=240)
        patch_training(namespace, "digits", {"suspend": True})
        wait_for(namespace, "digits", "Suspended", seconds=120)
        patch_training(namespace, "digits", {"suspend": False})
        assert wait_for(namespace, "digits", "Succeeded", seconds=400)["reason"] == "Completed"
        status = status_of(namespace, "digits")
        assert [entry["name"] for entry in status["stages"]] == ["first", "live", "recompile", "two"]
        classes = [entry.get("switchClass") for entry in status["stages"][1:]]
        assert classes == ["Live", "Recompile", "Reschedule"]
        ends = [entry["endSamples"] for entry in status["stages"]]
        assert ends == sorted(ends)
        assert ends[-1] == status["samples"] >= status["wholeSamples"]
        assert status["lostSteps"] == 0
        assert status["step"] * 64 == status["samples"]
        assert (volume / status["result"]["path"]).exists()
        values = {entry["name"]: float(entry["value"]) for entry in status["result"]["metrics"]}
        assert 0.5 < values["accuracy"] <= 1
