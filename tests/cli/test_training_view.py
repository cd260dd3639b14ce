"""What the terminal shows of a progressive training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console, RenderableType

from nascale.api.progressive_training import ProgressiveTraining
from nascale.cli import training_view

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
BEGIN: dict[str, Any] = {
    "name": "begin",
    "beginSamples": 0,
    "endSamples": 4320,
    "steps": 68,
    "throughput": "812.345",
    "stepP50Seconds": "0.0787",
    "loss": "0.8125",
    "metrics": [{"name": "accuracy", "value": "0.8712", "source": "Prometheus"}],
    "switchClass": "None",
    "settings": [
        {"name": "resolution", "value": "8"},
        {"name": "depth", "value": "0.5"},
        {"name": "globalBatch", "value": "64"},
        {"name": "precision", "value": "BF16"},
        {"name": "memoryFormat", "value": "Contiguous"},
        {"name": "workers", "value": "1"},
    ],
}
GROWN: dict[str, Any] = {
    "name": "grown",
    "beginSamples": 4320,
    "steps": 12,
    "switchClass": "Recompile",
    "switchSeconds": "1.2345",
    "settings": [{"name": "memoryFormat", "value": "ChannelsLast"}],
}


def training(*conditions: tuple[str, str, str, str], **status: Any) -> ProgressiveTraining:
    said = [
        {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": NOW}
        for kind, value, reason, message in conditions
    ]
    return ProgressiveTraining.model_validate(
        {
            "metadata": {"name": "digits-training", "namespace": "demo"},
            "spec": {
                "model": {"member": {"sweepName": "digits-family", "name": "large"}},
                "trainingData": {"embedded": "Digits"},
                "length": "12ep",
                "stages": [
                    {"name": "begin", "length": "0.25dur"},
                    {"name": "grown", "length": "0.25dur"},
                    {"name": "shared"},
                ],
                "volume": {"claimName": "digits-training"},
            },
            "status": {"conditions": said, **status},
        }
    )


def shown(what: RenderableType, width: int = 150) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False, quiet=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def test_nothing_is_known_at_the_beginning() -> None:
    fresh = training()
    assert not training_view.ended(fresh)
    assert "starting" in training_view.one_line(fresh, NOW)
    text = shown(training_view.live(fresh, NOW))
    for stage in ("begin", "grown", "shared"):
        assert stage in text


def test_a_running_training_shows_stage_figures_and_time_left() -> None:
    running = training(
        ("Progressing", "True", "Training", ""),
        startTime=NOW - timedelta(seconds=90),
        currentStage="grown",
        progressPercentage=31,
        estimatedRemainingSeconds=84,
        step=80,
        throughput="640.5",
        stepP50Seconds="0.051",
        loss="0.5",
        metrics=[{"name": "accuracy", "value": "0.8712", "source": "Prometheus"}],
        stages=[BEGIN, GROWN],
    )
    line = training_view.one_line(running, NOW)
    for part in ("31 %", "stage grown", "step 80", "640.5 samples/s", "accuracy 0.8712", "about 84 s left"):
        assert part in line
    text = shown(training_view.live(running, NOW))
    for part in ("p50 51 ms", "px 8", "depth 0.5", "batch 64", "BF16", "ChannelsLast", "Recompile", "1.23 s"):
        assert part in text
    assert "Contiguous" not in text  # what everybody has is not worth a word


def test_how_long_it_has_run_stands_in_for_an_estimate() -> None:
    waiting = training(("Progressing", "True", "WaitingForModel", ""), startTime=NOW - timedelta(seconds=30))
    assert "WaitingForModel, 30 s so far" in training_view.one_line(waiting, NOW)


def test_trouble_is_shown_while_it_lasts() -> None:
    said = (
        ("Degraded", "True", "FellBack", "generation 2 made no first step"),
        ("MetricsAvailable", "False", "PrometheusUnreachable", "connection refused"),
        ("Stalled", "False", "Steady", "all is well"),
    )
    text = shown(training_view.live(training(*said), NOW))
    assert "Degraded: FellBack: generation 2 made no first step" in text
    assert "MetricsAvailable: PrometheusUnreachable: connection refused" in text
    assert "all is well" not in text


def test_the_end_shows_switches_and_where_the_model_lies() -> None:
    done = training(
        ("Succeeded", "True", "Trained", ""),
        stages=[BEGIN, {**GROWN, "endSamples": 17280}],
        switches={"live": 1, "recompile": 2, "restart": 0, "reschedule": 1},
        lostSteps=3,
        deviceSeconds=77,
        result={
            "path": "nascale/digits-training-12345678/model.safetensors",
            "digest": "a" * 64,
            "metrics": [{"name": "accuracy", "value": "0.9722", "source": "Report"}],
        },
    )
    assert training_view.ended(done)
    text = shown(training_view.result(done))
    for part in (
        "1 live, 2 recompile, 0 restart, 1 reschedule",
        "steps lost: 3",
        "device-seconds: 77",
        "accuracy 0.9722",
        "digits-training:nascale/digits-training-12345678/model.safetensors",
        "12960",
    ):
        assert part in text


def test_a_failure_is_shown_with_its_reason() -> None:
    failed = training(("Failed", "True", "Refused", "stages[1].hardware.precision: must be one of ..."))
    assert training_view.ended(failed)
    assert "Failed: Refused: stages[1].hardware.precision" in shown(training_view.result(failed))


def test_a_narrow_terminal_loses_no_column() -> None:
    text = shown(training_view.live(training(stages=[BEGIN, GROWN]), NOW), width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    for part in ("begin", "812.3", "0.8712"):
        assert part in text


GENERATED: dict[str, Any] = {
    "activity": "Planned",
    "plan": 2,
    "measured": 9,
    "maxMeasured": 24,
    "gridSize": 96,
    "reused": 3,
    "profileDeviceSeconds": 40,
    "proxyDeviceSeconds": 2,
    "reason": "early is off its prediction",
    "table": [
        {
            "name": "early-1",
            "settings": [{"name": "resolution", "value": "14"}, {"name": "precision", "value": "BF16"}],
            "throughput": "1234.5",
            "seconds": "67.8",
            "sharePercentage": 40,
            "observedRatio": "0.5",
        },
        {"name": "final", "throughput": "432.1", "seconds": "98.7", "sharePercentage": 60},
    ],
    "stages": [{"name": "early-1", "length": "100sp"}, {"name": "final"}],
}


def generated_training(**status: Any) -> ProgressiveTraining:
    found = training(**status)
    schedule = {"generate": {"hardware": {"precision": ["FP32", "BF16"]}}}
    spec = {**found.spec.to_dict(), "schedule": schedule}
    del spec["stages"]
    return ProgressiveTraining.model_validate({**found.model_dump(by_alias=True), "spec": spec})


def test_measurements_are_shown_before_there_is_a_schedule() -> None:
    profiling = generated_training(
        generated={**GENERATED, "activity": "Profiling", "table": [], "stages": []}
    )
    for text in (
        training_view.one_line(profiling, NOW),
        shown(training_view.live(profiling, NOW)),
    ):
        assert "9 of at most 24 combinations measured (the ranges hold 96, 3 taken over)" in text
        assert "42 device-seconds" in text


def test_the_generated_table_is_shown_with_what_was_measured_since() -> None:
    running = generated_training(generated=GENERATED, runGeneration=1)
    text = shown(training_view.live(running, NOW))
    for part in ("early-1", "1234", "67.8", "40 %", "x 0.5", "resolution 14, precision BF16"):
        assert part in text
    assert "as the defaults" in text
    assert "Plan 2: early is off its prediction" in text


def test_a_dry_run_ends_with_the_table() -> None:
    done = generated_training(generated=GENERATED)
    text = shown(training_view.result(done))
    assert "early-1" in text
    assert "switches:" not in text
