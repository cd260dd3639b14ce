"""The example trials: what the operator sends them, and what they send back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nascale.contract.report import Outcome, parse_report
from nascale.contract.work_order import parse_work_order

EXAMPLES = Path(__file__).parents[2] / "examples" / "trials"


def order_as_the_operator_writes_it(make_order, metrics, parameters):
    document = make_order(
        trials=[f"demo-{number}" for number in range(len(parameters))], metrics=metrics, attempt=1
    )
    for candidate, values in zip(document["candidates"], parameters, strict=True):
        candidate["parameters"] = values
    return parse_work_order(json.dumps(document)).to_json()


def run(command, variables):
    return subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "busybox"])
def test_a_trial_in_plain_shell(make_order, environ, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell}")
    order = order_as_the_operator_writes_it(
        make_order, ["seconds", "area"], [{"trial": "x", "width": 12, "activation": "relu"}, {"width": 3}]
    )
    prefix = ["busybox", "sh"] if shell == "busybox" else [shell]
    done = run([*prefix, str(EXAMPLES / "shell" / "trial.sh")], environ(order))
    assert done.returncode == 0, done.stderr
    report = parse_report((tmp_path / "termination-log").read_text(), ["demo-0", "demo-1"])
    assert report.attempt == 1
    assert [result.metrics["area"] for result in report.results] == [144, 9]
    assert all(result.metrics["seconds"] >= 0 for result in report.results)
    assert [entry.name for entry in tmp_path.iterdir()] == ["termination-log"]


def test_the_shell_trial_reads_an_order_from_a_file(make_order, environ, tmp_path):
    path = tmp_path / "order.json"
    path.write_text(order_as_the_operator_writes_it(make_order, ["seconds", "area"], [{"width": 2}]))
    variables = environ("", NASCALE_WORK_ORDER_FILE=str(path))
    done = run([str(EXAMPLES / "shell" / "trial.sh")], variables)
    assert done.returncode == 0, done.stderr
    assert parse_report((tmp_path / "termination-log").read_text()).results[0].metrics["area"] == 4


@pytest.mark.parametrize("order", ["", "{}", '{"version":"nascale.io/work-order/v2","candidates":[]}'])
def test_the_shell_trial_refuses_what_it_can_not_read(environ, tmp_path, order):
    done = run([str(EXAMPLES / "shell" / "trial.sh")], environ(order))
    assert done.returncode == 2
    assert "must be" in done.stderr
    assert not (tmp_path / "termination-log").exists()


def test_a_trial_in_python_without_torch(make_order, environ, tmp_path):
    order = order_as_the_operator_writes_it(
        make_order,
        ["error", "latency_p50_seconds"],
        [{"degree": 1}, {"degree": 5}, {"degree": "many"}],
    )
    done = run([sys.executable, str(EXAMPLES / "python_no_torch" / "trial.py")], environ(order))
    assert done.returncode == 0, done.stderr
    report = parse_report((tmp_path / "termination-log").read_text(), ["demo-0", "demo-1", "demo-2"])
    line, quintic, broken = report.results
    assert quintic.metrics["error"] < line.metrics["error"], "a sine is no line"
    assert quintic.metrics["latency_p50_seconds"] > 0
    assert broken.outcome is Outcome.FAILED
    assert "parameters.degree: must be a whole number from 1 to 9, not 'many'" in broken.message
