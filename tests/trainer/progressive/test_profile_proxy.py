"""Schedules that are tried: the loop's own run, in a folder that is gone afterwards, shown as a trial."""

import math
import tempfile

import pytest
import torch
from tests.trainer.progressive.profile_orders import ALONE, candidate, profile_order
from tests.trainer.progressive.tiny_task import CPU, SAMPLES, TinyTask, order, stage, train

from nascale.contract.report import Outcome
from nascale.contract.run_report import RunOutcome, RunReport, StageReport, SwitchPhase
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.device import supported_precisions
from nascale_trainer.outcomes import Stopped
from nascale_trainer.progressive.profiling import profile
from nascale_trainer.progressive.proxy import training_seconds

FAST = "BF16" if "BF16" in supported_precisions(CPU) else "FP32"
METRICS = ["accuracy", "loss", "training_seconds"]
OPTIMIZER = {"baseBatch": 8, "learningRate": 0.01}


class Recorder:
    """Stands for the exporter of trials."""

    def __init__(self):
        self.values, self.ratios, self.losses, self.steps = {}, [], [], 0

    def set(self, trial, name, value):
        self.values[trial, name] = value

    def progress(self, _trial, ratio):
        self.ratios.append(ratio)

    def training_loss(self, _trial, nats):
        self.losses.append(nats)

    def step(self, _trial, seconds):
        assert seconds >= 0
        self.steps += 1


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where proxies have their folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def trying(*stages, length="96sp", number=0, seed=3, **fields):
    return profile_order(
        candidate(number, *stages, seed=seed),
        task="TrainSchedule",
        length=length,
        metrics=METRICS,
        **fields,
    )


def tries(task, profiled, **options):
    (result,) = profile(profiled, lambda _order, _device: task, device=CPU, environ=ALONE, **options).results
    return result


GROWING = (
    stage("small", "0.5dur", model={"resolution": 4, "depth": 0.5}, hardware={"precision": FAST}),
    stage("full"),
)


def test_a_schedule_is_trained_as_the_loop_trains_it(tmp_path, temporary):
    looped, tried = TinyTask(), TinyTask()
    run = train(tmp_path / "run", order(*GROWING), looped)
    recorder = Recorder()
    result = tries(tried, trying(*GROWING), observer=recorder)
    assert result.outcome is Outcome.SUCCEEDED, result.message
    assert tried.numbers == looped.numbers
    for one, other in zip(looped.batches, tried.batches, strict=True):
        assert torch.equal(one[2], other[2])
    assert {name: result.metrics[name] for name in ("accuracy", "loss")} == run.report.metrics
    assert result.metrics["epoch_samples"] == SAMPLES
    assert result.metrics["training_samples_per_second"] == pytest.approx(
        96 / result.metrics["training_seconds"]
    )
    assert list(temporary.iterdir()) == []
    assert recorder.steps == 12
    assert recorder.ratios == sorted(recorder.ratios)
    assert (recorder.ratios[0], recorder.ratios[-1]) == (0.0, 1.0)
    assert recorder.losses
    assert recorder.values["demo-0", "accuracy"] == result.metrics["accuracy"]


def test_nothing_is_kept_between_switches(monkeypatch):
    from nascale_trainer.progressive.run_checkpoint import Checkpoints  # noqa: PLC0415  # only looked at here

    saved = []
    real = Checkpoints.save

    def save(self, manifest, state):
        saved.append(manifest.step)
        return real(self, manifest, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    tries(TinyTask(), trying(*GROWING))
    assert saved == [12], "the run's end alone"


def test_seconds_are_those_of_steps_and_switches():
    report = RunReport(
        generation=1,
        outcome=RunOutcome.COMPLETED,
        stages=(
            StageReport(name="a", begin=0, steps=3, seconds=3.0, switch=SwitchClass.NONE),
            StageReport(
                name="b",
                begin=24,
                steps=3,
                seconds=6.0,
                switch=SwitchClass.RECOMPILE,
                phases={SwitchPhase.APPLY: 0.5, SwitchPhase.FIRST_STEP: 2.0},
            ),
        ),
    )
    assert training_seconds(report) == pytest.approx(9.5), "the first step is one of the steps"


def test_a_stage_that_needs_a_new_process_goes_on_in_this_one(temporary, monkeypatch):
    threads = []
    task = TinyTask()
    task.before_loss = lambda the_stage: threads.append((the_stage.name, torch.get_num_threads()))
    # The check asks the kernel, which may give this test one processor.
    monkeypatch.setattr("nascale_trainer.progressive.capabilities.available_threads", lambda **_: 8)
    stages = (
        stage("one", "0.5dur", hardware={"threads": 1}),
        stage("two", hardware={"threads": 2}),
    )
    before = torch.get_num_threads()
    result = tries(task, trying(*stages))
    assert result.outcome is Outcome.SUCCEEDED, result.message
    assert threads == [("one", 1)] * 6 + [("two", 2)] * 6
    assert [number for numbers in task.numbers for number in numbers] == list(range(96))
    assert torch.get_num_threads() == before
    assert list(temporary.iterdir()) == []


def test_resources_have_no_meaning_in_a_proxy_and_cost_no_pod():
    stages = (stage("a", "0.5dur", hardware={"resources": {"cpu": "1"}}), stage("b"))
    result = tries(TinyTask(), trying(*stages))
    assert result.outcome is Outcome.SUCCEEDED, result.message


@pytest.mark.parametrize(
    ("stages", "reason", "names"),
    [
        ((stage("a", "0.5dur"), stage("b", hardware={"workers": 2})), "WrongWorkers", "stage b: workers"),
        ((stage("a", "0.5dur"), stage("b", model={"resolution": 7})), "UnsupportedResolution", "stage b"),
        ((stage("a", "0.6dur"), stage("b", "0.6dur")), "InvalidSchedule", "stages"),
    ],
)
def test_a_schedule_that_can_not_be_trained_here_is_infeasible_by_name(stages, reason, names, temporary):
    task = TinyTask()
    result = tries(task, trying(*stages))
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, reason)
    assert names in result.message
    assert task.batches == []
    assert list(temporary.iterdir()) == []


def test_a_request_to_stop_is_honoured_at_a_step_boundary_and_leaves_nothing(temporary):
    task = TinyTask()
    with pytest.raises(Stopped):
        tries(task, trying(*GROWING), stop=lambda: len(task.batches) >= 4)
    assert len(task.batches) == 4
    assert list(temporary.iterdir()) == []


def test_a_loss_that_is_no_number_ends_the_trial_early(temporary):
    task = TinyTask()
    task.before_loss = lambda the_stage: math.nan if the_stage.name == "full" else None
    result = tries(task, trying(*GROWING))
    assert (result.outcome, result.reason) == (Outcome.EARLY_STOPPED, "Diverged")
    assert list(temporary.iterdir()) == []


def test_memory_that_runs_out_names_the_stage_that_was_trained(temporary):
    def run_out(the_stage):
        if the_stage.name == "full":
            raise torch.OutOfMemoryError("CUDA out of memory")

    task = TinyTask()
    task.before_loss = run_out
    result = tries(task, trying(*GROWING))
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "OutOfMemory")
    assert "stage full: globalBatch" in result.message
    assert list(temporary.iterdir()) == []


def test_a_metric_that_the_evaluation_lacks_is_named():
    order = trying(stage("only")).model_copy(update={"metrics": ("perplexity",)})
    result = tries(TinyTask(), order)
    assert (result.outcome, result.reason) == (Outcome.FAILED, "MissingMetric")
    assert "perplexity" in result.message


def test_seeds_are_the_candidates_own():
    first, second = TinyTask(), TinyTask()
    tries(first, trying(stage("only"), seed=1))
    tries(second, trying(stage("only"), seed=2))
    assert not torch.equal(first.batches[0][2], second.batches[0][2])


def test_digits_learn_in_a_schedule_that_is_tried(make_architecture, temporary):
    stages = (
        stage("small", "0.5dur", model={"globalBatch": 32, "resolution": 4}, hardware={"precision": FAST}),
        stage("full", model={"globalBatch": 32}),
    )
    profiled = trying(
        *stages,
        length="6ep",
        architecture=make_architecture(),
        data={"name": "Digits"},
        optimizer={"learningRate": 0.01, "baseBatch": 32},
        evaluation={"every": "6ep"},
    )
    (result,) = profile(profiled, device=CPU, environ=ALONE).results
    assert result.outcome is Outcome.SUCCEEDED, result.message
    assert result.metrics["accuracy"] > 0.7
    assert list(temporary.iterdir()) == []
