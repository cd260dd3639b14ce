"""Trainings on a real cluster: a small trainer without torch, and what tests apply, look at and wait for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.operator.searches import Namespace, wait_until

USUAL_STEP = """
def median(stage):
    return 0.1
"""

SCRIPTED_TRAINING = """
import json, os, signal, sys, time
from pathlib import Path
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from nascale.contract import training_series as series
from nascale.contract.run_order import parse_desired_state, parse_run_order

order = parse_run_order(os.environ["NASCALE_WORK_ORDER"])
rank = int(os.environ["JOB_COMPLETION_INDEX"])
folder = Path(os.environ["NASCALE_RUN_DIRECTORY"])
folder.mkdir(parents=True, exist_ok=True)
wanted = Path(os.environ["NASCALE_DESIRED_STATE_FILE"])
kept, end = folder / "state.json", folder / f"end-g{order.generation}.json"
run = {"samples": 0, "began": [0], "applied": 0, "stages": None}
if kept.exists():
    run = json.loads(kept.read_text())
run["applied"] = max(run["applied"], order.revision)
stages, refused = order.stages, 0


def save():
    temporary = folder / f"state.{rank}.tmp"
    temporary.write_text(json.dumps(run))
    temporary.replace(kept)


def report(document):
    Path(os.environ["NASCALE_TERMINATION_LOG"]).write_text(json.dumps(document))
    sys.exit(0)


def stop(*_):
    if rank == 0:
        save()
    sys.exit(143)


signal.signal(signal.SIGTERM, stop)
while rank > 0:
    if end.exists():
        report({key: value for key, value in json.loads(end.read_text()).items() if key != "stages"})
    time.sleep(0.02)

registry = CollectorRegistry()
names = (series.STEPS, series.SAMPLES, series.WHOLE, series.REMAINING, series.STAGE, series.GENERATION,
         series.REVISION, series.THROUGHPUT, series.LOSS)
gauges = {name: Gauge(name, name, registry=registry) for name in names}
value = Gauge(series.STAGE_VALUE, "value", ("stage", "value"), registry=registry)
setting = Gauge(series.SETTING, "setting", ("setting",), registry=registry)
no = Gauge(series.REFUSED, "refused", ("reason",), registry=registry)
start_http_server(int(os.environ["NASCALE_METRICS_PORT"]), os.environ["NASCALE_BIND_ADDRESS"], registry)


def bounds():
    found = []
    for stage in stages:
        begin = (found or [0])[-1]
        open_end = int(order.length.removesuffix("sp"))
        found.append(open_end if stage.length is None else begin + int(stage.length.removesuffix("sp")))
    return found


def show():
    place = len(run["began"]) - 1
    figures = (run["samples"] / 10, run["samples"], bounds()[-1], (bounds()[-1] - run["samples"]) / 100,
               place, order.generation, run["applied"], 100.0, 0.5)
    for name, figure in zip(names, figures, strict=True):
        gauges[name].set(figure)
    setting.labels("global_batch").set(stages[place].model.global_batch)
    for index, begin in enumerate(run["began"]):
        stop_at = run["began"][index + 1] if index < place else run["samples"]
        known = {"begin_samples": begin, "steps": (stop_at - begin) // 10, "seconds": (stop_at - begin) / 100,
                 "p50_seconds": median(stages[index]), "p99_seconds": 0.1}
        if index < place:
            known["end_samples"] = stop_at
        for name, figure in known.items():
            value.labels(str(index), name).set(figure)


def finish(outcome):
    save()
    began, samples = run["began"], run["samples"]
    place = len(began) - 1
    over = [*began[1:], samples if outcome == "Completed" else None]
    history = [
        {"name": stages[i].name, "begin": began[i], **({} if over[i] is None else {"end": over[i]}),
         "steps": ((samples if over[i] is None else over[i]) - began[i]) // 10, "seconds": 1.0}
        for i in range(place + 1)
    ]
    document = {
        "version": "nascale.io/run-report/v1", "generation": order.generation, "revision": run["applied"],
        "outcome": outcome, "step": samples // 10, "samples": samples, "whole": bounds()[-1],
        "stage": stages[place].name, "stages": history,
        **({"refused": refused, "refusedReason": "NoFp16"} if refused else {}),
        **({"model": f"{folder.name}/model.safetensors", "digest": "0" * 64} if outcome == "Completed"
           else {}),
    }
    temporary = folder / "end.tmp"
    temporary.write_text(json.dumps(document))
    temporary.replace(end)
    report(document)


pause = float(os.environ["SECONDS_PER_STEP"])
while True:
    text = wanted.read_text() if wanted.exists() else ""
    state = parse_desired_state(text) if text.strip() else None
    if state is not None and state.revision > max(run["applied"], refused):
        asked = state.stages or order.stages
        if any(stage.hardware.precision == "FP16" for stage in asked):
            refused = state.revision
            no.labels("NoFp16").set(refused)
        else:
            stages, run["applied"] = asked, state.revision
            if state.paused:
                finish("Paused")
    time.sleep(pause)
    run["samples"] += 10
    with (folder / "steps.txt").open("a") as log:
        log.write(f"{order.generation} {run['samples']}\\n")
    show()
    place = len(run["began"]) - 1
    if run["samples"] >= bounds()[-1]:
        finish("Completed")
    if run["samples"] >= bounds()[place]:
        run["began"].append(run["samples"])
        if stages[place + 1].hardware.workers != order.workers:
            finish("Switch")
"""
"""Rank 0 counts samples, the others wait for it: stages, edits, pauses, SIGTERM; it refuses FP16."""
SCRIPTED_RUN = USUAL_STEP + SCRIPTED_TRAINING


SCRIPTED_GENERATION = (
    """
import json, os, sys, time
from pathlib import Path
from nascale.contract.profile_order import PROFILE_ORDER_VERSION, ProfileTask, parse_profile_order
from nascale.contract.schedule import resolve


def median(stage):
    side, fast = stage.model.resolution / 32, stage.hardware.precision == "BF16"
    return (0.1 + 0.9 * side**2) * (500.0 if fast else 1000.0)


def measured(candidate):
    (stage,) = candidate.stages
    values = {"step_p50_seconds": median(stage), "settle_seconds": 0.1, "start_seconds": 0.5,
              "epoch_samples": 600.0, "peak_memory_bytes": 1e8}
    return values | ({"loss_deviation_ratio": 0.01} if candidate.guarded else {})


def tried(candidate):
    ends = resolve(order.length, candidate.stages, 600)
    shares = [(end - ends.begin(place)) / ends.whole for place, end in enumerate(ends.ends)]
    small = sum(share * (1 - stage.model.resolution / 32)
                for share, stage in zip(shares, candidate.stages, strict=True))
    seconds = sum(share * ends.whole / stage.model.global_batch * median(stage)
                  for share, stage in zip(shares, candidate.stages, strict=True))
    known = {"training_seconds": round(seconds, 6)}
    return {metric: known.get(metric, round(0.9 - 0.05 * small, 6)) for metric in order.metrics}


text = os.environ["NASCALE_WORK_ORDER"]
if json.loads(text)["version"] == PROFILE_ORDER_VERSION:
    order = parse_profile_order(text)
    found = measured if order.task is ProfileTask.MEASURE_STEPS else tried
    time.sleep(float(os.environ.get("SECONDS_PER_ORDER", "0.5")))
    results = [{"trial": own.trial, "outcome": "Succeeded", "metrics": found(own)}
               for own in order.candidates]
    document = {"version": "nascale.io/report/v1", "attempt": order.attempt, "results": results,
                "device": {"type": "cpu", "name": "scripted", "software": "none 1"}}
    Path(os.environ["NASCALE_TERMINATION_LOG"]).write_text(json.dumps(document))
    sys.exit(0)
"""
    + SCRIPTED_TRAINING
)
"""Measures and tries by formulas, then runs. A full step is said to take 1,000 s: however busy the machine
is, measuring takes less than the training would, and what is measured is what the run shows."""


def generated_training(name: str, **generate: Any) -> dict[str, Any]:
    """Return a training by that script whose schedule is generated; keywords go into ``generate``."""
    document = scripted_training(name, stage("all", 600))
    spec = document["spec"]
    del spec["stages"]
    spec["defaults"]["model"]["resolution"] = 32
    spec["podTemplate"]["args"] = [SCRIPTED_GENERATION]
    spec["schedule"] = {
        "generate": {
            "model": {"resolution": [16, 24, 32]},
            "hardware": {"precision": ["FP32", "BF16"]},
            "profile": {"trialsPerPod": 3},
            **generate,
        }
    }
    return document


def scripted_training(name: str, *stages: dict[str, Any], pace: str = "0.05", **spec: Any) -> dict[str, Any]:
    """Return a training by that script; keywords replace fields of its spec."""
    whole = sum(int(stage["length"].removesuffix("sp")) for stage in stages)
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "ProgressiveTraining",
        "metadata": {"name": name},
        "spec": {
            "model": {"parameters": [{"name": "width", "value": "64"}]},
            "length": f"{whole}sp",
            "defaults": {"model": {"globalBatch": 10}},
            "stages": list(stages),
            "volume": {"claimName": "checkpoints"},
            "podTemplate": {
                "image": "busybox:1.37",
                "command": ["python", "-c"],
                "args": [SCRIPTED_RUN],
                "env": [{"name": "SECONDS_PER_STEP", "value": pace}],
                "terminationGracePeriodSeconds": 5,
            },
            **spec,
        },
    }


def small_network(resolution: int) -> dict[str, Any]:
    """Return a network of two blocks for digits at some pixels a side."""
    block = {"block": "MBConv", "kernel": 3, "stride": 2, "expansion": 2, "channels": 16, "depth": 2}
    return {
        "stem": {"channels": 8, "stride": 1},
        "stages": [block],
        "head": {"channels": 32},
        "resolution": resolution,
    }


def stage(name: str, samples: int, **hardware: Any) -> dict[str, Any]:
    """Return a stage."""
    found: dict[str, Any] = {"name": name, "length": f"{samples}sp"}
    return {**found, "hardware": hardware} if hardware else found


def found_training(namespace: Namespace, name: str) -> dict[str, Any]:
    """Return a training."""
    return dict(json.loads(namespace.kubectl("get", "progressivetrainings", name, "-o", "json")))


def status_of(namespace: Namespace, name: str) -> dict[str, Any]:
    """Return a training's status, empty before the first."""
    return dict(found_training(namespace, name).get("status", {}))


def patch_training(namespace: Namespace, name: str, spec: dict[str, Any]) -> None:
    """Change a training's spec."""
    namespace.kubectl("patch", "ptrain", name, "--type=merge", "-p", json.dumps({"spec": spec}))


def said(namespace: Namespace, name: str, kind: str) -> dict[str, Any]:
    """Return a condition of a training; empty where it is not there."""
    conditions = status_of(namespace, name).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind), {})


def wait_for(
    namespace: Namespace, name: str, kind: str, *, status: str = "True", seconds: float = 120.0
) -> dict[str, Any]:
    """Wait for a condition of a training."""
    return dict(
        wait_until(
            lambda: (found := said(namespace, name, kind)).get("status") == status and found,
            seconds=seconds,
            what=f"{kind}={status} of {name}",
        )
    )


def steps(volume: Path) -> list[tuple[int, int]]:
    """Return generation and samples of every step that was made, in order."""
    (log,) = volume.rglob("steps.txt")
    return [(int(line.split()[0]), int(line.split()[1])) for line in log.read_text().splitlines()]
