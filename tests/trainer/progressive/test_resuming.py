"""Stopping and going on: bitwise as if it had never happened, wherever it happens."""

import json

import pytest
import torch
from tests.trainer.progressive.tiny_task import Killed, Recorder, order, prepare, stage, stop_at, train

from nascale.contract.run_report import RunOutcome
from nascale_trainer.progressive.run_end import EndKind

STAGES = (
    stage("small", "40sp", model={"dropout": 0.2, "augmentation": 0.3, "depth": 0.5, "resolution": 4}),
    stage(
        "large",
        model={"globalBatch": 16, "dropout": 0.4, "augmentation": 0.1, "momentum": 0.8},
        hardware={"accumulation": 2, "memoryFormat": "ChannelsLast"},
    ),
)
STEPS = 9
AVERAGED = {"name": "AdamW", "learningRate": 0.01, "baseBatch": 8, "averageDecay": 0.9, "gradientClip": 0.5}
SGD = {"name": "SGD", "learningRate": 0.05, "baseBatch": 8, "batchRule": "SquareRoot"}


def tensors(run):
    """Return everything that training changes."""
    trainee = run.trainee
    return {
        **{f"network.{name}": value for name, value in trainee.network.state_dict().items()},
        **{
            f"optimizer.{name}.{key}": value
            for name, values in trainee.optimization.state().items()
            for key, value in values.items()
        },
        **{
            f"average.{name}": value
            for name, value in (trainee.average.state() if trainee.average else {}).items()
        },
    }


def timeless(report):
    """Return a report without the times that it holds."""
    document = json.loads(report.to_json())
    for each in document["stages"]:
        for name in ("seconds", "p50", "p99", "phases"):
            each.pop(name, None)
    del document["device"]
    return document


def assert_same(run, reference):
    ours, theirs = tensors(run), tensors(reference)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def make(**fields):
    return order(*STAGES, **{"optimizer": AVERAGED, "evaluation": {"every": "24sp"}, **fields})


@pytest.fixture(scope="module", params=[AVERAGED, SGD], ids=["AdamW", "SGD"])
def unbroken(request, tmp_path_factory):
    run_order = make(optimizer=request.param)
    return run_order, train(tmp_path_factory.mktemp("unbroken") / "run", run_order)


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_a_run_that_is_stopped_and_goes_on_ends_bitwise_as_the_unbroken_one(tmp_path, unbroken, step):
    run_order, reference = unbroken
    stopped = train(tmp_path / "run", run_order, stop=stop_at(step))
    assert stopped.end.kind is EndKind.STOPPED
    assert stopped.end.told
    assert stopped.recorder.steps == step
    resumed = train(tmp_path / "run", run_order)
    assert resumed.recorder.steps == STEPS - step
    assert_same(resumed, reference)
    assert timeless(resumed.report) == timeless(reference.report)
    assert stopped.task.numbers + resumed.task.numbers == reference.task.numbers
    assert resumed.report.lost_steps == 0
    assert resumed.recorder.snapshots[-1].totals.repeated_samples == 0


def test_a_run_that_is_stopped_before_every_step_ends_bitwise_as_the_unbroken_one(tmp_path, unbroken):
    run_order, reference = unbroken
    numbers = []
    for _ in range(STEPS):
        stopped = train(tmp_path / "run", run_order, stop=stop_at(1))
        assert stopped.recorder.steps == 1
        numbers += stopped.task.numbers
    last = train(tmp_path / "run", run_order)
    assert_same(last, reference)
    assert timeless(last.report) == timeless(reference.report)
    assert numbers + last.task.numbers == reference.task.numbers


@pytest.mark.parametrize("kill_after", range(1, STEPS + 1))
def test_a_killed_run_repeats_what_came_after_its_last_checkpoint_and_counts_it(
    tmp_path, unbroken, kill_after
):
    run_order, reference = unbroken
    run_order = run_order.model_copy(
        update={"checkpoints": run_order.checkpoints.model_copy(update={"every_steps": 3})}
    )
    killed = prepare(tmp_path / "run", run_order, recorder=Recorder(kill_after=kill_after))
    with pytest.raises(Killed):
        killed.loop.run()
    resumed = train(tmp_path / "run", run_order)
    # The third step's checkpoint is made at the boundary after it, which a kill within that step prevents.
    saved = (kill_after - 1) // 3 * 3
    assert resumed.report.lost_steps == kill_after - saved
    assert resumed.recorder.steps == STEPS - saved
    assert resumed.recorder.snapshots[-1].totals.repeated_samples == 0
    assert_same(resumed, reference)


def test_a_stop_within_an_accumulation_cycle_waits_for_the_cycles_end(tmp_path, unbroken):
    run_order, reference = unbroken
    asked = []
    run = prepare(tmp_path / "run", run_order, stop=lambda: bool(asked))

    def ask(present):
        if present.name == "large" and len(run.task.numbers) == 5 + 1:  # the first of two micro-batches
            asked.append(True)

    run.task.before_loss = ask
    run.end = run.loop.run()
    assert run.end.kind is EndKind.STOPPED
    assert len(run.task.numbers) == 5 + 2
    resumed = train(tmp_path / "run", run_order)
    assert_same(resumed, reference)


def test_a_run_that_has_ended_reports_its_result_again(tmp_path, unbroken):
    run_order, _ = unbroken
    first = train(tmp_path / "run", run_order)
    again = train(tmp_path / "run", run_order.model_copy(update={"generation": 2}))
    assert again.recorder.steps == 0
    assert again.report.outcome is RunOutcome.COMPLETED
    assert again.report.generation == 2
    assert (again.report.metrics, again.report.digest) == (first.report.metrics, first.report.digest)


def test_the_order_of_samples_is_a_permutation_of_each_epoch(tmp_path):
    run = train(tmp_path / "run", order(stage("one"), length="3ep"))
    numbers = [number for part in run.task.numbers for number in part]
    assert numbers == list(range(96))
