"""One observation in, one plan out: the main transitions as pairs of YAML files (see cases/README.md)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from nascale.reconcile import architecture_search, progressive_training
from nascale.reconcile.actions import Plan, Reading, ReadingProblem
from nascale.reconcile.observed import Observed, OperatorSettings

CASES = Path(__file__).parent / "cases"
PLANNERS = {
    "ArchitectureSearch": architecture_search.plan,
    "ProgressiveTraining": progressive_training.plan,
}
ANY, ABSENT = "<ANY>", "<ABSENT>"


def read_input(path: Path) -> Observed:
    raw = yaml.safe_load(path.read_text())
    readings = {
        trial: {
            metric: Reading(
                value=said.get("value"),
                problem=ReadingProblem(said["problem"]) if "problem" in said else None,
                message=said.get("message", ""),
            )
            for metric, said in metrics.items()
        }
        for trial, metrics in raw.get("readings", {}).items()
    }
    return Observed(
        owner=raw["owner"],
        trials=tuple(raw.get("trials", ())),
        jobs=tuple(raw.get("jobs", ())),
        pods=tuple(raw.get("pods", ())),
        now=datetime.fromisoformat(raw["now"]),
        readings=readings,
        job_problems=raw.get("jobProblems", {}),
        sharing_nodes=raw.get("sharingNodes", {}),
        settings=OperatorSettings(**raw.get("settings", {"prometheus": True})),
    )


def as_document(made: Plan) -> dict[str, Any]:
    """Write a plan the way the expected files do."""
    return {
        "actions": [{type(action).__name__: asdict(action)} for action in made.actions],
        "status": made.status,
        "events": [
            {
                "type": event.type.value,
                "reason": event.reason,
                "message": event.message,
                "trial": event.trial,
            }
            for event in made.events
        ],
        "counted": [
            {"name": entry.name, "labels": dict(entry.labels), "amount": entry.amount}
            for entry in made.counted
        ],
        "requeueAfterSeconds": made.requeue_after_seconds,
    }


def differences(expected: Any, found: Any, path: str) -> list[str]:
    """Say where a document is not as expected: mappings may hold more, lists may not."""
    if expected == ANY:
        return []
    if isinstance(expected, dict) and isinstance(found, dict):
        faults: list[str] = []
        for key, value in expected.items():
            if value == ABSENT:
                if key in found and found[key] is not None:
                    faults.append(f"{path}.{key}: must be absent, not {found[key]!r}")
            elif key not in found:
                faults.append(f"{path}.{key}: is missing")
            else:
                faults += differences(value, found[key], f"{path}.{key}")
        return faults
    if isinstance(expected, list) and isinstance(found, list | tuple):
        if len(expected) != len(found):
            return [f"{path}: must have {len(expected)} entries, not {len(found)}: {found!r}"]
        pairs = enumerate(zip(expected, found, strict=True))
        return [fault for place, pair in pairs for fault in differences(*pair, f"{path}[{place}]")]
    return [] if expected == found else [f"{path}: must be {expected!r}, not {found!r}"]


@pytest.mark.parametrize("case", sorted(path.parent.name for path in CASES.glob("*/input.yaml")))
def test_case(case):
    observed = read_input(CASES / case / "input.yaml")
    expected = yaml.safe_load((CASES / case / "expected.yaml").read_text())
    assert {"actions", "status", "events"} <= set(expected), "every case says what is done, written and told"
    made = PLANNERS[observed.owner["kind"]](observed)
    assert differences(expected, as_document(made), "plan") == []


def test_differences_are_found():
    found = {"a": 1, "b": [1, 2], "c": {"d": 2}}
    assert differences({"a": 1, "b": [1, ANY], "c": {"e": ABSENT}}, found, "") == []
    for wrong in ({"a": 2}, {"b": [1]}, {"b": [2, 2]}, {"c": {"d": ABSENT}}, {"x": 1}, {"c": []}):
        assert len(differences(wrong, found, "")) == 1, wrong


def test_there_are_cases():
    assert len(list(CASES.glob("*/input.yaml"))) >= 12
