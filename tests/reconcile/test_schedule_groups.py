"""Schedules whose workers, processes and communication are generated: as many pods measure as would train."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.reconcile.generations import (
    SimulatedGeneration,
    generated,
    generated_training,
    of_trials,
    profile_order_of,
    run_jobs,
    trial_jobs,
)
from tests.reconcile.simulation import Fate
from tests.reconcile.trainings import condition, ended, operator_of, order_of, run_until

from nascale.reconcile.observed import Related

GROUPS = {
    "model": {"resolution": [16, 32]},
    "hardware": {"workers": [1, 2, 4], "communicationHook": ["None", "BF16"]},
}
KEPT = ("candidate", "seconds", "reason", "table", "stages")


def groups(*, length: str = "20000000sp", **generate: Any) -> dict[str, Any]:
    return generated_training(length=length, **{**GROUPS, **generate})


def until_planned(cluster: SimulatedGeneration) -> None:
    run_until(cluster, operator_of(cluster), lambda: bool(generated(cluster).get("stages")) or ended(cluster))


def schedule_of(cluster: SimulatedGeneration) -> Any:
    return {key: generated(cluster).get(key) for key in KEPT}


def by_workers(cluster: SimulatedGeneration) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for job in trial_jobs(cluster):
        found.setdefault(profile_order_of(job).workers, []).append(job)
    return found


def test_settings_of_several_workers_are_measured_by_as_many_pods_with_the_run_s_volume():
    cluster = SimulatedGeneration(groups())

    until_planned(cluster)

    jobs = by_workers(cluster)
    assert set(jobs) == {1, 2, 4}
    for count, own in jobs.items():
        for job in own:
            spec, pod = job["spec"], job["spec"]["template"]["spec"]
            variables = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
            volumes = {entry["name"] for entry in pod["volumes"]} if "volumes" in pod else set()
            if count == 1:
                assert "completionMode" not in spec
                assert "NASCALE_RUN_DIRECTORY" not in variables
                assert "nascale-run" not in volumes
                continue
            assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == (
                "Indexed",
                count,
                count,
            )
            folder = variables["NASCALE_RUN_DIRECTORY"]
            assert folder is not None
            assert folder.endswith(f".profile/{job['metadata']['name']}")
            assert "nascale-run" in volumes
            assert {"name": "nascale-run", "mountPath": "/nascale/run"} in pod["containers"][0][
                "volumeMounts"
            ]
    hooked = [
        trial
        for trial in cluster.trials.values()
        if {"name": "communicationHook", "value": "BF16"} in trial["spec"]["parameters"]
    ]
    assert hooked
    assert all(any(own["name"] == "workers" for own in one["spec"]["parameters"]) for one in hooked)


def test_the_reference_of_a_comparison_has_the_workers_of_what_it_is_compared_with():
    hardware = {"workers": [1, 2], "precision": ["FP32", "BF16"]}
    cluster = SimulatedGeneration(groups(hardware=hardware))

    until_planned(cluster)

    for job in trial_jobs(cluster):
        order = profile_order_of(job)
        assert order.reference is not None
        assert order.reference.hardware.workers == order.workers
        assert order.reference.hardware.precision == "FP32"


def test_a_whole_training_moves_to_the_workers_that_were_chosen_and_ends_without_rounded_gradients():
    cluster = SimulatedGeneration(groups(length="4000sp"), slow=400.0)

    run_until(cluster, operator_of(cluster), lambda: ended(cluster), ticks=1000)

    assert condition(cluster, "Succeeded")["status"] == "True"
    stages = generated(cluster)["stages"]
    assert stages[-1]["hardware"]["workers"] == 4
    assert "communicationHook" not in stages[-1]["hardware"]
    assert any(own["hardware"].get("communicationHook") == "BF16" for own in stages[:-1])
    assert {order_of(job).workers for job in run_jobs(cluster)} == {4}


def hooks_of(cluster: SimulatedGeneration) -> list[str]:
    stages = generated(cluster)["stages"]
    return [own.get("hardware", {}).get("communicationHook", "None") for own in stages]


def test_rounded_gradients_are_compared_with_those_that_are_not_in_as_many_processes():
    cluster = SimulatedGeneration(groups())

    until_planned(cluster)

    orders = [profile_order_of(job) for job in trial_jobs(cluster)]
    guarded = [(order, own) for order in orders for own in order.candidates if own.guarded]
    assert len(guarded) == 2
    for order, own in guarded:
        assert own.stages[0].hardware.communication_hook == "BF16"
        assert order.reference is not None
        assert order.reference.hardware.communication_hook == "None"
        assert order.reference.hardware.world == own.stages[0].hardware.world > 1
    told = [
        trial
        for trial in cluster.trials.values()
        if any(own["name"] == "loss_deviation_ratio" for own in trial["status"]["metrics"])
    ]
    assert len(told) == 2
    assert "BF16" in hooks_of(cluster)
    assert not generated(cluster)["leftOut"]


@pytest.mark.parametrize(
    ("deviation", "said"), [(0.2, "must be at most 0.05, not 0.2"), (math.inf, "but the loss is no number")]
)
def test_rounded_gradients_that_move_the_loss_are_not_used_and_it_is_said_why(deviation: float, said: str):
    # Allowed late or not: what spoils the training is out.
    document = groups(allowLate=["CompressedCommunication"])
    cluster = SimulatedGeneration(document, hook_deviates=deviation)

    until_planned(cluster)

    assert set(hooks_of(cluster)) == {"None"}
    (left,) = generated(cluster)["leftOut"]
    assert left.startswith("communicationHook BF16: loss deviation ")
    assert left.endswith(said)


@pytest.mark.parametrize("deviation", [0.2, math.inf])
def test_a_profile_that_is_used_again_tells_of_the_comparison(deviation: float):
    first = SimulatedGeneration(groups(dryRun=True), hook_deviates=deviation)
    until_planned(first)
    document = groups(reuseProfileFrom="first", profile={"maxTrials": 1, "trialsPerPod": 1})
    cluster = SimulatedGeneration(document, hook_deviates=deviation)
    other = {**first.owner, "metadata": {**first.owner["metadata"], "name": "first", "uid": "first"}}
    cluster.related = Related(training=other, trials=tuple(first.trials.values()))

    until_planned(cluster)

    assert generated(cluster)["reused"] > 0
    assert len(generated(cluster)["leftOut"]) == 1
    assert set(hooks_of(cluster)) == {"None"}


def test_rounded_gradients_may_be_allowed_late():
    cluster = SimulatedGeneration(groups(allowLate=["CompressedCommunication"]))

    until_planned(cluster)

    assert generated(cluster)["stages"][-1]["hardware"]["communicationHook"] == "BF16"


def test_device_seconds_take_one_worker():
    cluster = SimulatedGeneration(groups(optimize="DeviceSeconds"))

    until_planned(cluster)

    assert all("workers" not in own.get("hardware", {}) for own in generated(cluster)["stages"])


@pytest.mark.parametrize("end", ["crash", "oom", "evict", "delete"])
def test_a_worker_that_is_lost_costs_a_repetition_and_nothing_else(end: str):
    plain = SimulatedGeneration(groups())
    until_planned(plain)
    hit: list[str] = []

    def fate(job: Any, ordinal: int) -> Fate:
        second = of_trials(job) and "completions" in job["spec"] and ordinal == 100
        name = job["metadata"]["name"]
        if second and name.endswith("-a0") and not hit:
            hit.append(name)
        return Fate(end=end, seconds=1) if second and name in hit else Fate()

    cluster = SimulatedGeneration(groups(), fate=fate)
    until_planned(cluster)

    assert hit
    assert schedule_of(cluster) == schedule_of(plain)


@pytest.mark.parametrize("more", [{}, {"dryRun": True}])
def test_pods_that_end_after_the_first_one_are_left_to_end(more: dict[str, Any]):
    cluster = SimulatedGeneration(groups(**more), straggles=20.0)
    operator = operator_of(cluster)
    run_until(cluster, operator, lambda: bool(generated(cluster).get("stages")) or ended(cluster))
    for _ in range(60):
        operator.settle()
        cluster.tick()

    together = [job for job in trial_jobs(cluster) if "completions" in job["spec"]]
    assert together
    assert {profile_order_of(job).workers for job in together} == {2, 4}
    for job in together:
        phases = [pod["status"]["phase"] for pod in cluster.pods_of(job)]
        assert phases == ["Succeeded"] * job["spec"]["completions"]


def test_pods_that_never_end_after_the_first_one_are_ended():
    cluster = SimulatedGeneration(groups(dryRun=True), straggles=1e6)
    operator = operator_of(cluster)
    run_until(cluster, operator, lambda: ended(cluster))
    for _ in range(90):
        operator.settle()
        cluster.tick()

    assert {profile_order_of(job).workers for job in trial_jobs(cluster)} == {1}


def test_a_crash_at_any_write_leads_to_the_same_schedule():
    plain = SimulatedGeneration(groups())
    until_planned(plain)

    for place in range(1, len(plain.writes) + 1, max(1, len(plain.writes) // 12)):
        cluster = SimulatedGeneration(groups(), crash_at=place)
        until_planned(cluster)
        assert schedule_of(cluster) == schedule_of(plain), place
        assert {profile_order_of(job).workers for job in trial_jobs(cluster)} == {1, 2, 4}


@pytest.mark.parametrize(
    ("hardware", "fault"),
    [
        ({"workers": [1, 3]}, "hardware.workers: must divide one of the global batches (64), not 3"),
        (
            {"processesPerWorker": [1, 5]},
            "hardware.processesPerWorker: must divide one of the global batches (64), not 5",
        ),
        (
            {"communicationHook": ["None", "BF16"]},
            "hardware.communicationHook: must be left out where one process trains alone",
        ),
        ({"parallelism": ["FSDP"]}, "hardware.parallelism: must be left out where one process trains alone"),
    ],
)
def test_workers_that_can_not_be_are_refused_before_anything_is_made(hardware: Any, fault: str):
    cluster = SimulatedGeneration(groups(hardware=hardware))

    operator_of(cluster).settle()

    found = condition(cluster, "Failed")
    assert found["reason"] == "InvalidSpec"
    assert fault in found["message"]
    assert not cluster.trials


def test_more_processes_than_the_pods_have_gpus_are_refused():
    document = groups(hardware={"processesPerWorker": [1, 2, 4]})
    document["spec"]["podTemplate"]["resources"] = {"limits": {"nvidia.com/gpu": "2"}}
    cluster = SimulatedGeneration(document)

    operator_of(cluster).settle()

    message = condition(cluster, "Failed")["message"]
    assert "hardware.processesPerWorker: must be at most the GPUs of each pod, 2, not 4" in message
