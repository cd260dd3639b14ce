"""What a running training's series say about its health, and what is told of it."""

from __future__ import annotations

import pytest
from tests.reconcile.simulation import stamp
from tests.reconcile.trainings import (
    SimulatedTraining,
    condition,
    ended,
    operator_of,
    run_until,
    stage,
    training,
)

from nascale.contract import training_series as series
from nascale.reconcile.actions import Sample


def running(cluster: SimulatedTraining, samples: int = 50):
    operator = operator_of(cluster)
    run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples", 0) >= samples)
    return operator


def reasons(cluster: SimulatedTraining) -> list[str]:
    return [reason for reason, _ in cluster.events]


class TestStalls:
    def test_no_step_for_long_is_told_once_nothing_is_killed_and_it_heals(self):
        cluster = SimulatedTraining(training(restarts={"minStallSeconds": 20, "stallFactor": 10}))
        operator = running(cluster)
        cluster.stuck = True
        for _ in range(15):
            cluster.tick()
            operator.settle()
        assert condition(cluster, "Stalled")["status"] == "False"
        for _ in range(15):
            cluster.tick()
            operator.settle()
        stalled = condition(cluster, "Stalled")
        assert (stalled["status"], stalled["reason"]) == ("True", "NoSteps")
        assert len(cluster.jobs) == 1
        cluster.stuck = False
        run_until(cluster, operator, lambda: ended(cluster))
        assert reasons(cluster).count("Stalled") == reasons(cluster).count("StepsGoOn") == 1
        assert condition(cluster, "Stalled")["status"] == "False"

    def test_the_next_look_comes_when_it_would_count_as_a_stall(self):
        cluster = SimulatedTraining(training(restarts={"minStallSeconds": 20}))
        operator = running(cluster)
        assert operator.last.requeue_after_seconds is not None
        assert operator.last.requeue_after_seconds <= 21

    def test_steps_far_slower_than_the_stages_own_median_are_told(self):
        cluster = SimulatedTraining(training())
        operator = running(cluster)
        cluster.extra = [Sample(series.THROUGHPUT, 4.0)]
        operator.settle()
        assert condition(cluster, "Stalled")["reason"] == "SlowSteps"
        cluster.extra = [Sample(series.THROUGHPUT, 6.0)]
        operator.settle()
        assert condition(cluster, "Stalled")["reason"] == "StepsGoOn"

    def test_while_prometheus_is_away_nothing_is_said_of_a_stall(self):
        cluster = SimulatedTraining(training(stage("a", 10_000)))
        operator = running(cluster)
        cluster.away = True
        for _ in range(100):
            cluster.tick()
            operator.settle()
        assert condition(cluster, "MetricsAvailable")["status"] == "False"
        assert condition(cluster, "Stalled")["status"] == "False"


class TestHealth:
    @pytest.mark.parametrize(
        ("sample", "kind", "reason", "event"),
        [
            (Sample(series.ROLL_BACKS, 1.0), "Diverged", "RolledBack", "Diverged"),
            (Sample(series.NON_FINITE, 1.0), "Diverged", "NotFinite", "Diverged"),
            (Sample(series.DAMAGED_CHECKPOINTS, 2.0), "CheckpointsHealthy", "Damaged", "CheckpointDamaged"),
        ],
    )
    def test_a_count_becomes_a_condition_and_one_event(self, sample, kind, reason, event):
        cluster = SimulatedTraining(training())
        operator = running(cluster)
        cluster.extra = [sample]
        operator.settle()
        cluster.tick()
        operator.settle()
        assert condition(cluster, kind)["reason"] == reason
        assert reasons(cluster).count(event) == 1

    def test_a_run_that_went_back_has_recovered_when_it_is_past_the_step_that_failed(self):
        cluster = SimulatedTraining(training())
        operator = running(cluster, 50)
        bad = 8.0
        cluster.extra = [Sample(series.ROLL_BACKS, 1.0), Sample(series.DIVERGED_STEP, bad)]
        operator.settle()
        assert condition(cluster, "Diverged")["reason"] == "RolledBack"
        run_until(cluster, operator, lambda: condition(cluster, "Diverged")["reason"] == "Recovered")
        assert condition(cluster, "Diverged")["status"] == "False"
        assert "once" in condition(cluster, "Diverged")["message"]
        assert cluster.owner["status"]["step"] == bad + 1
        cluster.extra = [Sample(series.ROLL_BACKS, 2.0), Sample(series.DIVERGED_STEP, 25.0)]
        operator.settle()
        assert condition(cluster, "Diverged")["reason"] == "RolledBack"
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Diverged")["reason"] == "Recovered"
        assert cluster.owner["status"]["rollBacks"] == 2
        assert [name for name in reasons(cluster) if name in ("Diverged", "Recovered")] == [
            "Diverged",
            "Recovered",
        ] * 2

    def test_a_crash_behind_the_step_that_failed_does_not_take_the_recovery_back(self):
        cluster = SimulatedTraining(training())
        operator = running(cluster, 90)
        cluster.extra = [Sample(series.ROLL_BACKS, 1.0), Sample(series.DIVERGED_STEP, 8.0)]
        operator.settle()
        assert condition(cluster, "Diverged")["reason"] == "Recovered"
        cluster.extra = [Sample(series.ROLL_BACKS, 1.0), Sample(series.DIVERGED_STEP, 800.0)]
        operator.settle()
        assert condition(cluster, "Diverged")["reason"] == "Recovered"

    def test_the_last_checkpoint_is_shown_while_the_run_goes_on(self):
        cluster = SimulatedTraining(training(stage("a", 1000)))
        operator = running(cluster)
        assert "checkpoint" not in cluster.owner["status"]
        made = [Sample(series.CHECKPOINT_STEP, 4.0), Sample(series.CHECKPOINT_SAMPLES, 40.0)]
        cluster.extra = [*made, Sample(series.CHECKPOINT_TIMESTAMP, cluster.now.timestamp() + 0.5)]
        operator.settle()
        shown = cluster.owner["status"]["checkpoint"]
        assert (shown["step"], shown["samples"], shown["time"]) == (4, 40, stamp(cluster.now))
        cluster.extra = made  # another process goes on from it, and has made none itself
        cluster.tick()
        operator.settle()
        assert cluster.owner["status"]["checkpoint"] == shown
        cluster.extra = [Sample(series.CHECKPOINT_STEP, 6.0), Sample(series.CHECKPOINT_SAMPLES, 60.0)]
        operator.settle()
        later = cluster.owner["status"]["checkpoint"]
        assert (later["step"], later["samples"], later.get("time")) == (6, 60, None)

    def test_the_time_left_counts_each_stage_with_what_is_known_of_its_speed(self):
        stages = [stage("a", 100, workers=2), stage("b", 100), stage("c", 100, workers=2), stage("d", 100)]
        cluster = SimulatedTraining(training(*stages))
        cluster.extra = [
            Sample(series.STAGE_BOUND, 100.0 * (place + 1), {"stage": str(place)}) for place in range(4)
        ]
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: cluster.owner.get("status", {}).get("samples") == 150)
        cluster.extra.append(Sample(series.THROUGHPUT, 20.0))
        operator.settle()
        # 50 samples at 20/s; c as a was, 10/s; d as now: 2.5 + 10 + 5 s, rounded.
        assert cluster.owner["status"]["estimatedRemainingSeconds"] == 18

    def test_a_checkpoint_that_is_overdue_is_told(self):
        cluster = SimulatedTraining(training(stage("a", 10_000), checkpoints={"everySeconds": 30}))
        operator = running(cluster)
        cluster.extra = [Sample(series.CHECKPOINT_TIMESTAMP, cluster.now.timestamp())]
        operator.settle()
        assert condition(cluster, "CheckpointsHealthy")["reason"] == "Saved"
        for _ in range(100):
            cluster.tick()
            operator.settle()
        assert condition(cluster, "CheckpointsHealthy")["reason"] == "Overdue"
        assert reasons(cluster).count("CheckpointOverdue") == 1

    def test_a_switch_is_counted_and_told_with_its_phases(self):
        cluster = SimulatedTraining(training())
        cluster.extra = [
            Sample(series.SWITCH_SECONDS, 0.5, {"stage": "1", "class": "Recompile", "phase": "apply"}),
            Sample(series.SWITCH_SECONDS, 1.25, {"stage": "1", "class": "Recompile", "phase": "firstStep"}),
        ]
        running(cluster, 150)
        found = cluster.owner["status"]["stages"][1]
        assert (found["switchClass"], found["switchSeconds"]) == ("Recompile", "1.75")
        assert [entry["name"] for entry in found["switchPhases"]] == ["apply", "firstStep"]
        assert cluster.owner["status"]["switches"]["recompile"] == 1
        assert reasons(cluster).count("StageSwitched") == 1
        assert cluster.counted["training_switch_seconds", "Recompile"] == 1

    def test_device_seconds_grow_only_with_something_else(self):
        cluster = SimulatedTraining(training(stage("a", 200, workers=2)))
        operator = running(cluster)
        before = cluster.owner["status"]["deviceSeconds"]
        assert before >= 8
        cluster.stuck = True
        cluster.tick()
        assert operator.look() is False
        assert cluster.owner["status"]["deviceSeconds"] == before
