"""The shell in ``examples/02-own-container.yaml`` reads a real work order and writes a real report."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nascale.contract import environment
from nascale.contract.report import Outcome, parse_report
from nascale.contract.work_order import CandidateOrder, RunIdentity, WorkOrder

EXAMPLE = Path(__file__).parents[2] / "examples" / "02-own-container.yaml"
TRIAL = "own-container-abcde-4"


@pytest.mark.parametrize(
    ("parameters", "error", "cost"),
    [
        # The best learning rate of this width is 0.01, and momentum costs 0.02 * (1 - momentum).
        ({"optimizer": "adam", "learning_rate": 0.01, "width": 100}, 0.05 + 0.006 + 0.02, 100),
        ({"optimizer": "sgd", "learning_rate": 0.01, "width": 100, "momentum": 0.9}, 0.058, 100),
        ({"optimizer": "sgd", "learning_rate": 1e-05, "width": 100, "momentum": 0.9}, 1.01234, 100),
    ],
)
def test_the_example_s_shell_is_a_trial(
    parameters: dict[str, Any], error: float, cost: float, tmp_path: Path
):
    template = yaml.safe_load(EXAMPLE.read_text())["spec"]["trialTemplate"]
    order = WorkOrder(
        run=RunIdentity(kind="ArchitectureSearch", name="own-container", namespace="default", uid="1"),
        attempt=2,
        candidates=(CandidateOrder(trial=TRIAL, index=4, parameters=parameters),),
        metrics=("error", "cost"),
    )
    log = tmp_path / "termination-log"
    variables = {environment.WORK_ORDER: order.to_json(), environment.TERMINATION_LOG: str(log)}

    done = subprocess.run(
        [*template["command"], *template["args"]],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = parse_report(log.read_text(), [TRIAL])
    assert report.attempt == 2
    (result,) = report.results
    assert result.outcome is Outcome.SUCCEEDED
    assert result.metrics == {"error": pytest.approx(error, abs=1e-4), "cost": cost}
