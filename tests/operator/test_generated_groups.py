"""A schedule whose processes talk to each other, from ranges to the trained network: real pods, real gloo.

The built-in trainer on digits. Two pods measure together, with one process each and with two; gradients
travel as they are and rounded. Which schedule is the fastest is this machine's affair: what is held to is
what must be so whichever it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.operator.searches import CLAIM, AuditTrail, Namespace, volume_of, wait_until
from tests.operator.test_generated_trainings import trials_of
from tests.operator.trainings import said, small_network, status_of

from nascale.local.instance import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

LONGEST_SECONDS = 1200.0
WORKERS = 2
BATCH = 64
MOST_TRIALS = 4
MOST_DEVIATION = 0.25
"""Eight steps tell little: enough here to be no lottery, for what is tested is that it is looked at."""

GROUPS: dict[str, Any] = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ProgressiveTraining",
    "metadata": {"name": "groups"},
    "spec": {
        "model": {"architecture": small_network(16)},
        "trainingData": {"embedded": "Digits"},
        "seed": 3,
        # Measuring must not take longer than the training, also where the machine is busy while it measures.
        "length": "250ep",
        "evaluation": {"every": "0.5dur"},
        "defaults": {
            "model": {"globalBatch": BATCH},
            "hardware": {"threads": 1, "workers": WORKERS},
        },
        "schedule": {
            "generate": {
                "model": {"resolution": [12, 16], "globalBatch": [BATCH, 2 * BATCH]},
                "hardware": {"processesPerWorker": [1, 2], "communicationHook": ["None", "BF16"]},
                "profile": {
                    "maxTrials": MOST_TRIALS,
                    "trialsPerPod": MOST_TRIALS,
                    "minMilliseconds": 1000,
                    # Four processes on few cores are never steady; how fast they are is not the matter here.
                    "maxSpreadRatio": "1",
                    "trialRetries": 2,
                    "guardSteps": 8,
                    "maxLossDeviation": str(MOST_DEVIATION),
                },
            }
        },
        "volume": {"claimName": "checkpoints"},
        "podTemplate": {"resources": {"limits": {"cpu": "1"}}},
    },
}


def wait_for_either(namespace: Namespace, what: str, holds: Callable[[dict[str, Any]], object]) -> None:
    """Wait until something holds of the training's status; fail where the training has."""

    def happened() -> bool:
        failed = said(namespace, "groups", "Failed")
        assert failed.get("status") != "True", failed
        return bool(holds(status_of(namespace, "groups")))

    wait_until(happened, seconds=LONGEST_SECONDS, what=what)


def parameters_of(trial: dict[str, Any]) -> dict[str, str]:
    return {own["name"]: own["value"] for own in trial["spec"]["parameters"]}


def metrics_of(trial: dict[str, Any]) -> dict[str, float]:
    return {own["name"]: float(own["value"]) for own in trial["status"]["metrics"]}


def order_of(job: dict[str, Any]) -> dict[str, Any]:
    """Return what a Job's pods were asked for."""
    environ = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return dict(json.loads(next(own["value"] for own in environ if own["name"] == "NASCALE_WORK_ORDER")))


@dataclass(frozen=True)
class Found:
    """What there is of the training."""

    status: dict[str, Any]
    trials: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    pods: list[dict[str, Any]]

    @property
    def profiles(self) -> list[dict[str, Any]]:
        """The Jobs of measurements."""
        return [job for job in self.jobs if "nascale.io/trials" in job["metadata"]["annotations"]]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The Jobs of the run."""
        return [job for job in self.jobs if "nascale.io/trials" not in job["metadata"]["annotations"]]

    def check_pods(self, job: dict[str, Any]) -> None:
        """Hold that a Job's pods have all ended well, and that none had to be replaced."""
        own = [
            pod for pod in self.pods if pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        ]
        assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", WORKERS)
        assert job["status"]["succeeded"] == WORKERS
        assert [pod["status"]["phase"] for pod in own] == ["Succeeded"] * WORKERS


def look(namespace: Namespace) -> Found:
    return Found(
        status_of(namespace, "groups"),
        trials_of(namespace, "groups", "Profile"),
        namespace.items("jobs"),
        namespace.items("pods"),
    )


def are_through(jobs: list[dict[str, Any]]) -> bool:
    """Say whether all pods have ended well: the first one of a group reports, the others leave after it."""
    return all(job["status"].get("succeeded") == WORKERS for job in jobs)


def check_profile(found: Found, volume: Path) -> None:
    """Hold that every pod of every group has measured to its end, and that everything was told.

    Where a machine is too busy for times that agree, a measurement is made again, and in the end left out.
    """
    generated = found.status["generated"]
    for trial in found.trials:
        ended = next(own for own in trial["status"]["conditions"] if own["type"] == "Ended")
        assert trial["status"]["outcome"] == "Succeeded" or ended["reason"] == "NoisyMeasurement", ended
    succeeded = [trial for trial in found.trials if trial["status"]["outcome"] == "Succeeded"]
    assert generated["measured"] == len(found.trials) <= generated["maxMeasured"] == MOST_TRIALS
    assert generated["gridSize"] == 16
    for job in found.profiles:
        order = order_of(job)
        found.check_pods(job)
        assert order["workers"] == WORKERS
        assert {own["stages"][0]["hardware"]["processesPerWorker"] for own in order["candidates"]} == {
            order["processesPerWorker"]
        }
    assert {order_of(job)["processesPerWorker"] for job in found.profiles} == {1, 2}
    settings = [parameters_of(trial) for trial in succeeded]
    assert {own.get("processesPerWorker", "1") for own in settings} == {"1", "2"}
    hooked = [own for own in settings if own.get("communicationHook") == "BF16"]
    guarded = [own for own in settings if "guarded" in own]
    assert 1 <= len(guarded) <= 2
    assert guarded == hooked[: len(guarded)], "rounded gradients are compared with others, at most twice"
    for trial in succeeded:
        values = metrics_of(trial)
        assert values["step_p50_seconds"] > 0
        assert values["epoch_samples"] > BATCH
        assert ("loss_deviation_ratio" in values) == ("guarded" in parameters_of(trial))
    assert not list(volume.rglob("missed-meetings")), "all came to the first meeting"


def check_choice(found: Found) -> None:
    """Hold that the schedule is of what the ranges allow, and ends with gradients as they are."""
    generated = found.status["generated"]
    assert generated["activity"] == "Planned"
    assert float(generated["predictionError"]) >= 0
    assert 0 < float(generated["seconds"]) <= float(generated["constantSeconds"])
    for stage in generated["stages"]:
        hardware = stage.get("hardware", {})
        assert set(hardware) <= {"processesPerWorker", "communicationHook"}
        assert hardware.get("processesPerWorker", 1) in (1, 2)
        assert stage.get("model", {}).get("resolution", 16) in (12, 16)
        assert stage.get("model", {}).get("globalBatch", BATCH) in (BATCH, 2 * BATCH)
    last = generated["stages"][-1]
    assert "communicationHook" not in last.get("hardware", {})
    assert not {"resolution", "globalBatch"} & set(last.get("model", {}))


def check_run(found: Found, volume: Path) -> None:
    """Hold that these stages were trained, by so many pods, each sample once."""
    status, planned = found.status, found.status["generated"]["stages"]
    names = [stage["name"] for stage in planned]
    assert [row["name"] for row in status["generated"]["table"]] == names
    assert [stage["name"] for stage in status["stages"]] == names
    for job in found.runs:
        found.check_pods(job)
    assert len(found.runs) == status["runGeneration"] == 1 + status["switches"]["reschedule"]
    assert 0 <= status["samples"] - status["wholeSamples"] < BATCH
    assert status["lostSteps"] == 0
    assert (volume / status["result"]["path"]).exists()
    values = {entry["name"]: float(entry["value"]) for entry in status["result"]["metrics"]}
    assert 0.8 < values["accuracy"] <= 1


def test_a_schedule_of_several_processes_is_measured_chosen_and_trained(
    namespace: Namespace, operator_cluster: LocalCluster
):
    trail = AuditTrail(operator_cluster.audit_log)
    namespace.apply(CLAIM)
    namespace.apply(GROUPS)
    volume = volume_of(namespace)

    wait_for_either(namespace, "a schedule", lambda status: status.get("generated", {}).get("stages"))
    # Jobs that have ended go by their TTL: a busy machine may still train then.
    wait_until(lambda: are_through(look(namespace).profiles), seconds=120.0, what="all measuring pods' end")
    found = look(namespace)
    check_profile(found, volume)
    check_choice(found)
    wait_for_either(
        namespace, "the end", lambda _: said(namespace, "groups", "Succeeded").get("status") == "True"
    )
    wait_until(lambda: are_through(look(namespace).jobs), seconds=120.0, what="all pods' end")
    found = look(namespace)
    check_run(found, volume)
    assert {pod["status"]["phase"] for pod in found.pods} == {"Succeeded"}, "nothing is left that runs"
    assert not trail.refusals_of_operator(namespace.name)
