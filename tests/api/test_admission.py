"""What the API server accepts and refuses: each file of the corpus says what the answer must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.cluster

CORPUS = Path(__file__).parent / "corpus"
EXPECT = "# expect: "


def _files(folder: str) -> list[Any]:
    top = CORPUS / folder
    return [
        pytest.param(path, id=str(path.relative_to(top).with_suffix("")))
        for path in sorted(top.rglob("*.yaml"))
    ]


def _expectations(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.removeprefix(EXPECT) for line in lines if line.startswith(EXPECT)]


@pytest.mark.parametrize("path", _files("invalid"))
def test_a_wrong_object_is_refused_with_field_value_and_range(path: Path, admission: Any):
    expected = _expectations(path)
    assert expected, "each invalid file states what the answer must hold"

    verdict = admission.create(yaml.safe_load(path.read_text()))

    assert not verdict.accepted
    missing = [text for text in expected if text not in verdict.text]
    assert not missing, verdict.text


@pytest.mark.parametrize("path", _files("valid"))
def test_a_right_object_is_accepted(path: Path, admission: Any):
    verdict = admission.create(yaml.safe_load(path.read_text()))

    assert verdict.accepted, verdict.text


@pytest.mark.parametrize(
    "path", sorted((CORPUS.parents[2] / "examples").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_example_is_accepted(path: Path, admission: Any):
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    ours = [document for document in documents if document["apiVersion"].startswith("nascale.io/")]
    assert ours

    for document in ours:
        verdict = admission.create(document)
        assert verdict.accepted, verdict.text


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("hostNetwork", True),
        ("hostPID", True),
        ("securityContext", {"privileged": True}),
        ("namespace", "kube-system"),
        ("automountServiceAccountToken", True),
        ("nodeName", "control-plane"),
        ("initContainers", [{"name": "i", "image": "i"}]),
    ],
)
def test_a_pod_field_that_is_not_offered_never_gets_into_the_object(
    part: str, value: Any, admission: Any, minimal: dict[str, Any]
):
    document = {**minimal, "spec": {**minimal["spec"], "trialTemplate": {part: value}}}

    strict = admission.create(document)
    lenient = admission.create(document, validation="Ignore")

    assert not strict.accepted
    assert f'unknown field "spec.trialTemplate.{part}"' in strict.text
    # A client that switches validation off gets an object without the field.
    assert lenient.accepted
    assert part not in lenient.document["spec"]["trialTemplate"]


def test_a_host_path_that_slips_past_validation_leaves_a_volume_without_source(
    admission: Any, minimal: dict[str, Any]
):
    volume = {"name": "host", "mountPath": "/host", "hostPath": {"path": "/"}}
    document = {**minimal, "spec": {**minimal["spec"], "trialTemplate": {"volumes": [volume]}}}

    verdict = admission.create(document, validation="Ignore")

    assert not verdict.accepted
    assert "must have exactly one of configMap, persistentVolumeClaim, emptyDir, not none" in verdict.text


def test_every_fault_is_named_at_once(admission: Any, minimal: dict[str, Any]):
    spec = {
        **minimal["spec"],
        "budget": {"maxTrials": 2, "parallelTrials": 3, "trialsPerPod": 4},
        "selection": {"method": "TuNAS"},
    }

    verdict = admission.create({**minimal, "spec": spec})

    assert "spec.budget.parallelTrials: Invalid value: must be at most maxTrials (2), not 3" in verdict.text
    assert "spec.budget.trialsPerPod: Invalid value: must be at most maxTrials (2), not 4" in verdict.text
    assert "spec.selection: Invalid value: must have scalarisation" in verdict.text


def _largest_objectives() -> list[dict[str, Any]]:
    return [
        {
            "metric": f"m{number}" + "x" * 46,
            "direction": "Minimize",
            "source": "Prometheus",
            "query": "q" * 2041 + " $trial",
            "goal": "0.1",
            "constraint": {"atMost": "0.2"},
        }
        for number in range(8)
    ]


def _largest_template() -> dict[str, Any]:
    return {
        "command": ["x" * 1000] * 64,
        "env": [{"name": f"E{number}" + "x" * 100, "value": "y" * 1000} for number in range(64)],
        "labels": {f"example.com/{number}": "x" * 63 for number in range(16)},
        "annotations": {f"example.com/{number}": "x" * 1024 for number in range(16)},
        "volumes": [
            {"name": f"v{number}", "mountPath": f"/{number}" + "/x" * 250, "emptyDir": {}}
            for number in range(16)
        ],
        "resources": _largest_resources(),
    }


def _largest_resources() -> dict[str, Any]:
    return {
        "requests": {f"example.com/{number}": number for number in range(16)},
        "limits": {f"example.com/{number}": number for number in range(16)},
    }


def test_the_largest_search_that_the_schema_allows_fits_the_cost_budget(
    admission: Any, minimal: dict[str, Any]
):
    """Rules run within the API server's budget for one object even where every list is full."""
    names = [f"p{number:02d}" + "x" * 60 for number in range(64)]
    values = [f"v{number:02d}" + "x" * 125 for number in range(64)]
    parameters = [
        {
            "name": name,
            "categorical": {"values": values},
            **({"when": {"parameter": names[0], "values": values}} if name != names[0] else {}),
        }
        for name in names
    ]
    spec = {
        "space": {"parameters": parameters},
        "objectives": _largest_objectives(),
        "budget": {"maxTrials": 100_000},
        "trialTemplate": _largest_template(),
    }

    verdict = admission.create({**minimal, "spec": spec})

    assert verdict.accepted, verdict.text


def _largest_stage(number: int) -> dict[str, Any]:
    ratios = ["stochasticDepth", "dropout", "augmentation", "labelSmoothing", "momentum"]
    return {
        "name": f"s{number:02d}" + "x" * 29,
        "length": f"{1 / 16:.9f}dur",
        "until": {"metric": {"name": "m" * 48, "atLeast": "0." + "9" * 18}},
        "model": {
            **dict.fromkeys(ratios, "0.123456789"),
            "resolution": 1024,
            "depth": "0.123456789",
            "mixup": "1." + "0" * 18,
            "learningRateFactor": "1." + "0" * 18,
            "weightDecay": "1." + "0" * 18,
            "globalBatch": 1 << 20,
            "parameters": [{"name": f"p{n:02d}" + "x" * 60, "value": "1" * 128} for n in range(32)],
        },
        "hardware": {
            "precision": "BF16",
            "compilation": "ReduceOverhead",
            "accumulation": 1 << 8,
            "workers": 256,
            "processesPerWorker": 16,
            "threads": 1024,
            "environment": [{"name": f"NCCL_{n:02d}" + "X" * 120, "value": "y" * 256} for n in range(16)],
            "resources": {f"example.com/{n}": n for n in range(16)},
        },
    }


def test_the_largest_training_that_the_schema_allows_fits_the_cost_budget(
    admission: Any, minimal_training: dict[str, Any]
):
    stages = [_largest_stage(number) for number in range(16)]
    spec = {
        "model": {"parameters": [{"name": f"p{n:02d}" + "x" * 60, "value": "1" * 128} for n in range(64)]},
        "length": "1" * 15 + "ep",
        "defaults": {"model": stages[0]["model"], "hardware": stages[0]["hardware"]},
        "stages": stages,
        "podTemplate": {**_largest_template(), "image": "example.com/train:1"},
        "placement": {
            "nodeSelector": {f"example.com/{number}": "x" * 63 for number in range(16)},
            "tolerations": [{"key": "x" * 300, "operator": "Exists"}] * 16,
            "resources": _largest_resources(),
        },
    }
    document = {**minimal_training, "metadata": {"name": "largest"}}
    document["spec"] = {**minimal_training["spec"], **spec}
    path = "/apis/nascale.io/v1alpha1/namespaces/default/progressivetrainings/largest"

    verdict = admission.create(document, dry=False)
    try:
        assert verdict.accepted, verdict.text
        # An edit compares what has begun: all but the last stage here.
        begun = [{"name": stage["name"], "endSamples": 1} for stage in stages[:-1]]
        status = admission.patch(f"{path}/status", {"status": {"stages": begun}})
        later = {**stages[-1], "hardware": {"workers": 128}}
        edit = admission.patch(path, {"spec": {"stages": [*stages[:-1], later]}})
    finally:
        admission.delete(path)

    assert status.accepted, status.text
    assert edit.accepted, edit.text


def test_the_largest_generation_that_the_schema_allows_fits_the_cost_budget(
    admission: Any, minimal_training: dict[str, Any]
):
    full = _largest_stage(0)
    names = [f"p{n:02d}" + "x" * 60 for n in range(32)]
    first = ["stochasticDepth", "dropout", "augmentation", "labelSmoothing"]
    generation = {
        "stages": 8,
        "optimize": "Energy",
        "energyQuery": "q" * 2041 + " $trial",
        "model": {
            "resolution": list(range(100, 116)),
            "depth": [f"0.1{n:08d}" for n in range(16)],
            "globalBatch": [1 << n for n in range(5, 21)],
            "parameters": [{"name": name, "values": [f"{n:0128d}" for n in range(16)]} for name in names[:8]],
            "regularization": {**dict.fromkeys(first, "0.012345678"), "mixup": "0." + "0" * 18},
        },
        "hardware": {
            "precision": ["FP32", "TF32", "BF16", "FP16"],
            "matmulPrecision": ["Highest", "High", "Medium"],
            "compilation": ["None", "Default", "ReduceOverhead"],
            "memoryFormat": ["Contiguous", "ChannelsLast"],
            "gradientCheckpointing": ["None", "Blocks"],
            "accumulation": [1 << n for n in range(8)],
            "threads": [1 << n for n in range(8)],
        },
        "allowLate": ["LowPrecision", "CompressedCommunication", "LargeBatch"],
        "profile": {"maxTrials": 256, "trialsPerPod": 64},
        "reuseProfileFrom": "x" * 63,
        "qualityFloor": {"metric": "m" * 48, "withinOfConstant": "0." + "0" * 18},
        "proxy": {"candidates": 32, "length": "1" * 15 + "ep"},
        "adapt": True,
        "plateau": {"metric": "m" * 48, "goal": "Maximize", "evaluations": 1000},
    }
    spec = {
        **{key: value for key, value in minimal_training["spec"].items() if key != "stages"},
        "model": {"parameters": [{"name": name, "value": "1" * 128} for name in names]},
        "defaults": {"model": full["model"], "hardware": full["hardware"]},
        "schedule": {"generate": generation},
        "podTemplate": {**_largest_template(), "image": "example.com/train:1"},
    }
    path = "/apis/nascale.io/v1alpha1/namespaces/default/progressivetrainings/largest-generation"
    document = {**minimal_training, "metadata": {"name": "largest-generation"}, "spec": spec}

    verdict = admission.create(document, dry=False)
    try:
        assert verdict.accepted, verdict.text
        stages = [_largest_stage(number) for number in range(16)]
        generated = {"activity": "Planned", "stages": stages}
        status = admission.patch(f"{path}/status", {"status": {"generated": generated}})
        suspended = admission.patch(path, {"spec": {"suspend": True}})
    finally:
        admission.delete(path)

    assert status.accepted, status.text
    assert suspended.accepted, suspended.text


@pytest.mark.parametrize("base", ["architecture", "parameters"])
def test_the_largest_sweep_that_the_schema_allows_fits_the_cost_budget(
    base: str, admission: Any, minimal_sweep: dict[str, Any]
):
    bases = {
        "architecture": {
            "stem": {"channels": 512, "stride": 1},
            "stages": [
                {
                    "block": "FusedMBConv",
                    "kernel": 7,
                    "stride": 2 if number < 10 else 1,
                    "expansion": 8,
                    "channels": 4096,
                    "depth": 64,
                }
                for number in range(16)
            ],
            "head": {"channels": 8192},
            "resolution": 1024,
        },
        "parameters": [
            {"name": f"p{number:02d}" + "x" * 60, "value": 1_000_000, "scaledBy": "Resolution"}
            for number in range(16)
        ],
    }
    latency = {"metric": "latency_p50_seconds", "direction": "Minimize"}
    objectives = [
        {key: value for key, value in objective.items() if key != "goal"}
        for objective in _largest_objectives()[1:]
    ]
    spec = {
        "base": {base: bases[base]},
        "family": [
            {"name": f"m{number}" + "x" * 61, "latencySeconds": f"{number + 1}." + "0" * 18}
            for number in range(8)
        ],
        "target": {
            "nodeSelector": {f"example.com/{number}": "x" * 63 for number in range(16)},
            "tolerations": [{"key": "x" * 300, "operator": "Exists"}] * 16,
            "resources": _largest_resources(),
        },
        "objectives": [latency, *objectives],
        "baselines": ["EfficientNet", "FastScaling", "LACSGPU", "LACSTPU", "AccuracyFLOPs"],
        "fidelities": {"levels": [{"epochs": 10_000}] * 6},
        "budget": {"maxTrials": 100_000},
        "trialTemplate": _largest_template(),
        "reuseTrialsFrom": "x" * 63,
    }

    verdict = admission.create({**minimal_sweep, "spec": {**minimal_sweep["spec"], **spec}})

    assert verdict.accepted, verdict.text
