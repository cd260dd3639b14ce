"""The trainer as a process: exit codes, reports, and what a kill or a request to stop leaves behind."""

import json
import os
import signal
import sys
import time

import pytest

from nascale.contract.report import Outcome, parse_report
from nascale.contract.work_order import parse_work_order
from nascale_trainer.exporter import Metrics
from nascale_trainer.trial import TrialRun

QUICK = {"minCalls": 20, "minSeconds": 0, "maxSpreadRatio": 10, "maxAttempts": 20}


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory):
    """Where processes cache bytecode when this one was told to write none: else each compiles torch anew."""
    if not sys.dont_write_bytecode:
        return {}
    return {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")), "PYTHONDONTWRITEBYTECODE": ""}


@pytest.fixture
def start(bytecode, start_python):
    """Return a function that starts the trainer; what still runs at the end is killed."""
    return lambda variables: start_python(["-m", "nascale_trainer"], {**os.environ, **bytecode, **variables})


@pytest.fixture
def long_order(make_order, make_architecture):
    document = make_order(
        data={"name": "Digits"}, fidelity={"epochs": 12, "dataFraction": 0.3}, measurement=QUICK
    )
    document["candidates"][0]["architecture"] = make_architecture()
    return document


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_trial_that_is_killed_and_started_again_ends_bitwise_as_if_it_never_was(
    start, long_order, environ, tmp_path
):
    with Metrics("127.0.0.1", 0) as metrics:
        order = parse_work_order(json.dumps(long_order))
        kept = {"NASCALE_CHECKPOINT_DIRECTORY": str(tmp_path / "unbroken"), "OMP_NUM_THREADS": "1"}
        (unbroken,) = TrialRun(order, metrics, lambda: False, kept).run()

    variables = environ(long_order, NASCALE_CHECKPOINT_DIRECTORY=str(tmp_path / "kept"), OMP_NUM_THREADS="1")
    first = start(variables)
    wait_for(tmp_path / "kept" / "demo-0" / "epoch-000003.json", first)
    first.send_signal(signal.SIGKILL)
    assert first.wait(timeout=30) == -signal.SIGKILL
    assert not (tmp_path / "termination-log").exists()

    second = start(variables)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "goes on after epoch" in errors
    (resumed,) = parse_report((tmp_path / "termination-log").read_text(), ["demo-0"]).results
    for name in ("accuracy", "loss"):
        assert resumed.metrics[name] == unbroken.metrics[name]
    weights = [tmp_path / kind / "demo-0" / "weights.safetensors" for kind in ("unbroken", "kept")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_sigterm_ends_a_training_soon_and_without_a_report(start, long_order, environ, tmp_path):
    long_order["fidelity"] = {"epochs": 10_000}
    process = start(environ(long_order, NASCALE_CHECKPOINT_DIRECTORY=str(tmp_path / "kept")))
    wait_for(tmp_path / "kept" / "demo-0" / "epoch-000001.json", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert not (tmp_path / "termination-log").exists()


@pytest.mark.parametrize(
    "fault",
    [
        ({"version": "nascale.io/work-order/v2"}, "version: must be 'nascale.io/work-order/v1'"),
        ({"fidelity": {"epochs": -1}}, "fidelity.epochs"),
        ({"metrics": ["energy_joules"]}, "metrics: must be of"),
        ({"data": None}, "data: must be given for task TrainAndMeasure"),
        ({"fidelity": None}, "fidelity: must be given"),
        ({"task": "Measure"}, r"for task Measure, not ['accuracy']"),
    ],
)
def test_an_order_that_can_not_be_used_is_reported_and_ends_with_2(
    start, long_order, environ, tmp_path, fault
):
    change, message = fault
    process = start(environ({**long_order, **change}))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert message in errors
    (result,) = parse_report((tmp_path / "termination-log").read_text(), ["demo-0"]).results
    assert (result.outcome, result.reason) == (Outcome.FAILED, "UnusableWorkOrder")
    assert message in result.message


def test_a_candidate_without_architecture_needs_a_container_of_the_users_own(start, long_order, environ):
    del long_order["candidates"][0]["architecture"]
    process = start(environ(long_order))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "demo-0: architecture: must be given for the built-in trainer" in errors


def test_without_an_order_there_is_nothing_to_report(start, environ, tmp_path):
    process = start(environ("", NASCALE_WORK_ORDER_FILE=str(tmp_path / "absent.json")))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "must be a readable file" in errors
    assert not (tmp_path / "termination-log").exists()
