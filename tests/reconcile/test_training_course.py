"""A training from its first Job to its result: generations, suspension, fall-backs, ends."""

from __future__ import annotations

from tests.reconcile.simulation import Fate
from tests.reconcile.trainings import (
    SimulatedTraining,
    condition,
    ended,
    operator_of,
    order_of,
    run_until,
    stage,
    training,
)


def run(cluster: SimulatedTraining, **more):
    operator = operator_of(cluster, **more)
    run_until(cluster, operator, lambda: ended(cluster))
    operator.settle()
    return operator


def reasons(cluster: SimulatedTraining) -> list[str]:
    return [reason for reason, _ in cluster.events]


class TestPlannedStages:
    def test_it_runs_through_its_stages_and_makes_a_job_only_for_other_workers(self):
        cluster = SimulatedTraining(training())
        run(cluster)
        status = cluster.owner["status"]
        assert condition(cluster, "Succeeded")["reason"] == "Completed"
        assert [order_of(job).workers for job in cluster.jobs.values()] == [1, 2]
        assert [order_of(job).generation for job in cluster.jobs.values()] == [1, 2]
        assert status["runGeneration"] == 2
        assert status["samples"] == 300
        assert status["progressPercentage"] == 100
        assert [entry["name"] for entry in status["stages"]] == ["a", "b", "c"]
        assert [entry.get("endSamples") for entry in status["stages"]] == [100, 200, 300]
        assert status["result"]["path"] == "nascale/t-0/model.safetensors"
        assert status["result"]["metrics"] == status["metrics"] != []
        assert cluster.trained[0][0] == 0
        assert [end for _, end in cluster.trained[:-1]] == [begin for begin, _ in cluster.trained[1:]]
        assert cluster.trained[-1][1] == 300
        assert cluster.counted["trainings_finished", "Succeeded"] == 1

    def test_a_stage_that_passes_unseen_shows_the_settings_that_it_states(self):
        cluster = SimulatedTraining(training(), away=True)
        run(cluster)
        for state in cluster.owner["status"]["stages"]:
            settings = {entry["name"]: entry["value"] for entry in state["settings"]}
            assert settings["globalBatch"] == "10"
            assert settings["precision"] == {"b": "BF16"}.get(state["name"], "FP32")
            assert settings["workers"] == {"c": "2"}.get(state["name"], "1")
            assert "resources" not in settings

    def test_status_follows_while_it_runs_and_every_stage_is_told_once(self):
        cluster = SimulatedTraining(training())
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples") == 150)
        status = cluster.owner["status"]
        assert status["currentStage"] == "b"
        assert status["progressPercentage"] == 50
        assert status["throughput"] == "10"
        assert {entry["name"]: entry["value"] for entry in status["settings"]} == {"globalBatch": "10"}
        assert condition(cluster, "MetricsAvailable")["status"] == "True"
        run_until(cluster, operator, lambda: ended(cluster))
        assert reasons(cluster).count("StageStarted") == 3
        assert reasons(cluster).count("GenerationStarted") == 2
        assert reasons(cluster).count("TrainingSucceeded") == 1

    def test_without_prometheus_it_is_not_disturbed_and_the_end_is_exact(self):
        cluster = SimulatedTraining(training(), away=True)
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: condition(cluster, "MetricsAvailable").get("status") == "False")
        assert condition(cluster, "MetricsAvailable")["reason"] == "PrometheusUnreachable"
        run_until(cluster, operator, lambda: ended(cluster))
        status = cluster.owner["status"]
        assert condition(cluster, "Succeeded")["status"] == "True"
        assert [entry["endSamples"] for entry in status["stages"]] == [100, 200, 300]
        assert len(cluster.jobs) == 2

    def test_nothing_is_written_while_nothing_changes(self):
        cluster = SimulatedTraining(training())
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples") == 50)
        before = len(cluster.writes)
        for _ in range(5):
            assert operator.look() is False
        assert len(cluster.writes) == before


class TestSuspension:
    def test_it_saves_stops_and_goes_on_at_the_same_step_in_the_next_generation(self):
        cluster = SimulatedTraining(training())
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples") == 50)
        cluster.edit(lambda spec: spec.update(suspend=True))
        run_until(cluster, operator, lambda: condition(cluster, "Suspended")["status"] == "True")
        saved = cluster.committed.samples
        assert saved == cluster.owner["status"]["samples"] >= 50
        before = len(cluster.writes)
        for _ in range(30):
            cluster.tick()
            operator.settle()
        assert len(cluster.writes) == before
        cluster.edit(lambda spec: spec.update(suspend=False))
        run_until(cluster, operator, lambda: ended(cluster))
        assert cluster.lost == 0
        assert sorted(order_of(job).generation for job in cluster.jobs.values()) == [1, 2, 3]
        assert condition(cluster, "Succeeded")["status"] == "True"
        assert {"Suspended", "Resumed"} <= set(reasons(cluster))

    def test_a_run_that_does_not_react_is_ended_by_sigterm(self):
        cluster = SimulatedTraining(training())
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples") == 50)
        cluster.stuck = True
        cluster.edit(lambda spec: spec.update(suspend=True))
        run_until(cluster, operator, lambda: condition(cluster, "Suspended")["status"] == "True")
        assert cluster.writes.count("SuspendJob") == 1
        cluster.stuck = False
        cluster.edit(lambda spec: spec.update(suspend=False))
        run_until(cluster, operator, lambda: ended(cluster))
        assert cluster.lost == 0

    def test_before_the_first_pod_runs_its_job_is_deleted(self):
        cluster = SimulatedTraining(training(), quota=False)
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: len(cluster.jobs) == 1)
        cluster.edit(lambda spec: spec.update(suspend=True))
        run_until(cluster, operator, lambda: condition(cluster, "Suspended")["status"] == "True")
        assert cluster.jobs == {}
        cluster.quota = True
        cluster.edit(lambda spec: spec.update(suspend=False))
        run_until(cluster, operator, lambda: ended(cluster))

    def test_a_queued_job_is_deleted_and_the_queue_admits_the_next_one(self):
        labels = {"kueue.x-k8s.io/queue-name": "team"}
        cluster = SimulatedTraining(training(labels=labels), admits=False)
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: len(cluster.jobs) == 1)
        for _ in range(700):
            cluster.tick()
        operator.settle()
        assert condition(cluster, "Progressing")["reason"] == "Queued"
        assert condition(cluster, "Degraded")["status"] == "False"
        cluster.edit(lambda spec: spec.update(suspend=True))
        run_until(cluster, operator, lambda: condition(cluster, "Suspended")["status"] == "True")
        assert cluster.jobs == {}
        cluster.admits = True
        cluster.edit(lambda spec: spec.update(suspend=False))
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Succeeded")["status"] == "True"


def never_starts(*names: str):
    return lambda job, _ordinal: Fate("image" if job["metadata"]["name"].endswith(names) else "report")


class TestFallingBack:
    def test_workers_that_do_not_come_are_done_without(self):
        stages = (
            stage("a", 100),
            stage("b", 100, workers=2),
            stage("c", 100, workers=3, model={"globalBatch": 30}),
        )
        cluster = SimulatedTraining(
            training(*stages, restarts={"startTimeoutSeconds": 30}), fate=never_starts("-g2")
        )
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: condition(cluster, "Degraded").get("status") == "True")
        assert condition(cluster, "Degraded")["reason"] == "FellBack"
        assert cluster.owner["status"]["fallback"]["stage"] == "b"
        run_until(cluster, operator, lambda: ended(cluster))
        jobs = cluster.jobs.values()
        assert [(order_of(job).generation, order_of(job).workers) for job in jobs] == [(1, 1), (3, 1), (4, 3)]
        assert condition(cluster, "Succeeded")["status"] == "True"
        assert condition(cluster, "Degraded")["status"] == "False"
        assert "fallback" not in cluster.owner["status"]
        assert cluster.lost == 0

    def test_a_first_generation_that_does_not_start_waits_and_says_so(self):
        cluster = SimulatedTraining(
            training(restarts={"startTimeoutSeconds": 30}),
            fate=lambda _job, _ordinal: Fate("image" if cluster.quota else "report"),
        )
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: condition(cluster, "Degraded").get("status") == "True")
        assert condition(cluster, "Degraded")["reason"] == "NotStarted"
        assert condition(cluster, "Progressing")["reason"] == "WaitingForInfrastructure"
        assert len(cluster.jobs) == 1

    def test_a_pod_that_is_replaced_late_is_no_reason_to_fall_back(self):
        fates = {"-g2-1-p0": Fate("evict", 5)}

        def fate(job, ordinal):
            name = f"{job['metadata']['name'][-3:]}-{ordinal // 100}-p{ordinal % 100}"
            if name == "-g2-1-p1":
                return Fate("report" if cluster.now.minute >= 10 else "image")
            return fates.get(name, Fate())

        cluster = SimulatedTraining(
            training(stage("a", 50), stage("b", 100, workers=2), restarts={"startTimeoutSeconds": 30}),
            fate=fate,
        )
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: ended(cluster), ticks=2000)
        assert [order_of(job).generation for job in cluster.jobs.values()] == [1, 2]
        assert condition(cluster, "Degraded")["status"] == "False"


class TestEnds:
    def test_errors_of_its_own_are_repeated_by_the_job_and_then_fail_it(self):
        cluster = SimulatedTraining(
            training(restarts={"maxRestarts": 2}), fate=lambda _job, _ordinal: Fate("crash", 6)
        )
        run(cluster)
        failed = condition(cluster, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", "NonZeroExit")
        assert "Traceback: no luck" in failed["message"]
        assert cluster.owner["status"]["restarts"] == 3
        assert len(cluster.jobs) == 1

    def test_an_eviction_is_no_failure(self):
        cluster = SimulatedTraining(
            training(restarts={"maxRestarts": 0}),
            fate=lambda _job, ordinal: Fate("evict", 7) if ordinal % 100 == 0 else Fate(),
        )
        run(cluster)
        assert condition(cluster, "Succeeded")["status"] == "True"
        assert cluster.owner["status"]["restarts"] == 0

    def test_a_deadline_ends_it_and_time_in_suspension_does_not_count(self):
        cluster = SimulatedTraining(training(stage("a", 10_000), activeDeadlineSeconds=100))
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples", 0) >= 200)
        cluster.edit(lambda spec: spec.update(suspend=True))
        run_until(cluster, operator, lambda: condition(cluster, "Suspended")["status"] == "True")
        for _ in range(10):
            cluster.tick(100)
            operator.settle()
        assert not ended(cluster)
        cluster.edit(lambda spec: spec.update(suspend=False))
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Failed")["reason"] == "DeadlineReached"
        operator.settle()
        assert all(job["status"].get("conditions") or False for job in cluster.jobs.values())

    def test_a_job_that_somebody_deletes_is_made_again(self):
        cluster = SimulatedTraining(training())
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples") == 50)
        (name,) = cluster.jobs
        cluster._delete_job(name)
        run_until(cluster, operator, lambda: condition(cluster, "Progressing")["reason"] == "JobLost")
        run_until(cluster, operator, lambda: ended(cluster))
        assert next(iter(cluster.jobs)) == name
        assert condition(cluster, "Succeeded")["status"] == "True"

    def test_its_ttl_removes_it_and_its_jobs_go_before(self):
        cluster = SimulatedTraining(training(ttlSecondsAfterFinished=5000))
        operator = run(cluster)
        cluster.tick(700)
        operator.settle()
        assert cluster.jobs == {}
        assert not cluster.owner_deleted
        cluster.tick(5000)
        operator.look()
        assert cluster.owner_deleted

    def test_one_that_is_being_deleted_is_left_alone(self):
        cluster = SimulatedTraining(training())
        cluster.owner["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        operator = operator_of(cluster)
        assert operator.look() is False
        assert cluster.jobs == {}
