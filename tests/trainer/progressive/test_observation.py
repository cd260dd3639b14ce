"""What a run shows of itself while it trains: its last checkpoint, its bounds, and the time left."""

from __future__ import annotations

import time

import pytest
from tests.trainer.progressive.tiny_task import order, stage, train

from nascale.contract.run_report import RunOutcome

STAGES = (stage("a", "32sp"), stage("b", "32sp", model={"globalBatch": 16}), stage("c", "32sp"))


def test_a_later_stage_counts_with_the_speed_of_an_earlier_one_with_its_settings(tmp_path):
    run = train(tmp_path / "run", order(*STAGES))
    shown = [snapshot for snapshot in run.recorder.snapshots if snapshot.place == 1 and snapshot.throughput]
    assert shown
    for snapshot in shown:
        assert snapshot.ends == (32, 64, 96)
        present = max(64 - snapshot.samples, 0) / snapshot.throughput
        assert snapshot.remaining_seconds == pytest.approx(present + 32 * snapshot.history[0].p50 / 8)


def test_the_last_checkpoint_is_shown_also_by_a_process_that_has_made_none(tmp_path):
    paused = {"everySeconds": 86400, "everySteps": 3}
    calls = iter(range(100))
    before = time.time()
    first = train(tmp_path / "run", order(*STAGES, checkpoints=paused), stop=lambda: next(calls) >= 5)
    assert first.end.told
    steps = [snapshot.checkpoint_step for snapshot in first.recorder.snapshots]
    assert steps[0] is None
    assert [step for step in steps if step is not None] == sorted(step for step in steps if step is not None)
    between = time.time()
    second = train(tmp_path / "run", order(*STAGES, checkpoints=paused))
    assert second.report.outcome is RunOutcome.COMPLETED
    begun = second.recorder.snapshots[0]
    assert (begun.checkpoint_step, begun.checkpoint_samples) == (begun.step, begun.samples) == (5, 48)
    assert before < begun.checkpoint_timestamp < between
    last = second.recorder.snapshots[-1]
    assert (last.checkpoint_step, last.checkpoint_samples) == (last.step, 96)
