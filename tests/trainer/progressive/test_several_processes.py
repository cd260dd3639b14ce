"""Whole trainings of several processes: nothing is lost, nothing repeated, and all do the same."""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.progressive.pods import Pods, pods_context
from tests.trainer.progressive.tiny_task import order, stage

from nascale.contract.run_order import DesiredState, RunOrder
from nascale.contract.run_report import RunOutcome

pytestmark = pytest.mark.slow
WHOLE = 96
BATCH = 12
_MODEL = {"globalBatch": BATCH}


@pytest.fixture(scope="module")
def context() -> Any:
    return pods_context()


@pytest.fixture
def pods(context: Any, tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path, context)
    yield made
    made.close()


def one_stage(workers: int, **fields: Any) -> RunOrder:
    hardware = {"workers": workers, **fields.pop("hardware", {})}
    model = {**_MODEL, **fields.pop("model", {})}
    return order(stage("only", model=model, hardware=hardware), workers=workers, **fields)


def numbers(pods: Pods) -> list[int]:
    return [number for line in pods.trained() for number in line[3]]


def by_number(pods: Pods) -> dict[int, int]:
    return {number: index for line in pods.trained() for number, index in zip(line[3], line[4], strict=True)}


@pytest.mark.parametrize("parallelism", ["DDP", "FSDP"])
def test_workers_1_2_3_1_train_the_unbroken_list(
    context: Any, tmp_path_factory: pytest.TempPathFactory, parallelism: str
) -> None:
    unbroken = Pods(tmp_path_factory.mktemp("unbroken"), context)
    unbroken.generation(one_stage(1))
    pods = Pods(tmp_path_factory.mktemp("run"), context)
    counts = (1, 2, 3, 1)
    stages = [
        stage(
            f"with-{place}-{workers}",
            None if place == len(counts) - 1 else "24sp",
            model={**_MODEL, "depth": 0.5 if place == 0 else 1},
            hardware={"workers": workers, "parallelism": parallelism},
        )
        for place, workers in enumerate(counts)
    ]
    for generation, workers in enumerate(counts, 1):
        reports = pods.generation(
            order(*stages, workers=workers, generation=generation, optimizer={"averageDecay": 0.9})
        )
        last = generation == len(counts)
        expected = RunOutcome.COMPLETED if last else RunOutcome.SWITCH
        assert [report.outcome for report in reports.values()] == [expected] * workers, reports
        assert reports[0].samples == 24 * generation
        assert all(report.stages == () for index, report in reports.items() if index)
    assert sorted(numbers(pods)) == sorted(numbers(unbroken)) == list(range(WHOLE))
    assert by_number(pods) == by_number(unbroken)
    assert reports[0].step == WHOLE // BATCH
    assert pods.incidents().lost_steps == pods.incidents().repeated_samples == 0
    assert (pods.folder / "run" / "model.safetensors").exists()


def test_two_processes_make_the_steps_and_samples_of_one(
    pods: Pods, context: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone = Pods(tmp_path_factory.mktemp("alone"), context)
    one = alone.generation(one_stage(1, hardware={"accumulation": 2}))[0]
    two = pods.generation(one_stage(2, hardware={"communicationHook": "BF16"}))[0]
    assert (one.step, one.samples) == (two.step, two.samples) == (WHOLE // BATCH, WHOLE)
    assert by_number(alone) == by_number(pods)
    assert two.metrics["accuracy"] == pytest.approx(one.metrics["accuracy"], abs=0.5)


def test_gradients_that_are_too_large_for_their_hook_lead_back_and_are_sent_as_they_are(pods: Pods) -> None:
    """AdamW does not mind so large a loss; FP16 has no numbers of that size."""
    large = {**_MODEL, "parameters": {"scale": 1e8}}
    stages = [
        stage("a", "24sp", model=large, hardware={"workers": 2}),
        stage("b", "36sp", model=large, hardware={"workers": 2, "communicationHook": "FP16"}),
        stage("c", model=large, hardware={"workers": 2}),
    ]
    wanted = order(
        *stages,
        workers=2,
        checkpoints={"everySeconds": 86400, "everySteps": 1},
        divergence={"mostRollBacks": 1},
    )
    reports = pods.generation(wanted)
    assert [report.outcome for report in reports.values()] == [RunOutcome.COMPLETED] * 2, reports
    report, incidents = reports[0], pods.incidents()
    assert (report.samples, report.step, report.roll_backs) == (WHOLE, WHOLE // BATCH, 1)
    assert (incidents.non_finite, incidents.roll_backs, incidents.lost_steps) == (1, 1, 0)
    assert all(math.isfinite(value) for value in report.metrics.values())
    again = Counter(number for line in pods.trained() for number in line[3])
    repeated = {number for number, count in again.items() if count > 1}
    assert set(again) == set(range(WHOLE))
    assert repeated
    assert repeated <= set(range(24, 60)), "stage b alone goes back"


def test_a_restart_goes_on_with_the_other_parallelism(pods: Pods) -> None:
    kinds = ("DDP", "FSDP", "DDP")
    stages = [
        stage(
            f"s{place}",
            None if place == 2 else "36sp",
            model=_MODEL,
            hardware={"workers": 2, "parallelism": k},
        )
        for place, k in enumerate(kinds)
    ]
    reports = pods.generation(order(*stages, workers=2))
    assert [code for _, code in pods.codes] == [85, 85, 85, 85, 0, 0]
    assert reports[0].outcome is RunOutcome.COMPLETED
    assert sorted(numbers(pods)) == list(range(WHOLE))
    assert [found.switch.value for found in reports[0].stages] == ["None", "Restart", "Restart"]


def test_a_switch_that_was_saved_is_reported_after_a_kill_too(pods: Pods) -> None:
    stages = [
        stage("alone", "48sp", model=_MODEL, hardware={"workers": 1}),
        stage("two", model=_MODEL, hardware={"workers": 2}),
    ]
    before = pods.generation(order(*stages))
    (pods.folder / "run" / "ended" / "g1.json").unlink()  # as if killed right after the checkpoint
    again = pods.generation(order(*stages))
    assert again[0].outcome is before[0].outcome is RunOutcome.SWITCH
    assert (again[0].step, again[0].samples, again[0].stage) == (4, 48, "two")
    assert pods.generation(order(*stages, generation=2, workers=2))[0].outcome is RunOutcome.COMPLETED
    assert sorted(numbers(pods)) == list(range(WHOLE))


def points(seed: int) -> tuple[int, int]:
    """Draw who is killed, and at which call of the trainer's functions: in start, steps, saves, end."""
    drawn = random.Random(seed)
    return drawn.randrange(2), int(10 ** drawn.uniform(0.5, 4.1))


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_loses_at_most_what_no_checkpoint_holds(pods: Pods, seed: int) -> None:
    index, at = points(seed)
    every = 2
    wanted = one_stage(2, checkpoints={"everySeconds": 86400, "everySteps": every})
    reports = pods.generation(wanted, kill={index: at})
    assert reports[0].outcome is RunOutcome.COMPLETED
    assert (reports[0].step, reports[0].samples) == (WHOLE // BATCH, WHOLE)
    assert pods.incidents().repeated_samples == 0
    assert reports[0].lost_steps <= every
    seen = Counter(numbers(pods))
    assert sorted(seen) == list(range(WHOLE))
    again = sum(1 for count in seen.values() if count > 1)
    # A step that a process had only begun is no step of the run yet.
    assert again <= (every + 1) * BATCH
    assert max(seen.values()) <= 2


def test_an_edit_is_applied_by_all_at_the_same_step(pods: Pods) -> None:
    def schedule(label: str) -> list[dict[str, Any]]:
        slow = {**_MODEL, "parameters": {"pace": 0.2}}
        return [
            stage("first", "84sp", model=slow, hardware={"workers": 2}),
            stage(label, model={**_MODEL, "labelSmoothing": 0.1}, hardware={"workers": 2}),
        ]

    before = order(*schedule("second"), workers=2)
    after = order(*schedule("renamed"), workers=2)
    for index in range(2):
        pods.start(before, index)
    pods.wait_for(2)
    pods.want(DesiredState(revision=1, stages=after.stages))
    pods.wait_for(4)
    pods.want(DesiredState(revision=2, stages=after.stages, advance_to="renamed"))
    reports = pods.finish(before)
    assert reports[0].revision == 2
    assert [found.name for found in reports[0].stages] == ["first", "renamed"]
    assert reports[0].stages[0].end is not None
    assert reports[0].stages[0].end < 84
    first = [
        max(line[3][0] // BATCH for line in pods.trained() if line[1] == index and line[5] == "first")
        for index in range(2)
    ]
    assert first[0] == first[1]
    assert sorted(numbers(pods)) == list(range(WHOLE))


def test_an_edit_that_one_process_objects_to_is_refused_by_all(pods: Pods) -> None:
    slow = {**_MODEL, "parameters": {"pace": 0.1}}

    def schedule(**parameters: int) -> list[dict[str, Any]]:
        return [
            stage("first", "48sp", model=slow, hardware={"workers": 2}),
            stage("second", model={**_MODEL, "parameters": parameters}, hardware={"workers": 2}),
        ]

    before = order(*schedule(), workers=2)
    for index in range(2):
        pods.start(before, index)
    pods.wait_for(2)
    pods.want(DesiredState(revision=1, stages=order(*schedule(refused_by=1), workers=2).stages))
    reports = pods.finish(before)
    assert [(report.revision, report.refused) for report in reports.values()] == [(0, 1), (0, 1)]
    assert reports[0].outcome is RunOutcome.COMPLETED
    assert sorted(numbers(pods)) == list(range(WHOLE))


def test_a_pause_stops_all_at_the_same_step(pods: Pods) -> None:
    wanted = one_stage(2, model={"parameters": {"pace": 0.1}})
    for index in range(2):
        pods.start(wanted, index)
    pods.wait_for(2)
    pods.want(DesiredState(revision=1, paused=True))
    reports = pods.finish(wanted)
    assert {report.outcome for report in reports.values()} == {RunOutcome.PAUSED}
    assert reports[0].step == reports[1].step < WHOLE // BATCH
    pods.want(DesiredState(revision=2))
    reports = pods.generation(one_stage(1, generation=2, revision=2, model={"parameters": {"pace": 0.1}}))
    assert reports[0].outcome is RunOutcome.COMPLETED, reports
    assert sorted(numbers(pods)) == list(range(WHOLE))


def test_sigterm_saves_once_and_the_others_wait_for_the_next(pods: Pods) -> None:
    wanted = one_stage(2, model={"parameters": {"pace": 0.1}})
    for index in range(2):
        pods.start(wanted, index)
    pods.wait_for(4)
    process = pods.running[1]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    while len(pods.codes) < 2:
        list(pods.ended())
    assert dict(pods.codes) == {0: 86, 1: 143}
    reports = pods.generation(wanted)
    assert reports[0].lost_steps == 0
    assert sorted(numbers(pods)) == list(range(WHOLE))


def test_an_older_generation_stops_when_a_later_one_has_committed(pods: Pods) -> None:
    fields: dict[str, Any] = {
        "model": {"parameters": {"pace": 0.1}},
        "checkpoints": {"everySeconds": 86400, "everySteps": 2},
    }
    pods.start(one_stage(1, **fields), 0)
    pods.wait_for(1)
    stalled = pods.running.pop(0)
    assert stalled.pid is not None
    os.kill(stalled.pid, signal.SIGSTOP)
    later = pods.generation(one_stage(2, generation=2, **fields))
    assert later[0].outcome is RunOutcome.COMPLETED
    (pods.folder / "message-0").unlink()
    os.kill(stalled.pid, signal.SIGCONT)
    stalled.join(60)
    assert stalled.exitcode == 0
    report = pods.reports(1)[0]
    assert (report.outcome, report.reason) == (RunOutcome.FAILED, "Superseded")
    committed = [entry.name for entry in (pods.folder / "run" / "checkpoints").iterdir()]
    assert committed
    assert all(name.endswith(".g2") for name in committed if not name.startswith("."))
