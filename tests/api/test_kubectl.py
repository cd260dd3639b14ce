"""What a person at a terminal sees: kubectl's explain, get, apply and wait."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

NOW = "2026-01-02T03:04:05Z"


def _condition(kind: str, status: str, reason: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "as the test wants it",
        "lastTransitionTime": NOW,
    }


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("nas", ["multi-objective search", "FIELDS:", "spec\t<Object> -required-"]),
        ("nas.spec.budget.maxTrials", ["Trials in all", "From 1 to 100000."]),
        ("nas.spec.budget.trialDeadlineSeconds", ["seconds", "From 1 to 604800.", "Default: 3600."]),
        ("nas.spec.objectives.direction", ["Minimize (Less is better)", "Maximize (More is better)"]),
        ("nas.spec.space.mbconv.resolutions", ["pixels", "1 to 16 entries."]),
        ("nas.spec.algorithm.name", ["Adaptive (Evolution on a Pareto archive", "Default: Adaptive."]),
        ("sweep", ["sweep over scaling coefficients under measured latency", "spec\t<Object> -required-"]),
        ("sweep.spec.family.latencySeconds", ["seconds, above 0 as text"]),
        ("sweep.spec.coefficients.mode", ["PerLevel (A vector for each member)", "Default: Compound."]),
        ("sweep.spec.budget.trialsPerPod", ["the unscaled base among them", "From 2 to", "Default: 8."]),
        ("sweep.spec.baselines", ["LACSGPU", "0 to 5 entries.", "Default: EfficientNet."]),
        ("ptrain", ["moves from stage to stage while it runs", "spec\t<Object> -required-"]),
        ("ptrain.spec.length", ["ep (epochs), sp (samples), ba (optimizer steps", "30ep"]),
        ("ptrain.spec.stages", ["Those that have not begun may change", "1 to 16 entries."]),
        ("ptrain.spec.stages.model.resolution", ["pixels", "From 4 to 1024."]),
        ("ptrain.spec.stages.model.dropout", ["0 to below 1 as text", "Otherwise 0."]),
        ("ptrain.spec.stages.hardware.parallelism", ["DDP (Each holds the whole network", "Otherwise DDP."]),
        ("ptrain.spec.stages.hardware.workers", ["Pods.", "From 1 to 256."]),
        ("ptrain.spec.restarts.startTimeoutSeconds", ["seconds", "From 10 to 86400.", "Default: 600."]),
        ("ptrain.status.stages.switchClass", ["Reschedule (Pods or their resources"]),
        (
            "nast.spec.purpose",
            ["What a trial of a sweep or a training is for", "Reference (Measures the unscaled base"],
        ),
        ("nast.status.outcome", ["How the trial ended", "MetricsUnavailable"]),
    ],
)
def test_explain_gives_meaning_unit_range_and_default(field: str, texts: list[str], admission: Any):
    words = " ".join(admission.cluster.kubectl("explain", field).split())

    missing = [text for text in texts if " ".join(text.split()) not in words]
    assert not missing, words


def test_the_short_names_and_the_category_name_our_kinds_and_no_other(admission: Any):
    listed = admission.cluster.kubectl("api-resources", "--no-headers").splitlines()
    names: dict[str, str] = {}
    for line in listed:
        columns = line.split()
        plural = columns[0]
        short = columns[1].split(",") if len(columns) == 5 else []
        for name in [plural, *short]:
            # An older version of a core kind may repeat the name of the same kind.
            assert names.setdefault(name, columns[-1]) == columns[-1] or columns[-1] == "Event", name

    assert names["nas"] == names["architecturesearches"] == "ArchitectureSearch"
    assert names["sweep"] == names["scalingsweeps"] == "ScalingSweep"
    assert names["ptrain"] == names["progressivetrainings"] == "ProgressiveTraining"
    assert names["nast"] == names["trials"] == "Trial"
    category = admission.cluster.kubectl("api-resources", "--categories=nascale", "--output=name")
    assert sorted(category.split()) == [
        "architecturesearches.nascale.io",
        "progressivetrainings.nascale.io",
        "scalingsweeps.nascale.io",
        "trials.nascale.io",
    ]


def test_get_shows_state_progress_and_best_values(admission: Any, running: Callable[..., str]):
    path = running("columns")
    status = {
        "conditions": [
            _condition("Succeeded", "False", "InProgress"),
            _condition("Progressing", "True", "Searching"),
        ],
        "finished": 3,
        "frontSize": 2,
        "best": "accuracy=0.98",
        "trials": {"running": 2, "failed": 1},
        "hypervolume": "0.61",
    }
    assert admission.patch(f"{path}/status", {"status": status}).accepted

    narrow = admission.cluster.kubectl("get", "nas", "columns").splitlines()
    wide = admission.cluster.kubectl("get", "nas", "columns", "--output=wide").splitlines()

    assert narrow[0].split() == ["NAME", "STATE", "SUCCEEDED", "FINISHED", "MAX", "FRONT", "BEST", "AGE"]
    assert narrow[1].split()[:-1] == ["columns", "Searching", "False", "3", "10", "2", "accuracy=0.98"]
    assert wide[0].split()[8:] == ["RUNNING", "FAILED", "HYPERVOLUME", "REMAINING", "ALGORITHM", "BASE"]
    assert wide[1].split()[8:] == ["2", "1", "0.61", "Adaptive"]


def test_trials_show_their_search_and_can_be_selected_by_outcome(
    admission: Any, running: Callable[..., str], minimal: dict[str, Any]
):
    path = running("owner")
    uid = json.loads(admission.cluster.kubectl("get", "nas", "owner", "--output=json"))["metadata"]["uid"]
    trial = {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "Trial",
        "metadata": {
            "name": "owner-0",
            "ownerReferences": [
                {"apiVersion": minimal["apiVersion"], "kind": minimal["kind"], "name": "owner", "uid": uid}
            ],
        },
        "spec": {
            "index": 0,
            "candidate": 0,
            "lead": 0,
            "fidelity": {"epochs": 1},
            "parameters": [{"name": "a", "value": "1"}],
        },
    }
    trials = path.rsplit("/", 2)[0] + "/trials"
    assert admission.create(trial, dry=False).accepted
    try:
        status = {"status": {"outcome": "Succeeded", "summary": "accuracy=0.9"}}
        assert admission.patch(f"{trials}/owner-0/status", status).accepted
        shown = admission.cluster.kubectl("get", "trials", "owner-0").splitlines()
        found = admission.cluster.kubectl(
            "get", "trials", "--field-selector=status.outcome=Succeeded", "--output=name"
        )
        other = admission.cluster.kubectl(
            "get", "trials", "--field-selector=status.outcome=Failed", "--output=name"
        )
    finally:
        admission.delete(f"{trials}/owner-0")

    assert shown[0].split() == ["NAME", "OWNER", "INDEX", "RUNG", "OUTCOME", "METRICS", "AGE"]
    assert shown[1].split()[:-1] == ["owner-0", "owner", "0", "0", "Succeeded", "accuracy=0.9"]
    assert found.split() == ["trial.nascale.io/owner-0"]
    assert other.split() == []


def test_get_shows_a_sweep_s_state_and_its_family(admission: Any, running_sweep: Callable[..., str]):
    path = running_sweep("sweep-columns")
    status = {
        "conditions": [
            _condition("Succeeded", "False", "InProgress"),
            _condition("Progressing", "True", "Verifying"),
        ],
        "finished": 14,
        "members": 2,
        "summary": "s:0.94@0.0021",
        "deviceSeconds": 640,
    }
    assert admission.patch(f"{path}/status", {"status": status}).accepted

    wide = admission.cluster.kubectl("get", "sweep", "sweep-columns", "--output=wide").splitlines()

    narrow = ["NAME", "STATE", "SUCCEEDED", "FINISHED", "MEMBERS", "FAMILY", "AGE"]
    assert wide[0].split() == [*narrow, "DEVICESECONDS", "MODE", "BASE"]
    shown = wide[1].split()
    assert shown[:6] == ["sweep-columns", "Verifying", "False", "14", "2", "s:0.94@0.0021"]
    assert shown[7:] == ["640", "Compound", "digits"]


def test_get_shows_a_training_s_stage_progress_and_quality(
    admission: Any, running_training: Callable[..., str]
):
    path = running_training("training-columns")
    status = {
        "conditions": [
            _condition("Succeeded", "False", "InProgress"),
            _condition("Progressing", "True", "Training"),
        ],
        "currentStage": "all",
        "progressPercentage": 42,
        "estimatedRemainingSeconds": 77,
        "summary": "accuracy=0.93",
        "loss": "0.31",
        "throughput": "1234.5",
        "stepP50Seconds": "0.05",
        "workers": 2,
        "runGeneration": 3,
        "generated": {"activity": "Planned", "plan": 4},
        "lostSteps": 0,
    }
    assert admission.patch(f"{path}/status", {"status": status}).accepted

    wide = admission.cluster.kubectl("get", "ptrain", "training-columns", "--output=wide").splitlines()

    narrow = ["NAME", "STATE", "STAGE", "PROGRESS", "REMAINING", "QUALITY", "AGE"]
    assert wide[0].split() == [
        *narrow,
        *["SUCCEEDED", "LOSS", "THROUGHPUT", "STEP", "WORKERS", "RUN", "PLAN", "LOST"],
    ]
    shown = wide[1].split()
    assert shown[:6] == ["training-columns", "Training", "all", "42", "77", "accuracy=0.93"]
    assert shown[7:] == ["False", "0.31", "1234.5", "0.05", "2", "3", "4", "0"]


def test_a_sweep_s_trial_shows_its_owner_purpose_and_member(
    admission: Any, running_sweep: Callable[..., str], minimal_sweep: dict[str, Any]
):
    path = running_sweep("sweep-owner")
    uid = json.loads(admission.cluster.kubectl("get", "sweep", "sweep-owner", "--output=json"))["metadata"][
        "uid"
    ]
    owner = {"apiVersion": minimal_sweep["apiVersion"], "kind": "ScalingSweep", "name": "sweep-owner"}
    trial = {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "Trial",
        "metadata": {"name": "sweep-owner-5", "ownerReferences": [{**owner, "uid": uid}]},
        "spec": {
            "index": 5,
            "candidate": 2,
            "lead": 5,
            "fidelity": {"epochs": 4},
            "parameters": [{"name": "depth", "value": "1.2"}],
            "origin": "EfficientNet",
            "purpose": "Baseline",
            "member": "m",
        },
    }
    trials = path.rsplit("/", 2)[0] + "/trials"
    assert admission.create(trial, dry=False).accepted
    try:
        shown = admission.cluster.kubectl("get", "trials", "sweep-owner-5", "--output=wide").splitlines()
    finally:
        admission.delete(f"{trials}/sweep-owner-5")

    assert shown[0].split()[7:11] == ["CANDIDATE", "ORIGIN", "PURPOSE", "MEMBER"]
    assert shown[1].split()[:4] == ["sweep-owner-5", "sweep-owner", "5", "0"]
    assert shown[1].split()[5:9] == ["2", "EfficientNet", "Baseline", "m"]


def test_wait_ends_when_the_condition_holds(admission: Any, running: Callable[..., str]):
    path = running("waiting")
    done = {"status": {"conditions": [_condition("Succeeded", "True", "Completed")]}}
    assert admission.patch(f"{path}/status", done).accepted

    said = admission.cluster.kubectl("wait", "--for=condition=Succeeded", "nas/waiting", "--timeout=10s")

    assert said.strip() == "architecturesearch.nascale.io/waiting condition met"


def test_apply_refuses_a_host_path_by_default(admission: Any, minimal: dict[str, Any]):
    document = deepcopy(minimal)
    document["spec"]["trialTemplate"] = {
        "volumes": [{"name": "host", "mountPath": "/host", "hostPath": {"path": "/"}}]
    }

    with pytest.raises(Exception, match=r'unknown field "spec.trialTemplate.volumes\[0\].hostPath"') as error:
        admission.cluster.kubectl("apply", "--filename=-", stdin=json.dumps(document))

    assert not isinstance(error.value, subprocess.TimeoutExpired)


def test_a_condition_of_one_type_stands_once(admission: Any, running: Callable[..., str]):
    path = running("conditions")
    twice = [_condition("Succeeded", "False", "Failed"), _condition("Succeeded", "True", "Completed")]

    verdict = admission.patch(f"{path}/status", {"status": {"conditions": twice}})

    assert 'status.conditions[1]: Duplicate value: {"type":"Succeeded"}' in verdict.text
