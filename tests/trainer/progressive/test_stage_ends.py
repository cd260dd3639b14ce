"""How stages and runs end: by bounds, metrics, plateaus; and what a run refuses before it begins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.trainer.progressive.tiny_task import CPU, TinyTask, order, stage, stop_at, train

from nascale.contract.run_order import StageOrder
from nascale.contract.run_report import RunOutcome
from nascale.contract.switch_class import SwitchClass
from nascale.contract.work_order import Precision
from nascale_trainer.progressive import capabilities, loop
from nascale_trainer.progressive.divergence import LossWatch
from nascale_trainer.progressive.evaluation import due, judge
from nascale_trainer.progressive.manifest import PlateauRecord
from nascale_trainer.progressive.proposals import Schedule
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_end import EndKind
from nascale_trainer.progressive.run_state import RunState

UNTIL_GOOD = {"untilMetric": {"metric": "accuracy", "atLeast": 0.9}}
UNTIL_FLAT = {"untilPlateau": {"metric": "accuracy", "goal": "Maximize", "evaluations": 2, "minChange": 0.1}}
EACH_STEP = {"evaluation": {"every": "8sp"}}


def scripted(values):
    task = TinyTask()
    left = iter(values)
    task.metric = lambda: next(left)
    return task


def ends(run):
    return [(each.name, each.begin, each.end) for each in run.report.stages]


def test_a_stage_ends_at_the_first_step_at_or_after_its_bound(tmp_path):
    run = train(tmp_path / "run", order(stage("a", "20sp"), stage("b", "20sp"), stage("c"), length="60sp"))
    assert ends(run) == [("a", 0, 24), ("b", 24, 40), ("c", 40, 64)]


def test_what_the_device_does_after_the_last_call_counts_for_the_stage(tmp_path, monkeypatch):
    """A GPU goes on when the host has sent a step: nothing else waits for a stage's last one."""
    now = [0.0]

    class Behind(LossWatch):
        def take(self):
            last = super().take()
            now[0] += 0.0 if last is None else 5.0
            return last

    monkeypatch.setattr(loop, "LossWatch", Behind)
    run_order = order(stage("a", "24sp"), stage("b"), evaluation={"every": "96sp"})
    run = train(tmp_path / "run", run_order, clock=lambda: now[0])
    assert [each.seconds for each in run.report.stages] == [5.0, 5.0]


def test_a_metric_ends_a_stage_early_and_later_bounds_stay(tmp_path):
    task = scripted([0.1, 0.95, *[0.5] * 20])
    run_order = order(stage("a", "48sp", until=UNTIL_GOOD), stage("b", "24sp"), stage("c"), **EACH_STEP)
    run = train(tmp_path / "run", run_order, task)
    assert ends(run) == [("a", 0, 16), ("b", 16, 72), ("c", 72, 96)]
    assert run.report.stages[0].metrics["accuracy"] == 0.95


def test_a_plateau_ends_a_stage(tmp_path):
    task = scripted([0.1, 0.3, 0.35, 0.36, *[0.9] * 20])
    run = train(tmp_path / "run", order(stage("a", "64sp", until=UNTIL_FLAT), stage("b"), **EACH_STEP), task)
    assert ends(run) == [("a", 0, 32), ("b", 32, 96)]


def test_a_metric_ends_the_run_where_the_stage_is_the_last_one(tmp_path):
    run_order = order(stage("a", "48sp"), stage("b", until=UNTIL_GOOD), **EACH_STEP)
    run = train(tmp_path / "run", run_order, scripted([0.95] * 20))
    assert ends(run) == [("a", 0, 48), ("b", 48, 56)]
    assert run.report.outcome is RunOutcome.COMPLETED


def test_a_plateau_goes_on_counting_after_a_restart(tmp_path):
    run_order = order(stage("a", "64sp", until=UNTIL_FLAT), stage("b"), **EACH_STEP)

    stopped = train(tmp_path / "run", run_order, scripted([0.3, 0.35]), stop=stop_at(2))
    assert stopped.end.kind is EndKind.STOPPED
    resumed = train(tmp_path / "run", run_order, scripted([0.36, *[0.9] * 20]))
    assert ends(resumed)[0] == ("a", 0, 24)


def test_a_stage_that_a_step_jumps_over_is_passed(tmp_path):
    run_order = order(
        stage("a", "8sp", model={"globalBatch": 32}), stage("b", "8sp"), stage("c"), length="64sp"
    )
    run = train(tmp_path / "run", run_order)
    assert ends(run) == [("a", 0, 32), ("c", 32, 64)]
    assert run.recorder.snapshots[-1].places == (0, 2)


@given(st.integers(1, 50), st.integers(0, 500), st.integers(1, 64))
def test_an_evaluation_is_due_once_for_each_multiple_passed(every, begin, step):
    cursors = range(begin, begin + 20 * step, step)
    seen = sum(due(every, one, one + step) for one in cursors)
    passed = {number // every for number in range(begin + 1, begin + 20 * step + 1) if number % every == 0}
    assert seen <= len(passed)
    assert (seen > 0) == (len(passed) > 0)


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4), st.floats(0, 0.5))
def test_a_plateau_ends_exactly_when_so_many_evaluations_gain_too_little(values, patience, change):
    document = stage(
        "a",
        until={"untilPlateau": {**UNTIL_FLAT["untilPlateau"], "evaluations": patience, "minChange": change}},
    )
    stated = StageOrder.model_validate(document)
    record, best, waited = PlateauRecord(), None, 0
    state = RunState.begin(Schedule.of("64sp", (stated.model_copy(update={"length": "64sp"}),), 64), 0)
    for count, value in enumerate(values, start=1):
        ended, record = judge(stated, {"accuracy": value}, record)
        if best is None or (value > best and value - best >= change):
            best, waited = value, 0
        else:
            waited += 1
        assert ended == (waited >= patience)
        state.plateau = record
        assert state.waited == (waited if count > 1 else None), "one evaluation says nothing of its course"
        if ended:
            return


@pytest.mark.parametrize(
    ("stages", "fields", "reason", "words"),
    [
        (
            [stage("a", "8sp"), stage("b", model={"globalBatch": 9}, hardware={"accumulation": 2})],
            {},
            "IndivisibleBatch",
            ["b", "9", "2"],
        ),
        ([stage("a", "8sp"), stage("b", model={"resolution": 8})], {}, "UnsupportedResolution", ["b", "8"]),
        ([stage("a", "8sp"), stage("b", "16sp")], {}, "InvalidSchedule", ["96", "24"]),
        ([stage("a", hardware={"workers": 2})], {}, "WrongWorkers", ["a", "workers"]),
        ([stage("a", hardware={"processesPerWorker": 2})], {}, "WrongWorkers", ["a", "processesPerWorker"]),
        ([stage("a", hardware={"workers": 2})], {"workers": 2}, "WrongWorkers", ["processes"]),
    ],
    ids=["batch", "task", "sum", "workers", "processes", "world"],
)
def test_what_can_not_be_carried_out_is_refused_before_the_first_step(
    tmp_path, stages, fields, reason, words
):
    run = train(tmp_path / "run", order(*stages, **fields))
    assert run.report.outcome is RunOutcome.REFUSED
    assert run.report.reason == reason
    assert all(word in run.report.message for word in words)
    assert run.task.numbers == []


def test_fp16_on_a_processor_without_it_is_refused_naming_the_stage(tmp_path, monkeypatch):

    monkeypatch.setattr(capabilities, "supported_precisions", lambda _: (Precision.FP32,))
    run = train(tmp_path / "run", order(stage("a", "8sp"), stage("half", hardware={"precision": "FP16"})))
    assert run.report.outcome is RunOutcome.REFUSED
    assert "half" in run.report.message
    assert run.task.numbers == []
    with pytest.raises(CannotTrain):
        capabilities.check_stage(order(stage("half", hardware={"precision": "FP16"})).stages[0], CPU)


def test_a_restart_switch_saves_and_the_next_process_begins_with_the_next_stage(tmp_path):
    run_order = order(stage("a", "40sp", model={"depth": 0.5}), stage("b", hardware={"threads": 1}))
    first = train(tmp_path / "run", run_order)
    assert first.end.kind is EndKind.RESTART
    assert first.task.grown == [("a", "b")]
    second = train(tmp_path / "run", run_order)
    assert second.task.grown == []
    assert second.report.outcome is RunOutcome.COMPLETED
    report = second.report.stages[1]
    assert report.switch is SwitchClass.RESTART
    assert {str(phase) for phase in report.phases} == {
        "save",
        "gap",
        "start",
        "restore",
        "apply",
        "firstStep",
    }
    numbers = [number for part in first.task.numbers + second.task.numbers for number in part]
    assert numbers == list(range(96))
    totals = second.recorder.snapshots[-1].totals
    assert (totals.lost_steps, totals.repeated_samples, totals.switches) == (0, 0, {"Restart": 1})


def test_a_reschedule_switch_ends_the_generation_and_the_next_one_goes_on(tmp_path):
    stages = (stage("a", "40sp"), stage("b", hardware={"resources": {"cpu": "2"}}))
    first = train(tmp_path / "run", order(*stages))
    assert first.report.outcome is RunOutcome.SWITCH
    assert first.report.stage == "b"
    second = train(tmp_path / "run", order(*stages, generation=2))
    assert second.report.outcome is RunOutcome.COMPLETED
    assert second.report.stages[1].switch is SwitchClass.RESCHEDULE
    assert second.report.lost_steps == 0


def test_a_stage_for_other_workers_ends_the_generation(tmp_path):
    run_order = order(stage("a", "40sp"), stage("b", hardware={"workers": 2}))
    assert train(tmp_path / "run", run_order).report.outcome is RunOutcome.SWITCH
    # Asked again, as after a report that was lost, it says the same and trains nothing.
    again = train(tmp_path / "run", run_order)
    assert (again.report.outcome, again.recorder.steps) == (RunOutcome.SWITCH, 0)
    # Fallen back: the operator's next order trains the stage with the workers there are.
    fallen = train(tmp_path / "run", order(stage("a", "40sp"), stage("b"), generation=2))
    assert fallen.report.outcome is RunOutcome.COMPLETED
    assert fallen.report.lost_steps == 0
