"""Edits that are accepted, and where in a run they may arrive: at its begin, at a switch, before a kill."""

import pytest
from tests.trainer.progressive.tiny_task import Killed, Recorder, order, prepare, stage, stop_at, train

from nascale.contract.run_order import DesiredState
from nascale.contract.run_report import RunOutcome

A = stage("a", "32sp")
B = stage("b", "32sp", model={"dropout": 0.1})
C = stage("c", "32sp")


class Wishes:
    """Returns a desired state from a boundary on."""

    def __init__(self, at, **fields):
        self.at, self.asked = at, 0
        self.state = DesiredState.model_validate({"revision": 1, **fields})

    def __call__(self):
        self.asked += 1
        return self.state if self.asked > self.at else None


def run_with(tmp_path, at, stages=(A, B, C), **fields):
    return train(tmp_path / "run", order(*stages), desired=Wishes(at, **fields))


def ends(run):
    return [(each.name, each.end) for each in run.report.stages]


# The run makes four steps in each stage; at boundary 5 the stage b has made one.
ACCEPTED = {
    "a future setting": ([A, B, stage("c", "32sp", model={"dropout": 0.3})], [32, 64, 96]),
    "the present length": ([A, stage("b", "40sp", model={"dropout": 0.1}), stage("c", "24sp")], [32, 72, 96]),
    "a shorter present": ([A, stage("b", "16sp", model={"dropout": 0.1}), stage("c", "48sp")], [32, 48, 96]),
    "an end by a metric": (
        [A, {**B, "untilMetric": {"metric": "accuracy", "atLeast": 0}}, C],
        [32, 64, 96],
    ),
    "a new stage": ([A, B, stage("c", "16sp"), stage("d", "16sp")], [32, 64, 80, 96]),
    "a stage split and renamed": (
        [A, B, stage("c1", "16sp"), stage("c2", "16sp", model={"dropout": 0.5})],
        [32, 64, 80, 96],
    ),
    "a stage less": ([A, stage("b", "64sp", model={"dropout": 0.1})], [32, 96]),
    "a future name": ([A, B, stage("other", "32sp")], [32, 64, 96]),
    "nothing": ([A, B, C], [32, 64, 96]),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_edit_is_applied(tmp_path, case):
    stages, bounds = ACCEPTED[case]
    run = train(tmp_path / "run", order(A, B, C), desired=Wishes(5, stages=stages))
    assert [end for _, end in ends(run)] == bounds
    assert [name for name, _ in ends(run)] == [each["name"] for each in stages]
    assert (run.report.revision, run.report.refused) == (1, None)
    assert [number for part in run.task.numbers for number in part] == list(range(96))


def test_an_edit_of_a_stage_that_has_made_no_step_yet_is_free(tmp_path):
    changed = [stage("a", "16sp", model={"dropout": 0.2}), stage("b", "48sp"), C]
    run = train(tmp_path / "run", order(A, B, C), desired=Wishes(0, stages=changed))
    assert ends(run) == [("a", 16), ("b", 64), ("c", 96)]
    assert run.recorder.snapshots[-1].refused is None


def test_a_revision_that_the_order_includes_is_not_looked_at(tmp_path):
    run = train(tmp_path / "run", order(A, B, C, revision=1), desired=Wishes(0, paused=True))
    assert run.report.outcome is RunOutcome.COMPLETED


def test_an_applied_edit_outlives_a_kill(tmp_path):
    stages = [A, stage("b", "40sp", model={"dropout": 0.1}), stage("c", "24sp")]
    killed = prepare(
        tmp_path / "run", order(A, B, C), recorder=Recorder(kill_after=7), desired=Wishes(5, stages=stages)
    )
    with pytest.raises(Killed):
        killed.loop.run()
    run = train(tmp_path / "run", order(A, B, C))
    assert ends(run) == [("a", 32), ("b", 72), ("c", 96)]
    assert run.report.revision == 1


@pytest.mark.parametrize("name", ["a", "b"])
def test_advancing_to_a_stage_that_is_not_later_changes_nothing(tmp_path, name):
    run = run_with(tmp_path, 5, advanceTo=name)
    assert ends(run) == [("a", 32), ("b", 64), ("c", 96)]
    assert run.report.revision == 1


def test_a_pause_with_an_early_end_goes_on_with_the_later_stage(tmp_path):
    paused = run_with(tmp_path, 2, paused=True, advanceTo="c")
    assert paused.report.outcome is RunOutcome.PAUSED
    resumed = train(tmp_path / "run", order(A, B, C, generation=2, revision=2))
    assert ends(resumed) == [("a", 16), ("c", 96)]


def test_an_edit_that_arrives_with_a_switch_is_applied_at_the_same_boundary_before_it(tmp_path):
    # Boundary 4 is where stage a ends: the edit makes it longer just in time.
    run = train(
        tmp_path / "run",
        order(A, B, C),
        desired=Wishes(4, stages=[stage("a", "48sp"), stage("b", "16sp"), C]),
    )
    assert ends(run) == [("a", 48), ("b", 64), ("c", 96)]


def test_a_new_generations_order_may_edit_the_future_but_not_the_past(tmp_path):
    train(tmp_path / "run", order(A, B, C), stop=stop_at(5))
    changed = (stage("a", "32sp", model={"dropout": 0.3}), B, C)
    refused = train(tmp_path / "run", order(*changed, generation=2, revision=1))
    assert (refused.report.outcome, refused.report.reason) == (RunOutcome.REFUSED, "EditRefused")
    future = (A, B, stage("c", "32sp", model={"dropout": 0.3}))
    run = train(tmp_path / "run", order(*future, generation=2, revision=1))
    assert run.report.outcome is RunOutcome.COMPLETED
    assert run.trainee.network.dropout.p == 0.3
