"""What arrives while a run trains: refused edits, pauses, moves to a later stage; each is looked at once."""

from __future__ import annotations

import pytest
from tests.trainer.progressive.tiny_task import order, stage, train

from nascale.contract.run_order import DesiredState
from nascale.contract.run_report import RunOutcome

STAGES = (stage("a", "32sp"), stage("b", "32sp"), stage("c", "32sp"))


def arriving(after: int, *states: dict):
    """Return a source that shows the states in order, from a boundary on, each for two boundaries."""
    calls = iter(range(10**9))

    def newest():
        place = (next(calls) - after) // 2
        if place < 0:
            return None
        return DesiredState.model_validate(states[min(place, len(states) - 1)])

    return newest


def edited(*changed: dict) -> dict:
    return {"revision": 1, "stages": list(changed)}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (edited(stage("a", "32sp", model={"dropout": 0.1}), *STAGES[1:]), "EditRefused"),
        (edited(STAGES[0], stage("b", "32sp", model={"dropout": 0.1}), STAGES[2]), "EditRefused"),
        (edited(*STAGES[:2], stage("c", "64sp")), "EditRefused"),
        (edited(*STAGES[:2], stage("c", "16sp")), "EditRefused"),
        (edited(STAGES[0]), "EditRefused"),
        (edited(STAGES[1], STAGES[0], STAGES[2]), "EditRefused"),
        (edited(*STAGES[:2], stage("b", "32sp")), "EditRefused"),
        (edited(STAGES[0], stage("b", "8sp"), stage("c", "56sp")), "EditRefused"),
        (edited(*STAGES[:2], stage("c", "32sp", model={"resolution": 64})), "UnsupportedResolution"),
        (edited(*STAGES[:2], stage("c", "32sp", hardware={"accumulation": 3})), "IndivisibleBatch"),
        ({"revision": 1, "advanceTo": "z"}, "UnknownStage"),
    ],
    ids=[
        "ended", "begun", "longer", "shorter", "removed", "moved", "twice", "bound-passed", "resolution",
        "batch", "unknown",
    ],
)  # fmt: skip
def test_what_can_not_change_is_refused_and_nothing_else_does(tmp_path, state, reason):
    reference = train(tmp_path / "reference", order(*STAGES))
    run = train(tmp_path / "run", order(*STAGES), desired=arriving(6, state))  # two steps into b
    assert run.report.outcome is RunOutcome.COMPLETED
    assert (run.report.refused, run.report.refused_reason) == (1, reason)
    assert run.report.revision == 0
    assert run.recorder.snapshots[-1].refused == (1, reason)
    assert run.task.numbers == reference.task.numbers
    assert [entry.end for entry in run.report.stages] == [32, 64, 96]


def test_a_future_stage_changes_and_the_edit_is_applied_once(tmp_path):
    state = edited(*STAGES[:2], stage("c", "32sp", model={"dropout": 0.25}))
    run = train(tmp_path / "run", order(*STAGES), desired=arriving(6, state))
    assert run.report.revision == 1
    assert run.report.refused is None
    assert run.trainee.stage.model.dropout == 0.25
    changes = [snapshot.revision for snapshot in run.recorder.snapshots]
    assert changes == sorted(changes)
    assert run.report.samples == 96


def test_an_older_revision_after_a_newer_one_changes_nothing(tmp_path):
    newer = {**edited(*STAGES[:2], stage("c", "32sp", model={"dropout": 0.25})), "revision": 2}
    older = edited(*STAGES[:2], stage("c", "32sp", model={"dropout": 0.75}))
    run = train(tmp_path / "run", order(*STAGES), desired=arriving(5, newer, older))
    assert run.report.revision == 2
    assert run.trainee.stage.model.dropout == 0.25


def test_a_move_to_a_later_stage_keeps_every_bound_and_the_whole(tmp_path):
    run = train(tmp_path / "run", order(*STAGES), desired=arriving(2, {"revision": 1, "advanceTo": "c"}))
    assert [entry.name for entry in run.report.stages] == ["a", "c"]
    assert run.report.samples == 96
    assert run.report.stages[0].end == run.report.stages[1].begin == 16


def test_a_pause_saves_and_the_next_generation_goes_on_at_the_same_step(tmp_path):
    reference = train(tmp_path / "reference", order(*STAGES))
    paused = train(tmp_path / "run", order(*STAGES), desired=arriving(6, {"revision": 1, "paused": True}))
    assert paused.report.outcome is RunOutcome.PAUSED
    assert (paused.report.step, paused.report.stage) == (6, "b")
    resumed = train(tmp_path / "run", order(*STAGES, generation=2, revision=2))
    assert resumed.report.outcome is RunOutcome.COMPLETED
    assert paused.task.numbers + resumed.task.numbers == reference.task.numbers
    assert resumed.report.lost_steps == 0


def test_a_pause_whose_report_was_lost_is_told_again_and_nothing_is_trained(tmp_path):
    desired = arriving(6, {"revision": 1, "paused": True})
    train(tmp_path / "run", order(*STAGES), desired=desired)
    again = train(tmp_path / "run", order(*STAGES), desired=desired)
    assert (again.report.outcome, again.report.step) == (RunOutcome.PAUSED, 6)
    assert again.task.numbers == []
    resumed = train(tmp_path / "run", order(*STAGES, generation=2, revision=2))
    assert resumed.report.outcome is RunOutcome.COMPLETED
    # Its own checkpoints are those of a run that trains.
    assert train(tmp_path / "run", order(*STAGES, generation=2, revision=2)).report.step == 12


def test_an_edit_survives_the_process_that_applied_it(tmp_path):
    state = edited(*STAGES[:2], stage("c", "32sp", model={"dropout": 0.25}))
    calls = iter(range(10**9))
    first = train(tmp_path / "run", order(*STAGES), desired=arriving(5, state), stop=lambda: next(calls) >= 8)
    assert first.end.told
    second = train(tmp_path / "run", order(*STAGES))
    assert second.report.revision == 1
    assert second.trainee.stage.model.dropout == 0.25
