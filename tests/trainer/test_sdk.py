"""The small public module: work order in, report out, no torch."""

import json
import math
import subprocess
import sys

import pytest

import nascale_trainer
from nascale.contract.errors import ContractError, UnknownVersionError
from nascale.contract.report import max_candidates, parse_report
from nascale_trainer import CandidateReport, DeviceReport, Outcome, load_work_order, report
from nascale_trainer.sdk import report_unusable_order

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "timm", "numpy", "sklearn", "safetensors"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
from nascale_trainer import load_work_order, report, Metrics
order = load_work_order()
with Metrics() as metrics:
    metrics.set(order.candidates[0].trial, "accuracy", 0.5)
    report(order, {order.candidates[0].trial: {"accuracy": 0.5}})
loaded = {"torch", "numpy", "timm"} & set(sys.modules)
assert not loaded, loaded
"""


def test_the_public_names_work_where_torch_can_not_be_imported(make_order, environ, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        env=environ(make_order()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = parse_report((tmp_path / "termination-log").read_text(), ["demo-0"])
    assert written.results[0].metrics == {"accuracy": 0.5}


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Measurements'"):
        nascale_trainer.Measurements  # noqa: B018  # the access is the test
    assert {"load_work_order", "report", "Metrics"} <= set(dir(nascale_trainer))


def test_the_order_is_read_from_a_file_where_the_environment_names_one(make_order, tmp_path):
    path = tmp_path / "order.json"
    path.write_text(json.dumps(make_order(trials=("a", "b"))))
    order = load_work_order({"NASCALE_WORK_ORDER_FILE": str(path)})
    assert [candidate.trial for candidate in order.candidates] == ["a", "b"]


def test_an_order_in_the_environment_goes_before_a_file(make_order, environ):
    order = load_work_order(environ(make_order(), NASCALE_WORK_ORDER_FILE="/nowhere"))
    assert order.candidates[0].trial == "demo-0"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "NASCALE_WORK_ORDER or NASCALE_WORK_ORDER_FILE must be set"),
        ({"NASCALE_WORK_ORDER_FILE": "/nowhere/order.json"}, "must be a readable file.*/nowhere/order.json"),
        ({"NASCALE_WORK_ORDER": "not json"}, "must be JSON"),
        ({"NASCALE_WORK_ORDER": "[1]"}, "must be a JSON object, not list"),
        ({"NASCALE_WORK_ORDER": '{"version": NaN}'}, "NaN is not a number"),
    ],
)
def test_an_order_that_is_absent_or_unreadable_is_named(variables, message):
    with pytest.raises(ContractError, match=message):
        load_work_order(variables)


def test_a_file_that_is_too_large_for_a_config_map_is_refused(tmp_path):
    path = tmp_path / "order.json"
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ContractError, match="must be at most 1048576 bytes"):
        load_work_order({"NASCALE_WORK_ORDER_FILE": str(path)})


def test_an_order_of_an_unknown_version_is_refused(make_order, environ):
    with pytest.raises(UnknownVersionError, match=r"version: must be 'nascale.io/work-order/v1', not 'v9'"):
        load_work_order(environ(make_order(version="v9")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": []}, "metrics"),
        ({"metrics": ["Accuracy"]}, "metrics.0.*pattern"),
        ({"target": {"batchSize": 0}}, "target.batchSize.*greater than or equal to 1, not '?0"),
        ({"surprise": 1}, "surprise"),
        ({"fidelity": {"epochs": -1}}, "fidelity.epochs.*greater than or equal to 0"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value(make_order, environ, fields, message):
    with pytest.raises(ContractError, match=message):
        load_work_order(environ(make_order(**fields)))


def test_one_trial_twice_is_refused(make_order, environ):
    with pytest.raises(ContractError, match="each trial must appear once"):
        load_work_order(environ(make_order(trials=("a", "a"))))


def test_more_candidates_than_a_report_can_hold_are_refused(make_order, environ):
    order = make_order(
        trials=[f"t-{number}" for number in range(16)], metrics=[f"{'m' * 40}_{n}" for n in range(16)]
    )
    with pytest.raises(ContractError, match=r"candidates: must be at most \d+ with 16 metrics, not 16"):
        load_work_order(environ(order))


def test_the_report_is_what_the_operator_reads(make_order, environ, tmp_path):
    variables = environ(make_order(trials=("a", "b"), attempt=2))
    order = load_work_order(variables)
    device = DeviceReport(type="cpu", name="Test", software="none")
    report(
        order,
        [
            CandidateReport(trial="a", outcome=Outcome.SUCCEEDED, metrics={"accuracy": 0.1 + 0.2}),
            CandidateReport(trial="b", outcome=Outcome.FAILED, reason="Broken", message="why"),
        ],
        device=device,
        environ=variables,
    )
    read = parse_report((tmp_path / "termination-log").read_text(), ["a", "b"])
    assert read.attempt == 2
    assert read.device == device
    assert read.results[0].metrics["accuracy"] == 0.1 + 0.2, "exact to the last bit"
    assert (read.results[1].outcome, read.results[1].reason) == (Outcome.FAILED, "Broken")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"other": {"accuracy": 1.0}}, r"must name trials of \['demo-0'\], each once, not \['other'\]"),
        ({}, "must name trials"),
        ({"demo-0": {"loss": 1.0}}, r"must hold \['accuracy'\], but \['accuracy'\] are missing"),
        ({"demo-0": {"accuracy": math.nan}}, "finite"),
        ({"demo-0": {"accuracy": math.inf}}, "finite"),
    ],
)
def test_a_report_that_the_operator_would_refuse_is_not_written(
    make_order, environ, tmp_path, results, message
):
    variables = environ(make_order())
    with pytest.raises(ContractError, match=message):
        report(load_work_order(variables), results, environ=variables)
    assert not (tmp_path / "termination-log").exists()


def test_a_failed_candidate_may_lack_the_metrics(make_order, environ, tmp_path):
    variables = environ(make_order())
    report(
        load_work_order(variables),
        [CandidateReport(trial="demo-0", outcome=Outcome.FAILED)],
        environ=variables,
    )
    assert (tmp_path / "termination-log").exists()


def test_a_full_report_keeps_the_metrics_that_were_asked_for(make_order, environ, tmp_path):
    asked = ["accuracy", "loss"]
    trials = [f"trial-{number:02d}-{'x' * 50}" for number in range(max_candidates(asked))]
    variables = environ(make_order(trials=trials, metrics=asked))
    extra = [f"extra_{'y' * 30}_{number}" for number in range(14)]
    metrics = dict.fromkeys([*asked, *extra], 0.123456789012345)
    results = [
        CandidateReport(trial=trial, outcome=Outcome.SUCCEEDED, metrics=metrics, message="m" * 1000)
        for trial in trials
    ]
    report(load_work_order(variables), results, environ=variables)
    text = (tmp_path / "termination-log").read_text()
    assert len(text.encode()) <= 4096
    read = parse_report(text, trials)
    assert len(read.results) == len(trials) > 1
    assert all(set(result.metrics) == {"accuracy", "loss"} for result in read.results)


def test_an_unusable_order_is_reported_for_every_trial_that_it_names(make_order, environ, tmp_path):
    order = make_order(trials=("a", "b"), version="v9", attempt=3)
    assert report_unusable_order(json.dumps(order), "version: must be v1", environ(order))
    read = parse_report((tmp_path / "termination-log").read_text(), ["a", "b"])
    assert read.attempt == 3
    assert {result.reason for result in read.results} == {"UnusableWorkOrder"}
    assert {result.message for result in read.results} == {"version: must be v1"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"candidates": 3}', '{"candidates": [{"trial": "UPPER"}]}']
)
def test_an_order_without_trials_leaves_no_report(environ, tmp_path, text):
    assert not report_unusable_order(text, "broken", environ(text))
    assert not (tmp_path / "termination-log").exists()
