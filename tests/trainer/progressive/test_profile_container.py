"""Containers that were given a profile order: the built-in trainer and scripts of one's own, by exit code."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.trainer.progressive.profile_orders import OF_STEPS, QUICK, STEPS, candidate, profile_order
from tests.trainer.progressive.tiny_task import TinyTask, stage

from nascale.contract.report import Outcome, parse_report
from nascale_trainer.progressive import profile_container
from nascale_trainer.progressive.processes import EXIT_TERMINATED, EXIT_UNUSABLE_ORDER
from nascale_trainer.stop_request import StopRequest

PATIENT = {**QUICK, "maxAttempts": 20}
"""For processes on a busy machine, whose steps may take anything."""
CHARACTERS = Path(__file__).parents[3] / "examples/trainings/characters/train.py"

SCRIPT = """
import os
from pathlib import Path

SEEN = Path(os.environ["SEEN"])
with SEEN.open("a") as log:
    log.write(f"begun {os.getpid()} {os.environ.get('OMP_WAIT_POLICY')}\\n")

import torch
from torch import nn
from nascale_trainer.progressive import TrainingTask, train


class Line(TrainingTask):
    def __init__(self, order):
        self.width = int(order.parameters["width"])
        self.points = torch.linspace(-1, 1, 64)

    samples = 64

    def build(self, seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, self.width), nn.Tanh(), nn.Linear(self.width, 1))

    def batch(self, place, stage):
        with SEEN.open("a") as log:
            log.write(f"step {stage.name} {stage.model.parameters['scale']}\\n")
        x = self.points[place.indices, None] * float(stage.model.parameters["scale"])
        return x, torch.sin(3 * x)

    def loss(self, network, batch, stage):
        x, y = batch
        return (network(x) - y).square().mean()

    def evaluate(self, network, share):
        x = self.points[share.rank :: share.world, None]
        return {"loss": (float((network(x) - torch.sin(3 * x)).square().sum()), float(len(x)))}


if __name__ == "__main__":
    train(Line)
"""


@pytest.fixture
def environ(tmp_path):
    """Return a function that makes a container's environment."""

    def make(order):
        return {
            "NASCALE_WORK_ORDER": order if isinstance(order, str) else order.to_json(),
            "NASCALE_TERMINATION_LOG": str(tmp_path / "termination-log"),
            "NASCALE_METRICS_PORT": "0",
            "NASCALE_BIND_ADDRESS": "127.0.0.1",
            "SEEN": str(tmp_path / "seen"),
        }

    return make


@pytest.fixture
def start(environ, start_python):
    """Return a function that starts a container's program; what still runs at the end is killed."""

    def run(command, order):
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        return start_python(command, {**inherited, **environ(order)})

    return run


def parse(tmp_path, *trials):
    return parse_report((tmp_path / "termination-log").read_text(), trials)


def of_scale(name, scale):
    return stage(name, model={"parameters": {"scale": scale}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "nascale.io/profile-order/v9"}, "version: must be 'nascale.io/profile-order/v1'"),
        ({"task": "Guess"}, "task"),
        ({"architecture": None}, "architecture: must be given for the built-in trainer"),
        ({"data": None}, "data: must be given for the built-in trainer"),
        ({"metrics": ["energy_joules"]}, "metrics: must be of"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_order_that_can_not_be_used_is_reported_for_each_trial(
    environ, tmp_path, make_architecture, change, message
):
    order = profile_order(
        candidate(0, stage("a")),
        candidate(1, stage("a")),
        architecture=make_architecture(),
        data={"name": "Digits"},
    )
    variables = environ(json.dumps({**json.loads(order.to_json()), **change}))
    assert profile_container.is_profile_order(variables)
    assert profile_container.main(stop=StopRequest(), environ=variables) == EXIT_UNUSABLE_ORDER
    for result in parse(tmp_path, "demo-0", "demo-1").results:
        assert (result.outcome, result.reason) == (Outcome.FAILED, "UnusableProfileOrder")
        assert message in result.message


def test_an_order_with_more_candidates_than_a_report_holds_can_not_be_used(environ, tmp_path):
    order = profile_order(*(candidate(number, stage("a")) for number in range(12)))
    code = profile_container.main(lambda *_: TinyTask(), stop=StopRequest(), environ=environ(order))
    assert code == EXIT_UNUSABLE_ORDER
    results = parse(tmp_path, *(f"demo-{number}" for number in range(12))).results
    assert len(results) == 12
    assert all("candidates: must be at most" in result.message for result in results)


def test_other_orders_are_not_taken_for_profile_orders(environ):
    for text in ("{", "[]", '{"version": 3}', '{"version": "nascale.io/work-order/v1"}'):
        assert not profile_container.is_profile_order(environ(text))
    assert not profile_container.is_profile_order({})


def test_a_request_to_stop_ends_without_a_report(environ, tmp_path):
    stop = StopRequest()
    stop.received = True
    order = profile_order(candidate(0, stage("a")))
    code = profile_container.main(lambda *_: TinyTask(), stop=stop, environ=environ(order))
    assert code == EXIT_TERMINATED == 143
    assert not (tmp_path / "termination-log").exists()


def test_the_report_answers_the_order(environ, tmp_path):
    order = profile_order(candidate(0, stage("a")), candidate(1, stage("b")), attempt=2)
    code = profile_container.main(lambda *_: TinyTask(), stop=StopRequest(), environ=environ(order))
    assert code == 0
    report = parse(tmp_path, "demo-0", "demo-1")
    assert report.attempt == 2
    assert [set(result.metrics) for result in report.results] == [OF_STEPS] * 2
    assert report.device.type == "cpu"


@pytest.mark.slow
def test_the_built_in_trainer_answers_a_profile_order(start, tmp_path, make_architecture):
    order = profile_order(
        candidate(0, stage("full"), guarded=True),
        candidate(1, stage("full", hardware={"memoryFormat": "ChannelsLast"}), guarded=True),
        architecture=make_architecture(),
        data={"name": "Digits"},
        metrics=[*STEPS, "loss_deviation_ratio"],
        reference=stage("safe"),
        referenceSteps=8,
        measurement=PATIENT,
    )
    process = start(["-m", "nascale_trainer"], order)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    first, second = parse(tmp_path, "demo-0", "demo-1").results
    assert first.metrics["loss_deviation_ratio"] == 0
    assert 0 <= second.metrics["loss_deviation_ratio"] < 0.1
    assert first.metrics["start_seconds"] == second.metrics["start_seconds"] > 0


@pytest.mark.slow
def test_a_script_of_ones_own_is_profiled_by_the_same_line_that_trains_it(start, tmp_path):
    """It has imported torch before ``train`` can tell it anything: it begins anew, as the same process."""
    (tmp_path / "train.py").write_text(SCRIPT)
    order = profile_order(
        candidate(0, of_scale("near", 0.5)),
        candidate(1, of_scale("far", 2)),
        parameters={"width": 16},
        measurement=PATIENT,
    )
    process = start([str(tmp_path / "train.py")], order)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    report = parse(tmp_path, "demo-0", "demo-1")
    assert [result.outcome for result in report.results] == [Outcome.SUCCEEDED] * 2
    assert {result.metrics["epoch_samples"] for result in report.results} == {64.0}
    lines = (tmp_path / "seen").read_text().splitlines()
    assert lines[:2] == [f"begun {process.pid} None", f"begun {process.pid} PASSIVE"]
    steps = lines[2:]
    near = steps.count("step near 0.5")
    assert steps == ["step near 0.5"] * near + ["step far 2"] * (len(steps) - near)
    assert near >= 24
    assert len(steps) >= near + 24


@pytest.mark.slow
def test_sigterm_ends_a_scripts_profile_soon_and_without_a_report(start, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    endless = {**QUICK, "minSeconds": 3600}
    order = profile_order(candidate(0, of_scale("near", 1)), parameters={"width": 4}, measurement=endless)
    process = start([str(tmp_path / "train.py")], order)
    deadline = time.monotonic() + 200
    while not (tmp_path / "seen").exists() or "step" not in (tmp_path / "seen").read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert not (tmp_path / "termination-log").exists()


def of_context(name, context, length=None):
    return stage(name, length, model={"globalBatch": 8, "parameters": {"context": context}})


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"candidates": (candidate(0, of_context("a", 16)), candidate(1, of_context("a", 64)))},
        {
            "candidates": (candidate(0, of_context("short", 16, "0.5dur"), of_context("long", 64)),),
            "task": "TrainSchedule",
            "length": "20ba",
            "metrics": ["accuracy", "loss", "training_seconds"],
        },
    ],
)
def test_the_example_of_ones_own_model_is_profiled_and_tried(start, tmp_path, asked):
    candidates, fields = asked["candidates"], {key: asked[key] for key in asked if key != "candidates"}
    order = profile_order(*candidates, parameters={"layers": 1, "width": 16}, measurement=PATIENT, **fields)
    process = start([str(CHARACTERS)], order)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    for result in parse(tmp_path, *(one.trial for one in order.candidates)).results:
        assert result.outcome is Outcome.SUCCEEDED, result.message
        assert set(order.metrics) <= set(result.metrics)


def test_the_example_in_the_documentation_is_an_order_that_can_be_used():
    page = (Path(__file__).parents[3] / "docs/contract.md").read_text()
    text = page.partition("## The profile order")[2].partition("```json\n")[2].partition("```")[0]
    order = profile_container.load_profile_order({"NASCALE_WORK_ORDER": text})
    assert order.candidates[0].guarded
    schema = json.loads((Path(__file__).parents[3] / "docs/contract/profile-order.schema.json").read_text())
    Draft202012Validator(schema).validate(json.loads(text))
    Draft202012Validator(schema).validate(json.loads(order.to_json()))
