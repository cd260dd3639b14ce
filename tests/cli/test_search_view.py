"""What the terminal shows of a search, at the width of a plain terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from nascale.api.architecture_search import ArchitectureSearch
from nascale.api.trial import Trial
from nascale.cli import search_view

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
ARCHITECTURE = {
    "stem": {"type": "SpaceToDepth", "channels": 16, "stride": 2, "activation": "ReLU"},
    "stages": [
        {"block": "FusedMBConv", "kernel": 5, "stride": 2, "expansion": 4, "channels": 1024, "depth": 12,
         "squeezeExcitation": "0.0625", "activation": "HardSwish"}
    ],
    "head": {"channels": 8192, "activation": "HardSwish"},
    "resolution": 1024,
}  # fmt: skip


def metrics(accuracy: str, latency: str) -> list[dict]:
    return [
        {"name": "accuracy", "value": accuracy, "source": "Report"},
        {"name": "latency_p50_seconds", "value": latency, "source": "Prometheus"},
    ]


def condition(kind: str, status: str, reason: str, message: str = "") -> dict:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def search(**status: object) -> ArchitectureSearch:
    return ArchitectureSearch.model_validate(
        {
            "metadata": {"name": "digits", "namespace": "demo"},
            "spec": {
                "space": {"parameters": [{"name": "x", "integer": {"min": 1, "max": 9}}]},
                "objectives": [
                    {"metric": "accuracy", "direction": "Maximize"},
                    {"metric": "latency_p50_seconds", "direction": "Minimize"},
                ],
                "budget": {"maxTrials": 14},
            },
            "status": status,
        }
    )


def shown(renderable: object) -> str:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def finished_search() -> ArchitectureSearch:
    front = [
        {"trial": "digits-7f8c9-13", "metrics": metrics("0.9972067", "0.000660911")},
        {"trial": "digits-7f8c9-9", "metrics": metrics("0.9192", "0.00018254")},
    ]
    base = {
        "trial": "digits-7f8c9-13",
        "selection": "Knee",
        "reason": "the knee of 2 trials",
        "metrics": metrics("0.9972067", "0.000660911"),
        "parameters": [{"name": "x", "value": "3"}],
        "architecture": ARCHITECTURE,
    }
    conditions = [
        condition("Succeeded", "True", "MaxTrialsReached"),
        condition("Failed", "False", "InProgress"),
    ]
    return search(conditions=conditions, front=front, baseNetwork=base)


def test_the_end_shows_front_sources_and_network_without_cutting_anything() -> None:
    search_ = finished_search()
    assert search_view.ended(search_)
    text = shown(search_view.result(search_))
    assert "…" not in text
    row = next(line for line in text.splitlines() if "digits-7f8c9-13" in line and "Base" not in line)
    assert row.split() == ["digits-7f8c9-13", "0.9972", "(R)", "0.0006609", "(P)", "base", "network"]
    assert "accuracy ↑" in text
    assert "latency_p50_seconds ↓" in text
    stage = next(line for line in text.splitlines() if line.strip().startswith("stage 1"))
    assert stage.split()[2:] == ["FusedMBConv", "5", "2", "4", "1024", "12", "0.0625", "HardSwish"]


def test_a_base_network_of_ones_own_space_shows_its_parameters() -> None:
    document = finished_search().model_dump(mode="json", by_alias=True)
    document["status"]["baseNetwork"]["architecture"] = None
    assert "x=3" in shown(search_view.result(ArchitectureSearch.model_validate(document)))


def test_a_failed_search_says_why() -> None:
    failed = search(conditions=[condition("Failed", "True", "NoFeasibleTrial", "the nearest was digits-1")])
    assert search_view.ended(failed)
    assert "(NoFeasibleTrial): the nearest was digits-1" in shown(search_view.result(failed)).replace(
        "\n", " "
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, "starting"),
        ({"startTime": NOW - timedelta(seconds=7)}, "7 s so far"),
        ({"startTime": NOW, "estimatedRemainingSeconds": 42}, "about 42 s left"),
    ],
)
def test_progress_says_how_long_it_will_take(status: dict, said: str) -> None:
    line = search_view.one_line(search(**status), NOW)
    assert line.startswith("0/14 trials, 0 running, ")
    assert said in line


def test_progress_shows_the_newest_trials_with_state_and_values() -> None:
    trials = [
        Trial.model_validate(
            {
                "metadata": {"name": f"digits-{index}", "namespace": "demo"},
                "spec": {
                    "index": index,
                    "candidate": index,
                    "lead": index,
                    "fidelity": {"epochs": 1},
                    "parameters": [{"name": "x", "value": "1"}],
                    "origin": "mutation",
                },
                "status": status,
            }
        )
        for index, status in enumerate(
            [{}] * 4
            + [
                {"outcome": "Infeasible", "startTime": NOW, "completionTime": NOW + timedelta(seconds=3)},
                {"outcome": "Succeeded", "metrics": metrics("0.9", "0.001")},
                {"startTime": NOW - timedelta(seconds=5)},
            ]
        )
    ]
    text = shown(search_view.live(search(finished=2), trials * 2, NOW))
    assert "2/14 trials" in text
    rows = [line.split() for line in text.splitlines() if "mutation" in line]
    assert len(rows) == search_view.SHOWN_TRIALS
    assert ["6", "0", "mutation", "Running", "5"] in rows
    assert ["4", "0", "mutation", "Infeasible", "3"] in rows
    assert ["5", "0", "mutation", "Succeeded", "0.9", "(R)", "0.001", "(P)"] in rows
