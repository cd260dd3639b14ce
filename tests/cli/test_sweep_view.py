"""What the terminal shows of a sweep, at the width of a plain terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from nascale.api.scaling_sweep import ScalingSweep
from nascale.api.trial import Trial
from nascale.cli import sweep_view

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
VECTOR = {
    "depth": "1.182", "width": "1.123", "resolution": "1.158",
    "widthPerDepth": "0.694", "resolutionPerDepth": "0.877",
}  # fmt: skip
SUCCEEDED = [("Succeeded", "True", "FamilyFound", ""), ("Failed", "False", "FamilyFound", "")]


def member(name: str, accuracy: str, **fields: Any) -> dict[str, Any]:
    values = {
        "latency_p50_seconds": "0.00123456",
        "latency_p90_seconds": "0.0014",
        "throughput_samples_per_second": "812.3",
        "accuracy": accuracy,
        "parameters": "123456",
        "flops": "4567890",
    }
    return {
        "name": name,
        "vector": VECTOR,
        "depth": "1.4142",
        "width": "1.2",
        "resolution": "1.25",
        "compoundCoefficient": "2",
        "budgetSeconds": "0.00125",
        "metrics": [{"name": key, "value": value, "source": "Report"} for key, value in values.items()],
        **fields,
    }


def sweep(*conditions: tuple[str, str, str, str], **status: Any) -> ScalingSweep:
    said = [
        {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": NOW}
        for kind, value, reason, message in conditions
    ]
    return ScalingSweep.model_validate(
        {
            "metadata": {"name": "digits-family", "namespace": "demo"},
            "spec": {
                "base": {"searchName": "digits"},
                "family": [{"name": "small", "latencyMultiple": "1.5"}],
                "target": {"resources": {"limits": {"cpu": "1"}}},
                "objectives": [
                    {"metric": "latency_p50_seconds", "direction": "Minimize"},
                    {"metric": "parameters", "direction": "Minimize"},
                    {"metric": "accuracy", "direction": "Maximize"},
                ],
                "budget": {"maxTrials": 60},
            },
            "status": {"conditions": said, **status},
        }
    )


def trial(index: int, purpose: str, **status: Any) -> Trial:
    spec = {
        "index": index,
        "candidate": index,
        "lead": index,
        "fidelity": {"epochs": 0},
        "parameters": [{"name": "depth", "value": "1"}],
        "purpose": purpose,
    }
    return Trial.model_validate(
        {"metadata": {"name": f"t-{index}", "namespace": "demo"}, "spec": spec, "status": status}
    )


def shown(renderable: object) -> str:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def finished_sweep() -> ScalingSweep:
    ours = [member("small", "0.9722", gain="0.0139"), member("large", "0.9861", gain="-0.0028")]
    rules = [
        {"name": "EfficientNet", "members": [member("small", "0.9583"), member("large", "0.9889")]},
        {"name": "AccuracyFLOPs", "members": [member("small", "0.9611")]},
    ]
    return sweep(*SUCCEEDED, family=ours, baselines=rules, coefficients=VECTOR)


class TestResult:
    def test_each_member_stands_beside_the_baselines_without_cutting_anything(self) -> None:
        text = shown(sweep_view.result(finished_sweep()))
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
        small, large = text.index("small: at most 1.25 ms"), text.index("large: at most 1.25 ms")
        rows = [line.split() for line in text[small:large].splitlines()]
        factors, values = (
            ["1.41", "1.20", "1.25"],
            ["1.23", "1.4", "812", "0.9722", "123k", "4.57M", "+0.0139"],
        )
        assert ["this", "sweep", *factors, *values] in rows
        assert [row[7] for row in rows if row[:1] == ["EfficientNet"]] == ["0.9583"]
        assert any(row[:1] == ["AccuracyFLOPs"] for row in rows)
        after = [line.split() for line in text[large:].splitlines()]
        assert ["this", "sweep"] in [row[:2] for row in after]
        assert not any(row[:1] == ["AccuracyFLOPs"] for row in after)
        assert "-0.0028" in text[large:]

    def test_the_vector_is_shown_with_its_direction(self) -> None:
        text = shown(sweep_view.result(finished_sweep()))
        assert "depth 1.182, width 1.123, resolution 1.158 (w/d 0.69, r/d 0.88)" in text.replace("\n", " ")

    def test_values_that_nobody_reported_are_dashes(self) -> None:
        bare = member("small", "0.9")
        bare["metrics"] = [value for value in bare["metrics"] if value["name"] == "latency_p50_seconds"]
        rows = shown(sweep_view.result(sweep(*SUCCEEDED, family=[bare]))).splitlines()
        row = next(line.split() for line in rows if line.startswith(sweep_view.OURS))
        assert row == ["this", "sweep", "1.41", "1.20", "1.25", "1.23", *["-"] * 5]

    def test_a_long_metric_of_ones_own_is_cut_in_its_column_and_whole_in_the_legend(self) -> None:
        document = finished_sweep().model_dump(mode="json", by_alias=True)
        document["spec"]["objectives"][1] = {"metric": "word_error_rate", "direction": "Minimize"}
        document["spec"]["trialTemplate"]["image"] = "example.com/speech:1"
        text = shown(sweep_view.result(ScalingSweep.model_validate(document)))
        assert "word_er." in text
        assert "gain: word_error_rate over" in text

    def test_where_a_network_comes_from_is_told(self) -> None:
        small = member("small", "0.9722") | {"takenFrom": "EfficientNet"}
        large = member("large", "0.9722") | {"sameAs": "small"}
        text = shown(sweep_view.result(sweep(*SUCCEEDED, family=[small, large])))
        assert "Taken from EfficientNet, whose network is the best here." in text
        assert "The network of small again: none tried here is slower." in text

    def test_a_failed_sweep_says_why(self) -> None:
        failed = sweep(("Failed", "True", "BudgetUnreachable", "small: at least 0.002 s was measured"))
        assert sweep_view.ended(failed)
        text = shown(sweep_view.result(failed)).replace("\n", " ")
        assert "(BudgetUnreachable): small: at least 0.002 s was measured" in text

    def test_corrected_latency_is_told(self) -> None:
        moved = ("LatencySteady", "False", "Corrected", "2 pods drifted")
        text = shown(sweep_view.result(sweep(*SUCCEEDED, moved, family=[member("small", "0.9")])))
        assert "Latency moved meanwhile (Corrected): 2 pods drifted" in text


class TestProgress:
    def test_it_shows_phase_trials_cost_and_members_so_far(self) -> None:
        running = sweep(
            startTime=NOW - timedelta(seconds=75),
            finished=31,
            trials={"running": 1, "pending": 2},
            vectors=5,
            phaseSeconds={"measuring": 40, "training": 25, "verifying": 9, "baselines": 3},
            latencyModelError="0.042",
            reference={"measurements": 4, "latencySeconds": "0.0005", "lastRatio": "1.02"},
            family=[member("small", "0.9722")],
        )
        trials = [
            trial(0, "Latency", outcome="Succeeded"),
            trial(1, "Verification", startTime=NOW),
            trial(2, "Baseline"),
        ]
        text = shown(sweep_view.live(running, trials, NOW))
        for said in (
            "verifying and baselines",
            "31 trials done, 1 running, 2 waiting",
            "75 s so far",
            "measuring 40, training 25, verifying 9, baselines 3",
            "vectors: 5",
            "latency model: 4.2% off",
            "base: 0.5 ms, now x 1.02",
            "small: depth 1.41, width 1.20, resolution 1.25, 1.23 ms, accuracy 0.9722",
        ):
            assert said in text
        line = sweep_view.one_line(running, trials, NOW)
        assert line.startswith("verifying and baselines: 31 trials done, 1 running, 75 s so far")
        assert "small: depth 1.41" in line

    @pytest.mark.parametrize(
        ("purpose", "said"),
        [("Reference", "measuring"), ("Latency", "measuring"), ("Training", "training")],
    )
    def test_the_phase_is_what_the_trials_are_for(self, purpose: str, said: str) -> None:
        assert sweep_view.phase(sweep(), [trial(0, purpose)]) == said

    def test_without_trials_the_phase_is_what_the_operator_says(self) -> None:
        waiting = sweep(("Progressing", "False", "WaitingForBase", ""))
        assert sweep_view.phase(waiting, []) == "WaitingForBase"
        assert sweep_view.phase(sweep(), []) == "starting"
        assert sweep_view.phase(sweep(*SUCCEEDED), [trial(0, "Training")]) == "ended"

    def test_a_sweep_that_has_just_begun_shows_nothing_measured(self) -> None:
        text = shown(sweep_view.live(sweep(), [], NOW))
        assert "latency model: no prediction yet" in text
        assert "base: not measured yet" in text
        assert sweep_view.one_line(sweep(), [], NOW).endswith("0 s so far; members so far: none")

    def test_the_training_that_is_left_is_told_where_it_is_known(self) -> None:
        running = sweep(startTime=NOW, estimatedRemainingSeconds=42)
        assert "0 s so far, about 42 s of training left" in shown(sweep_view.live(running, [], NOW))
        assert "about 42 s of training left; members" in sweep_view.one_line(running, [], NOW)

    def test_the_clock_stands_when_it_has_ended(self) -> None:
        done = sweep(*SUCCEEDED, startTime=NOW, completionTime=NOW + timedelta(seconds=90))
        assert "90 s" in shown(sweep_view.live(done, [], NOW + timedelta(hours=1)))
