"""Losses that are not finite: what returns to a checkpoint leave behind, in this process and in the next."""

import math

import pytest
import torch
from tests.trainer.progressive.tiny_task import Killed, Recorder, TinyTask, order, prepare, stage, train

from nascale.contract.run_report import RunOutcome
from nascale.contract.work_order import Precision

pytestmark = pytest.mark.usefixtures("emulated_bf16")

RISKY = {"hardware": {"precision": "BF16", "matmulPrecision": "Medium"}}
EVERY_STEP = {"everySeconds": 86400, "everySteps": 1}
EVERY_THREE = {"everySeconds": 86400, "everySteps": 3}


def breaking(when, value=math.nan):
    """Return a task whose loss is not finite where a condition on stage and forward pass holds."""
    task = TinyTask()
    task.before_loss = lambda present: value if when(present, len(task.numbers)) else None
    return task


def make(**fields):
    return order(
        stage("a", "32sp"),
        stage("b", "32sp", **RISKY),
        stage("c", **RISKY),
        checkpoints=EVERY_THREE,
        **fields,
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_goes_back_and_trains_the_stage_safely_to_its_end(tmp_path, value):
    seen = []

    def breaks(present, number):
        seen.append((present.name, present.hardware.precision))
        return present.hardware.precision is Precision.BF16 and number == 7

    run = train(tmp_path / "run", make(), breaking(breaks, value))
    assert run.report.outcome is RunOutcome.COMPLETED
    assert run.report.roll_backs == 1
    totals = run.recorder.snapshots[-1].totals
    assert (totals.non_finite, totals.roll_backs, totals.lost_steps, totals.repeated_samples) == (1, 1, 0, 0)
    recovered = [
        shown.step > shown.totals.diverged_at
        for shown in run.recorder.snapshots
        if shown.totals.diverged_at is not None
    ]
    assert recovered == sorted(recovered), "it goes back once, and past that step once"
    assert {False, True} == set(recovered)
    safe = [name for name, precision in seen[8:] if precision is Precision.FP32]
    assert set(safe) == {"b"}
    assert ("c", Precision.BF16) in seen
    assert all(torch.isfinite(value).all() for value in run.trainee.network.state_dict().values())
    assert run.report.samples == 96


def test_returns_and_safe_settings_outlive_the_process(tmp_path):
    task = breaking(lambda present, number: present.name == "b" and number == 6)
    killed = prepare(tmp_path / "run", make(), task, recorder=Recorder(kill_after=9))
    with pytest.raises(Killed):
        killed.loop.run()
    seen = []
    again = breaking(lambda present, _: seen.append((present.name, present.hardware.precision)))
    run = train(tmp_path / "run", make(), again)
    assert run.report.roll_backs == 1
    assert ("b", Precision.FP32) in seen
    assert ("b", Precision.BF16) not in seen
    assert ("c", Precision.BF16) in seen


def test_a_run_without_a_checkpoint_goes_back_to_its_beginning(tmp_path):
    run_order = order(stage("one", **RISKY))
    run = train(tmp_path / "run", run_order, breaking(lambda _, number: number == 2))
    reference = train(tmp_path / "reference", order(stage("one")))
    assert run.report.roll_backs == 1
    for name, value in reference.trainee.network.state_dict().items():
        assert torch.equal(value, run.trainee.network.state_dict()[name]), name


def test_it_ends_after_so_many_returns_naming_stage_and_step(tmp_path):
    run_order = order(stage("only"), divergence={"mostRollBacks": 2}, checkpoints=EVERY_STEP)
    run = train(tmp_path / "run", run_order, breaking(lambda *_: True))
    assert (run.report.outcome, run.report.reason) == (RunOutcome.FAILED, "Diverged")
    assert "stage only: loss must be finite" in run.report.message
    assert run.report.roll_backs == 2


def test_it_stops_at_once_where_that_is_wanted(tmp_path):
    run_order = order(stage("only"), divergence={"action": "Stop"})
    run = train(tmp_path / "run", run_order, breaking(lambda *_: True))
    assert (run.report.outcome, run.report.reason) == (RunOutcome.FAILED, "Diverged")
    assert run.report.roll_backs == 0


def test_no_checkpoint_ever_holds_what_is_not_finite(tmp_path):
    folder = tmp_path / "run"
    run = train(
        folder,
        order(stage("only"), divergence={"action": "Stop"}, checkpoints=EVERY_STEP),
        breaking(lambda _, number: number == 6),
    )
    assert run.report.reason == "Diverged"
    kept = list((folder / "checkpoints").glob("step-*"))
    assert len(kept) == 2
    for checkpoint in kept:
        state = torch.load(checkpoint / "state.pt", weights_only=True)
        assert all(torch.isfinite(value).all() for value in state["network"].values())
