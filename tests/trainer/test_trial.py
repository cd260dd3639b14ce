"""A candidate's course: measure first, break off as soon as a bound is broken, report whatever it came to."""

import json

import pytest
import torch

from nascale.contract.metric_names import BUILT_IN, LATENCY_P99, MEASURED_BEFORE_TRAINING, PEAK_MEMORY
from nascale.contract.report import Outcome
from nascale.contract.work_order import parse_work_order
from nascale_trainer import trial as trial_module
from nascale_trainer.exporter import Metrics
from nascale_trainer.outcomes import NoisyMeasurement, Stopped
from nascale_trainer.trial import TrialRun, broken_bounds

QUICK = {"minCalls": 20, "minSeconds": 0, "maxSpreadRatio": 10, "maxAttempts": 20}


@pytest.fixture
def metrics():
    with Metrics("127.0.0.1", 0) as served:
        yield served


@pytest.fixture
def make_run(make_order, make_architecture, metrics):
    """Return a function that prepares the run of an order; architectures may be given one per candidate."""

    def make(architectures=None, environ=None, stop=lambda: False, **fields):
        architectures = architectures or [make_architecture()]
        document = make_order(
            **{
                "trials": [f"demo-{number}" for number in range(len(architectures))],
                "data": {"name": "Digits"},
                "fidelity": {"epochs": 1, "dataFraction": 0.2},
                "measurement": QUICK,
                **fields,
            }
        )
        for candidate, architecture in zip(document["candidates"], architectures, strict=True):
            candidate.update(architecture=architecture, seed=candidate["index"])
        return TrialRun(
            parse_work_order(json.dumps(document)), metrics, stop, {"OMP_NUM_THREADS": "1", **(environ or {})}
        )

    return make


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("nothing may be trained here")

    monkeypatch.setattr(trial_module, "Training", refuse)


@pytest.fixture
def no_measurement(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("no latency may be measured here")

    monkeypatch.setattr(trial_module, "measure_network", refuse)


def test_a_candidate_is_measured_trained_and_evaluated(make_run, metrics):
    run = make_run()
    (result,) = run.run()
    assert (result.outcome, result.reason) == (Outcome.SUCCEEDED, None), result.message
    assert set(result.metrics) == BUILT_IN - {LATENCY_P99}
    assert 0 < result.metrics["accuracy"] <= 1
    assert result.metrics["latency_p50_seconds"] <= result.metrics["latency_p90_seconds"]
    assert result.device_seconds > result.metrics["training_seconds"] > 0
    assert "calls, medians within" in result.message
    assert run.device.type == "cpu"
    published = {
        sample.labels["metric"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "nascale_trial_metric"
    }
    assert published == result.metrics, "what Prometheus may read is what the report says"


def test_several_candidates_are_done_one_after_the_other(make_run, make_architecture):
    results = make_run([make_architecture(), make_architecture(resolution=12, channels=24)]).run()
    assert [result.trial for result in results] == ["demo-0", "demo-1"]
    assert {result.outcome for result in results} == {Outcome.SUCCEEDED}
    assert results[0].metrics["parameters"] < results[1].metrics["parameters"]


def test_one_candidates_end_does_not_end_the_others(make_run, make_architecture, monkeypatch):
    original = trial_module.count_flops

    def count(network, channels, resolution):
        if resolution == 9:
            raise ArithmeticError("a fault of this candidate")
        return original(network, channels, resolution)

    monkeypatch.setattr(trial_module, "count_flops", count)
    architectures = [make_architecture(9), make_architecture(8), make_architecture(resolution=8)]
    architectures[1]["stem"]["stride"] = 4
    architectures[1]["stages"][0]["stride"] = 2
    broken, too_small, good = make_run(architectures).run()
    assert (broken.outcome, broken.reason) == (Outcome.FAILED, "Error")
    assert broken.message == "ArithmeticError: a fault of this candidate"
    assert (too_small.outcome, too_small.reason) == (Outcome.INFEASIBLE, "ResolutionTooSmall")
    assert good.outcome is Outcome.SUCCEEDED


@pytest.mark.usefixtures("no_training")
def test_a_task_to_measure_trains_nothing(make_run):
    (result,) = make_run(
        task="Measure", data=None, fidelity=None, metrics=["latency_p50_seconds", "latency_p99_seconds"]
    ).run()
    assert result.outcome is Outcome.SUCCEEDED
    assert set(result.metrics) == MEASURED_BEFORE_TRAINING | {PEAK_MEMORY}


@pytest.mark.usefixtures("no_measurement", "no_training")
def test_too_many_parameters_cost_no_measurement(make_run):
    (result,) = make_run(constraints=[{"metric": "parameters", "atMost": 100}]).run()
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "ConstraintBroken")
    count = result.metrics["parameters"]
    assert result.message == f"parameters: must be at most 100, not {count:g}"
    assert set(result.metrics) == {"parameters", "flops"}


@pytest.mark.usefixtures("no_training")
def test_a_latency_above_its_bound_costs_no_training(make_run):
    (result,) = make_run(
        constraints=[
            {"metric": "latency_p50_seconds", "atMost": 1e-9},
            {"metric": "throughput_samples_per_second", "atLeast": 1e12},
        ]
    ).run()
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "ConstraintBroken")
    assert "latency_p50_seconds: must be at most 1e-09, not" in result.message
    assert "throughput_samples_per_second: must be at least 1e+12, not" in result.message
    assert "accuracy" not in result.metrics


def test_a_bound_that_shows_after_training_makes_it_infeasible_with_all_values(make_run):
    (result,) = make_run(constraints=[{"metric": "accuracy", "atLeast": 1.1}]).run()
    assert result.outcome is Outcome.INFEASIBLE
    assert result.message.startswith("accuracy: must be at least 1.1, not 0.")
    assert {"accuracy", "loss", "latency_p50_seconds"} <= set(result.metrics)


def test_a_bound_on_a_metric_of_another_source_is_the_operators(make_run):
    (result,) = make_run(constraints=[{"metric": "energy_joules", "atMost": 1}]).run()
    assert result.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("value", "at_most", "at_least", "broken"),
    [(1.0, 1.0, None, 0), (1.1, 1.0, None, 1), (1.0, None, 1.0, 0), (0.9, None, 1.0, 1), (2.0, 1.0, 3.0, 2)],
)
def test_a_value_equal_to_its_bound_keeps_it(value, at_most, at_least, broken):
    assert len(broken_bounds("loss", value, at_most, at_least)) == broken


@pytest.mark.usefixtures("no_training")
def test_a_precision_that_the_device_lacks_fails_by_name(make_run):
    (result,) = make_run(target={"precision": "TF32"}).run()
    assert (result.outcome, result.reason) == (Outcome.FAILED, "UnsupportedPrecision")
    assert "target.precision: must be one of" in result.message


@pytest.mark.usefixtures("no_training")
def test_a_measurement_that_is_too_noisy_fails_by_name(make_run, monkeypatch):
    def noisy(*_, **__):
        raise NoisyMeasurement("latency: the medians of three windows must differ by at most 0.1")

    monkeypatch.setattr(trial_module, "measure_network", noisy)
    (result,) = make_run().run()
    assert (result.outcome, result.reason) == (Outcome.FAILED, "NoisyMeasurement")


def test_data_that_are_not_there_fail_by_name(make_run, tmp_path):
    (result,) = make_run(data={"path": str(tmp_path / "absent"), "format": "IDX"}).run()
    assert (result.outcome, result.reason) == (Outcome.FAILED, "DataNotFound")
    assert str(tmp_path / "absent") in result.message


def test_a_training_that_diverges_is_stopped_early(make_run):
    """Another attempt with the same seed would diverge as well: it is no failure to be tried again."""
    (result,) = make_run(training={"learningRate": 100, "weightDecay": 10}, fidelity={"epochs": 40}).run()
    assert (result.outcome, result.reason) == (Outcome.EARLY_STOPPED, "Diverged")
    assert "learning rate 100" in result.message
    assert "latency_p50_seconds" in result.metrics


def test_a_network_that_does_not_fit_the_device_is_infeasible(make_run, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore lines")

    monkeypatch.setattr(trial_module, "measure_network", full)
    (result,) = make_run().run()
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "OutOfMemory")
    assert result.message == "CUDA out of memory."


def test_a_fidelitys_resolution_is_trained_at_and_latency_stays_that_of_the_architecture(make_run):
    (own,) = make_run().run()
    (reduced,) = make_run(fidelity={"epochs": 1, "dataFraction": 0.2, "resolution": 4}).run()
    assert own.metrics["flops"] == reduced.metrics["flops"]
    assert own.metrics["loss"] != reduced.metrics["loss"]


def test_a_fidelity_below_the_total_stride_is_infeasible(make_run, make_architecture):
    architecture = make_architecture(resolution=16)
    architecture["stem"]["stride"] = 4
    (result,) = make_run([architecture], fidelity={"epochs": 1, "resolution": 6}).run()
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "ResolutionTooSmall")
    assert "must be at least 8 pixels" in result.message


def test_a_request_to_stop_ends_without_a_result(make_run):
    with pytest.raises(Stopped):
        make_run(stop=lambda: True).run()


def test_a_finished_candidate_is_not_done_again(make_run, tmp_path, monkeypatch):
    environ = {"NASCALE_CHECKPOINT_DIRECTORY": str(tmp_path)}
    (first,) = make_run(environ=environ).run()
    assert {"weights.safetensors", "architecture.json", "result.json"} == {
        file.name for file in (tmp_path / "demo-0").iterdir()
    }
    monkeypatch.setattr(trial_module, "build_network", None)
    (second,) = make_run(environ=environ).run()
    assert second == first


def test_a_failed_candidate_is_done_again(make_run, tmp_path, monkeypatch):
    environ = {"NASCALE_CHECKPOINT_DIRECTORY": str(tmp_path)}

    def noisy(*_, **__):
        raise NoisyMeasurement("noisy")

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "measure_network", noisy)
        assert make_run(environ=environ).run()[0].outcome is Outcome.FAILED
    assert make_run(environ=environ).run()[0].outcome is Outcome.SUCCEEDED


def test_a_folder_that_can_not_be_made_costs_nothing_but_what_it_would_keep(make_run, tmp_path, caplog):
    (tmp_path / "file").touch()
    (result,) = make_run(environ={"NASCALE_CHECKPOINT_DIRECTORY": str(tmp_path / "file")}).run()
    assert result.outcome is Outcome.SUCCEEDED
    assert "nothing is kept" in caplog.text
