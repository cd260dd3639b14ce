"""Candidate schedules that are tried, and profiles that are taken over."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.reconcile.generations import (
    SimulatedGeneration,
    generated,
    generated_training,
    profile_order_of,
    run_jobs,
    trial_jobs,
)
from tests.reconcile.test_schedule_generation import planned, reasons, schedule_of, until_planned
from tests.reconcile.trainings import condition, operator_of, run_until

from nascale.api.progressive_training import ProgressiveTraining
from nascale.contract.profile_order import ProfileTask
from nascale.reconcile.observed import Related
from nascale.reconcile.schedule_problem import generation_problem
from nascale.reconcile.schedule_reuse import profile_of
from nascale.reconcile.snapshot import read_children

PROXY = {"candidates": 4, "length": "2ep"}


def proxies(cluster: SimulatedGeneration) -> list[Any]:
    return [trial for trial in cluster.trials.values() if trial["spec"]["purpose"] == "Proxy"]


def test_candidates_are_tried_over_a_short_length_and_chosen_by_time_and_quality():
    cluster = SimulatedGeneration(generated_training(proxy=PROXY))
    until_planned(cluster)
    found = generated(cluster)
    assert found["activity"] == "Planned"
    assert 2 <= len(proxies(cluster)) <= 4
    assert found["measured"] == len(cluster.trials) - len(proxies(cluster))
    assert found["proxyDeviceSeconds"] > 0
    orders = [profile_order_of(job) for job in trial_jobs(cluster)]
    tried = [order for order in orders if order.task is ProfileTask.TRAIN_SCHEDULE]
    assert len(tried) == len(proxies(cluster))
    assert {order.length for order in tried} == {"2ep"}
    lengths = [stage.length for order in tried for stage in order.candidates[0].stages]
    assert all(length is None or length.endswith("dur") for length in lengths)
    assert any(entry.get("quality") for entry in found["alternatives"])
    assert "tried schedules" in found["reason"]
    assert [
        reason for reason in reasons(cluster) if reason.startswith(("Profile", "Proxies", "Schedule"))
    ] == [
        "ProfileStarted",
        "ProxiesStarted",
        "SchedulePlanned",
    ]


def test_a_quality_floor_that_nothing_reaches_names_the_best():
    floor = {"metric": "loss", "goal": "Maximize", "atLeast": "0.99"}
    cluster = SimulatedGeneration(generated_training(proxy=PROXY, qualityFloor=floor))
    until_planned(cluster)
    failed = condition(cluster, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "QualityFloorMissed")
    assert "the best of" in failed["message"]
    assert run_jobs(cluster) == []


def test_a_quality_floor_keeps_the_fastest_away_that_misses_it():
    free = SimulatedGeneration(generated_training())
    until_planned(free)
    floor = {"metric": "loss", "goal": "Maximize", "withinOfConstant": "0.001"}
    cluster = SimulatedGeneration(generated_training(proxy=PROXY, qualityFloor=floor))
    until_planned(cluster)
    assert float(generated(cluster)["seconds"]) > float(generated(free)["seconds"])


def test_a_crash_at_any_write_of_the_proxies_leads_to_the_same_schedule():
    def run(crash_at: int | None) -> SimulatedGeneration:
        cluster = SimulatedGeneration(generated_training(proxy=PROXY))
        cluster.crash_at = crash_at
        run_until(cluster, operator_of(cluster), lambda: planned(cluster))
        return cluster

    whole = run(None)
    first = whole.writes.index("Status")
    writes = range(max(first, len(whole.writes) - 22), len(whole.writes) + 1, 3)
    for write in writes:
        broken = run(write)
        assert schedule_of(broken) == schedule_of(whole), f"crash at write {write}"
        assert len(broken.trials) == len(whole.trials)


def measured_before(**changes: Any) -> SimulatedGeneration:
    """Return a training whose profile another one may take over."""
    document = generated_training(dryRun=True)
    document["metadata"] |= {"name": "before", "uid": "uid-before"}
    document["spec"] |= changes
    cluster = SimulatedGeneration(document)
    until_planned(cluster)
    return cluster


def reusing(before: SimulatedGeneration | None, **more: Any) -> SimulatedGeneration:
    cluster = SimulatedGeneration(generated_training(reuseProfileFrom="before"), **more)
    if before is not None:
        trials = tuple(copy.deepcopy(list(before.trials.values())))
        cluster.related = Related(training=copy.deepcopy(before.owner), trials=trials)
    until_planned(cluster)
    return cluster


def test_a_profile_is_taken_over_where_model_device_and_libraries_are_the_same():
    before = measured_before()
    cluster = reusing(before)
    found = generated(cluster)
    assert len(cluster.trials) == 1, "one measurement names the device"
    assert found["reused"] == len(before.trials) - 1
    assert "notReused" not in found
    assert found["stages"] == generated(before)["stages"]
    assert "ProfileNotReused" not in reasons(cluster)


def test_what_is_taken_over_stays_when_the_other_training_is_deleted():
    """Before there is a schedule, and when the rest of one is planned again."""
    cluster = SimulatedGeneration(generated_training(reuseProfileFrom="before"))
    before = measured_before()
    cluster.related = Related(
        training=copy.deepcopy(before.owner), trials=tuple(copy.deepcopy(list(before.trials.values())))
    )
    run_until(cluster, operator_of(cluster), lambda: bool(generated(cluster).get("takenOver")))
    cluster.related = Related()
    until_planned(cluster)
    found = generated(cluster)
    assert found["stages"] == generated(before)["stages"]
    assert found["reused"] == len(before.trials) - 1
    assert {entry["trial"] for entry in found["takenOver"]} == set(before.trials)
    assert "notReused" not in found
    training = ProgressiveTraining.model_validate(cluster.owner)
    problem = generation_problem(training.spec, None)
    trials = read_children(tuple(cluster.trials.values()), (), ()).trials
    gone = profile_of(training, problem, trials, Related())
    there = profile_of(
        ProgressiveTraining.model_validate({**cluster.owner, "status": {}}),
        problem,
        trials,
        Related(training=before.owner, trials=tuple(before.trials.values())),
    )
    assert [(own.combination.key, own.step_seconds, own.state) for own in gone.records] == [
        (own.combination.key, own.step_seconds, own.state) for own in there.records
    ]
    assert len(gone.records) == len(before.trials)


@pytest.mark.parametrize(
    ("before", "more", "why"),
    [
        ({}, {"device": "A100"}, "must be measured on the same device"),
        ({}, {"software": "torch 3.0.0"}, "must be measured on the same device with the same libraries"),
        ({"model": {"parameters": [{"name": "width", "value": "128"}]}}, {}, "must be the same in model"),
        ({"optimizer": {"name": "SGD"}}, {}, "must be the same in spec.optimizer"),
        (None, {}, "before is no training of this namespace"),
    ],
)
def test_a_profile_of_something_else_is_not_taken_over_and_it_is_said_why(before: Any, more: Any, why: str):
    source = None if before is None else measured_before(**before)
    cluster = reusing(source, **more)
    found = generated(cluster)
    assert found["reused"] == 0
    assert why in found["notReused"]
    assert reasons(cluster).count("ProfileNotReused") == 1
    assert len(cluster.trials) > 1
