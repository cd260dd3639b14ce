"""The example trials: what the operator sends them, and what they send back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

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


class TestTransformer:
    """The user's own model that a sweep scales."""

    SCRIPT = EXAMPLES / "transformer" / "train.py"
    BASE: ClassVar[dict[str, int]] = {"layers": 1, "width": 16, "context": 16}

    def work(self, make_order, environ, tmp_path, *candidates, **fields):
        metrics = fields.pop("metrics", ["latency_p50_seconds"])
        document = make_order(
            run={"kind": "ScalingSweep", "name": "demo", "namespace": "default", "uid": "u-1"},
            trials=[f"demo-{number}" for number in range(len(candidates))],
            metrics=metrics,
            measurement={"minCalls": 20, "minSeconds": 0},
            **fields,
        )
        for candidate, parameters in zip(document["candidates"], candidates, strict=True):
            candidate.update(parameters=parameters, seed=7)
        done = run([sys.executable, str(self.SCRIPT)], environ(document, OMP_NUM_THREADS="1"))
        assert done.returncode == 0, done.stderr
        return parse_report((tmp_path / "termination-log").read_text()).results

    def test_asked_to_measure_it_trains_nothing(self, make_order, environ, tmp_path):
        larger = {"layers": 3, "width": 32, "context": 24}
        small, large = self.work(make_order, environ, tmp_path, self.BASE, larger, task="Measure")
        for result in (small, large):
            assert set(result.metrics) == {
                *(
                    "latency_p50_seconds",
                    "latency_p90_seconds",
                    "throughput_samples_per_second",
                    "parameters",
                ),
            }
            assert 0 < result.metrics["latency_p50_seconds"] <= result.metrics["latency_p90_seconds"]
        assert small.metrics["parameters"] == self.parameters(**self.BASE)
        assert large.metrics["parameters"] == self.parameters(**larger)

    @staticmethod
    def parameters(layers, width, context, letters=29):
        """Count by hand: embeddings, blocks (12 width^2 + 13 width), last normalisation, logits."""
        return (
            (letters + context) * width
            + layers * (12 * width**2 + 13 * width)
            + 2 * width
            + letters * (width + 1)
        )

    def test_it_learns_and_its_accuracy_is_a_function_of_the_seed(self, make_order, environ, tmp_path):
        fields = {
            "metrics": ["latency_p50_seconds", "accuracy"],
            "fidelity": {"epochs": 2, "dataFraction": 0.3},
            "training": {"batchSize": 16, "learningRate": 0.003},
        }
        first, again = self.work(make_order, environ, tmp_path, self.BASE, self.BASE, **fields)
        assert first.metrics["accuracy"] == again.metrics["accuracy"]
        untrained = {**fields, "fidelity": {"epochs": 0}}
        (guessing,) = self.work(make_order, environ, tmp_path, self.BASE, **untrained)
        assert guessing.metrics["accuracy"] < 0.2
        assert first.metrics["accuracy"] > 0.35

    @pytest.mark.parametrize("wrong", [{"width": 12}, {"layers": "many"}, {"context": 0}])
    def test_a_size_that_can_not_be_built_is_the_candidates_failure_alone(
        self, make_order, environ, tmp_path, wrong
    ):
        broken, fine = self.work(
            make_order, environ, tmp_path, {**self.BASE, **wrong}, self.BASE, task="Measure"
        )
        assert (broken.outcome, broken.reason) == (Outcome.FAILED, "BadParameter")
        assert "parameters: must be layers, width (a multiple of 8) and context" in broken.message
        assert fine.outcome is Outcome.SUCCEEDED
