"""Edits of a training that runs: sent once, applied or refused by the run, never in its way."""

from __future__ import annotations

import pytest
from tests.reconcile.simulation import Fate
from tests.reconcile.trainings import (
    STATE,
    SimulatedTraining,
    condition,
    ended,
    index_of,
    operator_of,
    order_of,
    run_until,
    stage,
    training,
)

from nascale.contract.run_order import parse_desired_state


def at(cluster: SimulatedTraining, samples: int, **more):
    operator = operator_of(cluster, **more)
    run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples", 0) >= samples)
    return operator


def told(cluster: SimulatedTraining):
    return [parse_desired_state(pod["metadata"]["annotations"][STATE]) for pod in cluster.pods.values()]


def no_fp16(stages) -> str:
    return "no" if any(entry.hardware.precision == "FP16" for entry in stages) else ""


def set_stage(place: int, **hardware):
    def change(spec):
        spec["stages"][place].setdefault("hardware", {}).update(hardware)

    return change


class TestApplying:
    def test_a_stage_to_come_is_changed_in_the_running_job(self):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 100), stage("c", 100)))
        operator = at(cluster, 50)
        cluster.edit(set_stage(1, precision="BF16"))
        operator.settle()
        assert cluster.owner["status"]["revision"] == 1
        assert condition(cluster, "StageApplied")["status"] == "Unknown"
        assert cluster.writes.count("AnnotatePod") == 1
        run_until(cluster, operator, lambda: condition(cluster, "StageApplied")["status"] == "True")
        assert cluster.owner["status"]["appliedRevision"] == 1
        run_until(cluster, operator, lambda: ended(cluster))
        assert cluster.committed.stages[1].hardware.precision == "BF16"
        assert len(cluster.jobs) == 1
        reasons = [reason for reason, _ in cluster.events]
        assert reasons.count("ScheduleSent") == reasons.count("ScheduleApplied") == 1

    def test_an_edit_to_more_workers_makes_the_next_generation_at_its_stage(self):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 100)))
        operator = at(cluster, 50)
        cluster.edit(set_stage(1, workers=2))
        run_until(cluster, operator, lambda: ended(cluster))
        assert [order_of(job).workers for job in cluster.jobs.values()] == [1, 2]
        assert order_of(list(cluster.jobs.values())[1]).revision == 1
        assert cluster.trained[-1][1] == 200

    def test_every_worker_is_told_and_a_replaced_one_on_sight(self):
        cluster = SimulatedTraining(
            training(stage("a", 400, workers=3, model={"globalBatch": 30}), stage("b", 100)),
            fate=lambda _job, ordinal: Fate("evict", 20) if ordinal == 200 else Fate(),
        )
        operator = at(cluster, 50)
        cluster.edit(set_stage(1, precision="BF16"))
        operator.settle()
        assert [state.revision for state in told(cluster)] == [1, 1, 1]
        run_until(cluster, operator, lambda: len(cluster.pods) == 4)
        operator.settle()
        assert [state.revision for state in told(cluster)] == [1, 1, 1, 1]
        assert cluster.owner["status"]["revision"] == 1
        assert sorted({index_of(pod) for pod in cluster.pods.values()}) == [0, 1, 2]

    def test_going_back_to_the_former_stages_is_an_edit_of_its_own(self):
        cluster = SimulatedTraining(training(stage("a", 200), stage("b", 100)))
        operator = at(cluster, 50)
        cluster.edit(set_stage(1, precision="BF16"))
        run_until(cluster, operator, lambda: condition(cluster, "StageApplied")["status"] == "True")
        cluster.edit(set_stage(1, precision="FP32"))
        run_until(cluster, operator, lambda: cluster.owner["status"].get("appliedRevision") == 2)
        assert told(cluster)[0].stages is None
        run_until(cluster, operator, lambda: ended(cluster))

    def test_other_fields_of_the_spec_are_no_edit(self):
        cluster = SimulatedTraining(training())
        operator = at(cluster, 50)
        cluster.edit(lambda spec: spec.update(ttlSecondsAfterFinished=10_000))
        operator.settle()
        assert "AnnotatePod" not in cluster.writes

    def test_when_every_pod_that_knew_it_is_gone_it_is_told_anew(self):
        cluster = SimulatedTraining(training(stage("a", 400), stage("b", 100)))
        operator = at(cluster, 50)
        cluster.edit(set_stage(1, precision="BF16"))
        operator.settle()
        (name,) = cluster.pods
        cluster._interrupt(cluster.pods[name], deleted=False)
        del cluster.pods[name]
        run_until(cluster, operator, lambda: cluster.owner["status"].get("appliedRevision") == 2)
        assert cluster.owner["status"]["revision"] == 2


class TestRefusing:
    def test_what_the_run_refuses_does_not_disturb_it_nor_the_next_generation(self):
        cluster = SimulatedTraining(
            training(),
            refuses=no_fp16,
        )
        operator = at(cluster, 50)
        cluster.edit(set_stage(1, precision="TF32"))
        run_until(cluster, operator, lambda: cluster.owner["status"].get("appliedRevision") == 1)
        cluster.edit(set_stage(2, precision="FP16"))
        run_until(cluster, operator, lambda: condition(cluster, "StageApplied")["status"] == "False")
        assert condition(cluster, "StageApplied")["reason"] == "EditRefused"
        assert "Unable" in condition(cluster, "StageApplied")["message"]
        before = cluster.writes.count("AnnotatePod")
        run_until(cluster, operator, lambda: len(cluster.jobs) == 2)
        assert cluster.writes.count("AnnotatePod") == before
        order = order_of(list(cluster.jobs.values())[1])
        assert [entry.hardware.precision.value for entry in order.stages] == ["FP32", "TF32", "FP32"]
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Succeeded")["status"] == "True"

    def test_the_reason_comes_with_the_pod_s_report_where_prometheus_has_not_told_it(self):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 100)), refuses=no_fp16)
        operator = at(cluster, 50)
        cluster.away = True
        cluster.edit(set_stage(1, precision="FP16"))
        run_until(cluster, operator, lambda: ended(cluster))
        assert cluster.owner["status"]["refusedRevision"] == 1
        assert "(Unable)" in condition(cluster, "StageApplied")["message"]

    @pytest.mark.parametrize("crash_at", [None, *range(1, 7)])
    def test_an_edit_that_the_next_generation_refuses_at_its_start_ends_nothing(self, crash_at):
        cluster = SimulatedTraining(training(), refuses=no_fp16)
        operator = at(cluster, 190)
        cluster.edit(set_stage(2, precision="FP16"))
        cluster.tick()  # it switches to the next pods before anybody could tell it
        cluster.crash_at = None if crash_at is None else len(cluster.writes) + crash_at
        run_until(cluster, operator, lambda: ended(cluster))
        told = [order_of(job) for job in cluster.jobs.values()]
        assert [order.stages[2].hardware.precision.value for order in told] == ["FP32", "FP16", "FP32"]
        assert [order.revision for order in told] == [0, 1, 2]
        status = cluster.owner["status"]
        assert (status["refusedRevision"], status["appliedRevision"]) == (1, 2)
        said = condition(cluster, "StageApplied")
        assert (said["status"], said["reason"]) == ("False", "EditRefused")
        assert "Unable" in said["message"]
        assert condition(cluster, "Succeeded")["status"] == "True"
        assert cluster.trained[-1][1] == 300
        assert [end for _, end in cluster.trained[:-1]] == [begin for begin, _ in cluster.trained[1:]]

    def test_a_generation_that_refuses_the_schedule_in_force_ends_the_training(self):
        cluster = SimulatedTraining(training(), refuses=lambda _stages: "nothing will do")
        operator = at(cluster, 190)
        cluster.edit(set_stage(2, precision="FP16"))
        cluster.tick()
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Failed")["reason"] == "Unable"
        assert len(cluster.jobs) == 3

    def test_a_run_whose_job_is_deleted_is_not_given_what_it_has_refused(self):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 100)), refuses=no_fp16)
        operator = at(cluster, 30)
        cluster.edit(set_stage(1, precision="FP16"))
        run_until(cluster, operator, lambda: condition(cluster, "StageApplied")["status"] == "False")
        (name,) = cluster.jobs
        cluster._delete_job(name)
        for _ in range(30):
            cluster.tick()
            operator.settle()
        assert not cluster.jobs
        waits = condition(cluster, "Progressing")
        assert (waits["status"], waits["reason"]) == ("False", "JobLost")
        assert "as before the edit" in waits["message"]
        cluster.edit(set_stage(1, precision="FP32"))
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Succeeded")["status"] == "True"

    def test_an_edit_that_comes_after_the_last_look_is_told_not_to_have_been_applied(self):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 100)))
        operator = at(cluster, 190)
        cluster.edit(
            lambda spec: spec["stages"][1].update(until={"metric": {"name": "accuracy", "atLeast": "0.9"}})
        )
        cluster.tick()
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Succeeded")["status"] == "True"
        said = condition(cluster, "StageApplied")
        assert (said["status"], said["reason"]) == ("False", "EditRefused")

    def test_a_pause_reaches_a_run_that_has_refused_an_edit(self):
        cluster = SimulatedTraining(
            training(),
            refuses=no_fp16,
        )
        operator = at(cluster, 30)
        cluster.edit(set_stage(1, precision="FP16"))
        run_until(cluster, operator, lambda: condition(cluster, "StageApplied")["status"] == "False")
        cluster.edit(lambda spec: spec.update(suspend=True))
        run_until(cluster, operator, lambda: condition(cluster, "Suspended")["status"] == "True", ticks=20)
        assert "SuspendJob" not in cluster.writes

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda spec: spec["stages"][0].update(model={"globalBatch": 20}), "it has ended"),
            (lambda spec: spec["stages"][1].update(hardware={"workers": 2}), "it is being trained"),
            (lambda spec: spec["stages"].pop(0), "it has begun"),
        ],
    )
    def test_an_edit_of_the_past_is_refused_by_the_operator(self, change, words):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 100), stage("c", 100)))
        operator = at(cluster, 150)
        cluster.edit(change)
        # Popping a stage leaves another whole length: the spec itself is at fault then.
        cluster.owner["spec"]["length"] = f"{100 * len(cluster.owner['spec']['stages'])}sp"
        operator.settle()
        said = condition(cluster, "StageApplied")
        assert (said["status"], said["reason"]) == ("False", "EditRefused")
        assert words in said["message"]
        assert "AnnotatePod" not in cluster.writes

    def test_stages_that_sum_to_less_are_refused_and_the_run_goes_on(self):
        cluster = SimulatedTraining(training())
        operator = at(cluster, 50)
        cluster.edit(lambda spec: spec["stages"][2].update(length="50sp"))
        run_until(cluster, operator, lambda: condition(cluster, "StageApplied")["status"] == "False")
        said = condition(cluster, "StageApplied")
        assert said["reason"] == "InvalidSpec"
        assert "lengths must sum to the whole length" in said["message"]
        assert condition(cluster, "Failed")["status"] == "False"
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Succeeded")["status"] == "True"
        assert [order_of(job).workers for job in cluster.jobs.values()] == [1, 2]


def test_an_edit_survives_a_crash_at_every_write():
    def run(crash_at):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 50), stage("c", 50, workers=2)))
        operator = at(cluster, 50)
        cluster.edit(set_stage(1, precision="BF16"))
        begun = len(cluster.writes)
        cluster.crash_at = None if crash_at is None else begun + crash_at
        run_until(cluster, operator, lambda: ended(cluster))
        return cluster, len(cluster.writes) - begun

    unbroken, writes = run(None)
    assert unbroken.owner["status"]["revision"] == 1
    for write in range(1, min(writes, 12)):
        broken, _ = run(write)
        status = broken.owner["status"]
        assert status["revision"] == status["appliedRevision"] == 1, f"crash at write {write}"
        assert condition(broken, "Succeeded")["status"] == "True"
        assert broken.trained[-1][1] == 200
