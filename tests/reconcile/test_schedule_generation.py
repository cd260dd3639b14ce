"""A training that measures, chooses its schedule, says why, and runs it."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reconcile.generations import (
    EPOCH,
    SimulatedGeneration,
    generated,
    generated_training,
    of_trials,
    profile_order_of,
    run_jobs,
    trial_jobs,
)
from tests.reconcile.simulation import Fate
from tests.reconcile.test_convergence import SIMULATED
from tests.reconcile.trainings import condition, ended, operator_of, order_of, run_until

from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.stages import TrainingStage
from nascale.contract.schedule import resolve
from nascale.progressive.settings import stage_order
from nascale.reconcile import schedule_generation
from nascale.reconcile.actions import Reading, ReadingProblem

ENDS = ("report", "report", "report", "evict", "crash", "oom", "delete")


def planned(cluster: SimulatedGeneration) -> bool:
    return bool(generated(cluster).get("stages"))


def run_jobs_made(cluster: SimulatedGeneration) -> bool:
    return bool(run_jobs(cluster))


def until_planned(cluster: SimulatedGeneration) -> None:
    run_until(cluster, operator_of(cluster), lambda: planned(cluster) or ended(cluster))


def schedule_of(cluster: SimulatedGeneration) -> Any:
    """Return what must be the same whoever has generated it."""
    kept = ("candidate", "seconds", "constantSeconds", "reason", "table", "alternatives", "stages", "plan")
    return {key: generated(cluster).get(key) for key in kept}


def running(cluster: SimulatedGeneration) -> bool:
    return any(pod["status"]["phase"] == "Running" for pod in cluster.pods.values())


def reasons(cluster: SimulatedGeneration) -> list[str]:
    return [reason for reason, _ in cluster.events]


def test_settings_are_measured_in_few_pods_and_a_schedule_is_made():
    cluster = SimulatedGeneration(generated_training())
    until_planned(cluster)
    found = generated(cluster)
    assert found["activity"] == "Planned"
    assert 3 <= found["measured"] == len(cluster.trials) <= found["maxMeasured"] == 24
    assert found["gridSize"] == 3 * 2 * 2 * 2
    assert found["profileDeviceSeconds"] > 0
    assert float(found["predictionError"]) < 0.1
    assert found["device"]["software"] == "torch 2.15.0"
    assert float(found["seconds"]) < float(found["constantSeconds"])
    assert [row["name"] for row in found["table"]] == [stage["name"] for stage in found["stages"]]
    assert abs(sum(row["sharePercentage"] for row in found["table"]) - 100) <= len(found["table"])
    assert len(found["alternatives"]) >= 2
    assert "times as fast as the constant recipe" in found["reason"]
    assert all(trial["spec"]["purpose"] == "Profile" for trial in cluster.trials.values())
    assert all(len(profile_order_of(job).candidates) <= 3 for job in trial_jobs(cluster))
    assert reasons(cluster).count("SchedulePlanned") == 1


def test_measurements_are_as_long_and_as_steady_as_asked_for():
    profile = {"minSteps": 50, "minMilliseconds": 250, "maxSpreadRatio": "0.3"}
    cluster = SimulatedGeneration(generated_training(profile=profile))
    until_planned(cluster)
    (measurement,) = {profile_order_of(job).measurement for job in trial_jobs(cluster)}
    assert (measurement.min_calls, measurement.min_seconds) == (50, 0.25)
    assert measurement.max_spread_ratio == 0.3


def test_low_precision_is_guarded_against_the_settings_of_the_defaults():
    cluster = SimulatedGeneration(generated_training())
    until_planned(cluster)
    orders = [profile_order_of(job) for job in trial_jobs(cluster)]
    guarded = [entry for order in orders for entry in order.candidates if entry.guarded]
    assert guarded
    assert {entry.stages[0].hardware.precision.value for entry in guarded} == {"BF16"}
    assert {order.reference.hardware.precision.value for order in orders if order.reference} == {"FP32"}


def test_low_precision_that_deviates_is_not_used():
    cluster = SimulatedGeneration(generated_training(), deviates=0.5)
    until_planned(cluster)
    used = [entry for row in generated(cluster)["table"] for entry in row["settings"]]
    assert {"name": "precision", "value": "BF16"} not in used


def test_the_stages_are_those_of_an_ordinary_training():
    cluster = SimulatedGeneration(generated_training())
    until_planned(cluster)
    training = ProgressiveTraining.model_validate(cluster.owner)
    stages = [TrainingStage.model_validate(entry) for entry in generated(cluster)["stages"]]
    orders = tuple(stage_order(training.spec, stage) for stage in stages)
    run_until(cluster, operator_of(cluster), lambda: run_jobs_made(cluster))
    (job,) = run_jobs(cluster)
    assert order_of(job).stages == orders
    ends = resolve(training.spec.length, orders, EPOCH)
    assert ends.whole == 20_000_000
    assert orders[-1].model.resolution == 32
    assert (ends.whole - ends.begin(len(orders) - 1)) / ends.whole >= 0.25


def test_a_whole_training_follows_the_generated_stages():
    cluster = SimulatedGeneration(generated_training(length="2000sp"), slow=100.0)
    run_until(cluster, operator_of(cluster), lambda: ended(cluster), ticks=600)
    status = cluster.owner["status"]
    assert condition(cluster, "Succeeded")["status"] == "True", status["conditions"]
    assert [entry["name"] for entry in status["stages"]] == [
        entry["name"] for entry in generated(cluster)["stages"]
    ]
    assert cluster.committed.samples == 2000


def test_a_dry_run_ends_with_the_table():
    cluster = SimulatedGeneration(generated_training(dryRun=True))
    until_planned(cluster)
    assert ended(cluster)
    succeeded = condition(cluster, "Succeeded")
    assert (succeeded["status"], succeeded["reason"]) == ("True", "ScheduleGenerated")
    operator = operator_of(cluster)
    for _ in range(5):
        cluster.tick(60)
        operator.settle()
    assert run_jobs(cluster) == []
    assert generated(cluster)["table"]


def test_no_setting_that_the_device_can_do_is_told_with_each_refusal():
    training = generated_training(hardware={"memoryFormat": ["Contiguous", "ChannelsLast"]})
    training["spec"]["defaults"]["hardware"] = {"precision": "FP16"}
    training["spec"]["schedule"]["generate"]["allowLate"] = ["LowPrecision"]
    cluster = SimulatedGeneration(training)
    until_planned(cluster)
    failed = condition(cluster, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "NothingFeasible")
    assert "the device has no FP16" in failed["message"]


def test_a_training_shorter_than_its_profile_is_refused():
    cluster = SimulatedGeneration(generated_training(length="100sp"))
    until_planned(cluster)
    failed = condition(cluster, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "ProfileLongerThanTraining")
    assert "spec.length: must be so long that measuring pays" in failed["message"]
    assert len(cluster.trials) == 3, "the first pod has told it"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model": {"resolution": [16, 40]}}, "model.resolution: must be at most that of the defaults (32)"),
        ({"model": {"parameters": [{"name": "x", "values": ["1"]}]}}, "model.x"),
        ({"optimize": "Energy"}, "energyQuery: must be set where optimize is Energy"),
        ({"qualityFloor": {"metric": "loss", "atMost": "1"}}, "proxy: must be set where qualityFloor is"),
    ],
)
def test_a_generation_that_contradicts_itself_is_refused_before_anything_is_made(change: Any, fault: str):
    cluster = SimulatedGeneration(generated_training(**change))
    operator_of(cluster).settle()
    failed = condition(cluster, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "InvalidSpec")
    assert fault in failed["message"], failed["message"]
    assert cluster.trials == {}


@pytest.mark.parametrize(
    ("limit", "processes", "threads", "fault"),
    [
        ("2", 1, [1, 2], ""),
        ("1500m", 1, [1, 2], ""),
        ("2", 1, [1, 2, 4], "hardware.threads: must be at most 2: podTemplate and placement limit each pod"),
        ("500m", 1, [1, 2], "hardware.threads: must be at most 1"),
        ("4", 2, [1, 3], "limit each pod to 4 CPUs for 2 processes, not 3"),
        (None, 1, [1, 64], ""),
    ],
)
def test_more_threads_than_a_pod_has_processors_are_refused(
    limit: str | None, processes: int, threads: list[int], fault: str
):
    document = generated_training(hardware={"threads": threads})
    document["spec"]["defaults"]["hardware"] = {"processesPerWorker": processes}
    if limit is not None:
        document["spec"]["podTemplate"]["resources"] = {"limits": {"cpu": limit}}
    cluster = SimulatedGeneration(document)
    operator_of(cluster).settle()
    failed = condition(cluster, "Failed")
    if fault:
        assert (failed["status"], failed["reason"]) == ("True", "InvalidSpec")
        assert fault in failed["message"], failed["message"]
        assert cluster.trials == {}
    else:
        assert failed.get("status") != "True", failed
        assert cluster.trials


def test_threads_that_the_fewest_processes_can_have_are_no_fault():
    document = generated_training(hardware={"threads": [1, 3], "processesPerWorker": [1, 2]})
    document["spec"]["defaults"]["hardware"] = {"processesPerWorker": 2}
    document["spec"]["podTemplate"]["resources"] = {"limits": {"cpu": "4"}}
    cluster = SimulatedGeneration(document)
    operator_of(cluster).settle()
    assert condition(cluster, "Failed").get("status") != "True"


def test_a_limit_of_the_placement_takes_the_place_of_the_templates():
    document = generated_training(hardware={"threads": [1, 4]})
    document["spec"]["podTemplate"]["resources"] = {"limits": {"cpu": "8"}}
    document["spec"]["placement"] = {"resources": {"limits": {"cpu": "2"}}}
    cluster = SimulatedGeneration(document)
    operator_of(cluster).settle()
    assert "must be at most 2" in condition(cluster, "Failed")["message"]


def test_a_look_designs_once_at_most_and_not_at_all_while_measurements_run(monkeypatch: pytest.MonkeyPatch):
    """Over a large grid it takes about a second of a planning thread: it is asked for where it counts."""
    made: list[int] = []
    per_look: list[tuple[int, bool]] = []
    design, look = schedule_generation.design, schedule_generation.Generator.look

    def counted_design(*given: Any, **more: Any) -> Any:
        made.append(len(given))
        return design(*given, **more)

    def counted_look(own: Any) -> Any:
        before = len(made)
        found = look(own)
        per_look.append((len(made) - before, running(cluster)))
        return found

    monkeypatch.setattr(schedule_generation, "design", counted_design)
    monkeypatch.setattr(schedule_generation.Generator, "look", counted_look)
    cluster = SimulatedGeneration(generated_training())
    until_planned(cluster)
    assert max(count for count, _ in per_look) == 1
    assert {count for count, busy in per_look if busy} == {0}
    assert any(busy for _, busy in per_look)


ENERGY = {"optimize": "Energy", "energyQuery": 'avg_over_time(node_power_watts{trial="$trial"}[1m])'}


def precisions(cluster: SimulatedGeneration) -> set[str]:
    """Return the number formats of the generated stages."""
    stages = generated(cluster)["stages"]
    return {stage.get("hardware", {}).get("precision", "FP32") for stage in stages}


def test_power_that_prometheus_knows_decides_which_settings_a_schedule_has():
    """BF16 is faster, and takes so much more power that a step of it costs more energy."""
    asked: list[tuple[str, str]] = []
    document = generated_training(**ENERGY)
    cluster = SimulatedGeneration(document)

    def watts(trial: str, metric: str) -> Reading:
        asked.append((trial, metric))
        settings = {own["name"]: own["value"] for own in cluster.trials[trial]["spec"]["parameters"]}
        return Reading(value=1000.0 if settings["precision"] == "BF16" else 100.0)

    cluster.prometheus = watts
    until_planned(cluster)
    found = generated(cluster)
    assert precisions(cluster) == {"FP32"}
    assert "one with the least energy" in found["reason"]
    assert " J)" in found["reason"]
    assert {trial for trial, _ in asked} == set(cluster.trials), "each measurement is asked about"
    assert {metric for _, metric in asked} == {"power_watts"}
    for trial in cluster.trials.values():
        power = next(own for own in trial["status"]["metrics"] if own["name"] == "power_watts")
        assert power["source"] == "Prometheus"

    by_time = SimulatedGeneration(generated_training())
    until_planned(by_time)
    assert precisions(by_time) == {"BF16"}
    assert float(generated(by_time)["seconds"]) < float(found["seconds"])


def test_energy_that_nobody_measures_ends_the_training_and_it_is_said_why():
    missing = Reading(problem=ReadingProblem.NO_SERIES, message="the query yields no series")
    document = generated_training(**ENERGY, profile={"trialsPerPod": 3, "maxFailedTrials": 1})
    cluster = SimulatedGeneration(document, prometheus=lambda _trial, _metric: missing)
    run_until(cluster, operator_of(cluster), lambda: ended(cluster))
    failed = condition(cluster, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "MetricsUnavailable")
    assert "power_watts" in failed["message"]
    assert "the query yields no series" in failed["message"]
    assert run_jobs(cluster) == []
    assert "stages" not in generated(cluster) or generated(cluster)["stages"] == []


def test_too_many_failures_end_the_training():
    cluster = SimulatedGeneration(
        generated_training(profile={"trialsPerPod": 3, "maxFailedTrials": 1, "trialRetries": 0}),
        fate=lambda job, _ordinal: Fate("crash" if of_trials(job) else "report"),
    )
    until_planned(cluster)
    assert condition(cluster, "Failed")["reason"] == "MaxFailedTrialsReached"
    assert run_jobs(cluster) == []


def test_suspension_stops_the_measurements_and_goes_on_after_it():
    cluster = SimulatedGeneration(generated_training(), fate=lambda _job, _ordinal: Fate(seconds=20))
    operator = operator_of(cluster)
    run_until(
        cluster, operator, lambda: any(p["status"]["phase"] == "Running" for p in cluster.pods.values())
    )
    cluster.edit(lambda spec: spec.update(suspend=True))
    for _ in range(5):
        operator.settle()
        cluster.tick()
    assert condition(cluster, "Suspended")["status"] == "True"
    assert all(job["spec"].get("suspend") for job in trial_jobs(cluster))
    assert not running(cluster)
    cluster.edit(lambda spec: spec.update(suspend=False))
    run_until(cluster, operator, lambda: planned(cluster))
    assert sum(cluster.outcomes_written.values()) == len(cluster.trials)


def test_what_has_ended_leaves_no_measurement_behind():
    training = generated_training()
    training["spec"]["activeDeadlineSeconds"] = 10
    cluster = SimulatedGeneration(training, fate=lambda _job, _ordinal: Fate("hang"))
    operator = operator_of(cluster)
    run_until(cluster, operator, lambda: ended(cluster))
    for _ in range(3):
        operator.settle()
        cluster.tick()
    assert condition(cluster, "Failed")["reason"] == "DeadlineReached"
    assert {trial["status"]["outcome"] for trial in cluster.trials.values()} == {"EarlyStopped"}
    assert cluster.jobs == {}


def test_a_queue_admits_measurements_like_any_job():
    cluster = SimulatedGeneration(generated_training(labels={"kueue.x-k8s.io/queue-name": "q"}))
    cluster.admits = False
    operator = operator_of(cluster)
    for _ in range(3):
        operator.settle()
        cluster.tick()
    assert trial_jobs(cluster)
    assert cluster.pods == {}
    cluster.admits = True
    until_planned(cluster)
    assert planned(cluster)


def seeded_fate(seed: int) -> Any:
    """Draw each pod's fate from its name alone; from the third pod on, fortune is kind."""

    def fate(job: dict[str, Any], ordinal: int) -> Fate:
        drawn = random.Random(f"{seed}/{job['metadata']['name']}/{ordinal}")
        kind = ordinal > 1 or not of_trials(job) or not job["metadata"]["name"].endswith("-a0")
        return Fate("report" if kind else drawn.choice(ENDS), seconds=drawn.randint(1, 6))

    return fate


def unbroken() -> Any:
    cluster = SimulatedGeneration(generated_training())
    until_planned(cluster)
    return schedule_of(cluster)


@settings(SIMULATED, max_examples=6)
@given(seed=st.integers(0, 10_000))
def test_whatever_happens_to_pods_the_schedule_is_the_same(seed):
    cluster = SimulatedGeneration(generated_training(), fate=seeded_fate(seed))
    run_until(cluster, operator_of(cluster), lambda: planned(cluster), ticks=3000)
    assert schedule_of(cluster) == unbroken()
    assert all(count == 1 for count in cluster.outcomes_written.values())


def test_what_noise_leaves_in_doubt_is_measured_again_by_another_pod():
    cluster = SimulatedGeneration(generated_training(), noise=0.06)
    until_planned(cluster)
    pods: dict[str, set[int]] = {}
    for trial in cluster.trials.values():
        spec = trial["spec"]
        settings_of = json.dumps([own for own in spec["parameters"] if own["name"] != "guarded"])
        pods.setdefault(settings_of, set()).add(spec["lead"])
    again = [leads for leads in pods.values() if len(leads) > 1]
    assert again
    assert len(cluster.trials) == sum(len(leads) for leads in pods.values()), "never twice by the same pod"
    origins = [trial["spec"]["origin"] for trial in cluster.trials.values()]
    assert origins.count("counts for the schedule, and is noisy") == sum(len(leads) - 1 for leads in again)
    assert generated(cluster)["measured"] == len(cluster.trials)


def test_a_short_training_measures_nothing_again_and_does_not_fail_for_it():
    long = SimulatedGeneration(generated_training(), noise=0.06)
    until_planned(long)
    spent = generated(long)["profileDeviceSeconds"]
    recipe = float(generated(long)["constantSeconds"])
    length = round(20_000_000 * 2 * spent / recipe)
    short = SimulatedGeneration(generated_training(length=f"{length}sp"), noise=0.06)
    until_planned(short)
    assert planned(short), "not so short that measuring does not pay"
    origins = {trial["spec"]["origin"] for trial in short.trials.values()}
    assert "counts for the schedule, and is noisy" not in origins
    assert len(short.trials) < len(long.trials)


def test_a_crash_at_any_write_of_a_noisy_profile_leads_to_the_same_schedule():
    def run(crash_at: int | None) -> SimulatedGeneration:
        cluster = SimulatedGeneration(generated_training(), crash_at=crash_at, noise=0.06)
        until_planned(cluster)
        return cluster

    whole = run(None)
    expected, trials = schedule_of(whole), len(whole.trials)
    for write in range(1, len(whole.writes) + 1):
        broken = run(write)
        assert schedule_of(broken) == expected, f"crash at write {write}"
        assert len(broken.trials) == trials


def test_a_crash_at_any_write_leads_to_the_same_schedule():
    def run(crash_at: int | None) -> SimulatedGeneration:
        cluster = SimulatedGeneration(generated_training())
        cluster.crash_at = crash_at
        run_until(cluster, operator_of(cluster), lambda: run_jobs_made(cluster))
        return cluster

    whole = run(None)
    expected = schedule_of(whole)
    assert expected["plan"] == 1
    # The first batch one by one; of what repeats every third write; the step from the last pod to the run.
    count = len(whole.writes)
    for write in sorted({*range(1, 13), *range(13, count, 3), *range(count - 4, count + 1)}):
        broken = run(write)
        assert schedule_of(broken) == expected, f"crash at write {write}"
        assert order_of(run_jobs(broken)[0]).stages == order_of(run_jobs(whole)[0]).stages
        assert len(broken.trials) == len(whole.trials)


def test_old_snapshots_do_no_harm():
    cluster = SimulatedGeneration(generated_training())
    drawn = random.Random(4)

    def lag(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if drawn.random() < 0.5:
            return []
        return [
            {kind: copy.deepcopy(drawn.choice(history[-5:])[kind])} for kind in ("trials", "jobs", "pods")
        ]

    operator = operator_of(cluster, lag=lag)
    for _ in range(200):
        for _ in range(3):
            operator.look()
        if planned(cluster):
            break
        cluster.tick()
    run_until(cluster, operator_of(cluster), lambda: planned(cluster))
    assert all(count == 1 for count in cluster.outcomes_written.values())
    indices = [trial["spec"]["index"] for trial in cluster.trials.values()]
    assert len(set(indices)) == len(indices)
