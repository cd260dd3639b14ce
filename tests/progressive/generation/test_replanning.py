"""The rest of a schedule planned again: within the same length, for a reason, and not again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.progressive.generation.simulation import draw_target, image_problem

from nascale.contract.run_order import StageOrder
from nascale.contract.schedule import resolve
from nascale.contract.stage_settings import HardwareSettings
from nascale.contract.work_order import Precision
from nascale.progressive.edits import edit_faults
from nascale.progressive.generation import rules
from nascale.progressive.generation.grid import hardware_settings
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.problem import Combination, GenerationProblem, ProfileRecord
from nascale.progressive.generation.replanning import Progress, last_longer, replan

WHOLE = 600_000
SMALL = {"resolution": 14, "global_batch": 128}


def problem_of_two_formats(**changes: object) -> GenerationProblem:
    ranges = {"precision": (Precision.FP32, Precision.BF16)}
    return image_problem(length=WHOLE, hardware=hardware_settings(HardwareSettings(), ranges), **changes)


LOW = HardwareSettings(precision=Precision.BF16)


def schedule(
    problem: GenerationProblem, *shares: float, first: HardwareSettings = LOW
) -> tuple[StageOrder, ...]:
    """Return stages in BF16 that grow, and the base's model at the end."""
    full = problem.base.model
    stages = []
    for place, share in enumerate(shares):
        grown = {"resolution": 14 if place == 0 else 20, "augmentation": 0.1 * place}
        stages.append(
            StageOrder(
                name=f"early-{place + 1}",
                length=f"{round(share * WHOLE)}sp",
                model=full.model_copy(update=SMALL | grown),
                hardware=first if place == 0 else LOW,
            )
        )
    return (*stages, StageOrder(name="final", model=full, hardware=LOW))


def ends_of(stages: Sequence[StageOrder]) -> tuple[int, ...]:
    return resolve(f"{WHOLE}sp", stages, samples_per_epoch=54_000).ends


def profile(problem: GenerationProblem) -> list[ProfileRecord]:
    target = replace(draw_target(4), noise=0.0, speed={Precision.BF16: 1.5})
    stages = schedule(problem, 0.4, 0.2)
    return [
        target.measure(Combination(stage.model, hardware))
        for stage in stages
        for hardware in problem.hardware
    ]


def predicted(problem: GenerationProblem, records: Sequence[ProfileRecord], stage: StageOrder) -> float:
    step = Predictor(problem, records).step_seconds(Combination(stage.model, stage.hardware))
    return stage.model.global_batch / step


def test_as_predicted_nothing_changes():
    problem = problem_of_two_formats()
    records, stages = profile(problem), schedule(problem, 0.4, 0.2)
    near = predicted(problem, records, stages[0]) * 0.92

    found = replan(problem, records, stages, Progress(ends_of(stages), 0, 50_000, {0: near}))

    assert (found.stages, found.deviations, found.reason) == (None, (), "")


def slow_in_one_format(
    problem: GenerationProblem,
) -> tuple[list[ProfileRecord], tuple[StageOrder, ...], Progress]:
    """Return a training whose first stage, in FP32, is as fast as predicted, and whose second one is not."""
    records, stages = profile(problem), schedule(problem, 0.4, 0.2, first=HardwareSettings())
    speeds = {place: predicted(problem, records, stages[place]) for place in (0, 1)}
    return records, stages, Progress(ends_of(stages), 1, 300_000, {0: speeds[0], 1: speeds[1] / 3})


def test_a_number_format_that_is_far_slower_than_predicted_is_given_up():
    problem = problem_of_two_formats()
    records, stages, progress = slow_in_one_format(problem)

    found = replan(problem, records, stages, progress)

    assert found.stages is not None
    assert [own.hardware.precision for own in found.stages] == ["FP32", "BF16", "FP32"]
    assert edit_faults(stages, found.stages, ended={"early-1"}, present="early-2") == ()
    assert ends_of(found.stages) == ends_of(stages)
    assert found.saved >= rules.LEAST_SAVING
    assert [own.stage for own in found.deviations] == ["early-2"]
    assert "early-2 runs at" in found.reason
    assert "saves" in found.reason


def test_a_node_that_is_slow_in_everything_changes_no_plan_and_is_told():
    problem = problem_of_two_formats()
    records, stages = profile(problem), schedule(problem, 0.4, 0.2)
    slow = predicted(problem, records, stages[0]) * 0.7

    found = replan(problem, records, stages, Progress(ends_of(stages), 0, 50_000, {0: slow}))

    assert found.stages is None
    assert [round(own.share, 2) for own in found.deviations] == [-0.3]
    assert "no other plan saves enough" in found.reason
    plain = Predictor(problem, records).predict(
        stages[1:2] + stages[2:], begin=ends_of(stages)[0], before=stages[0]
    )
    steps = [row.step_seconds for row in found.remaining.stages]
    assert steps == pytest.approx([row.step_seconds / 0.7 for row in plain.stages])


def test_an_edit_is_not_followed_by_another_one():
    """The same observations after the edit ask for nothing more: plans don't flap."""
    problem = problem_of_two_formats()
    records, stages, progress = slow_in_one_format(problem)

    found = replan(problem, records, stages, progress)
    assert found.stages is not None
    again = replan(problem, records, found.stages, replace(progress, ends=ends_of(found.stages)))

    assert again.stages is None
    assert again.remaining == found.remaining


SHARES = st.lists(st.floats(0.05, 0.2), min_size=2, max_size=4)


@given(shares=SHARES, present=st.integers(1, 4), early=st.floats(0.05, 0.99))
@settings(max_examples=60, deadline=None)
def test_what_an_early_end_leaves_is_shared_out_within_the_same_length(
    shares: list[float], present: int, early: float
):
    """Of the stages that have begun one bound moves, that of the present one, and no setting."""
    problem = problem_of_two_formats()
    records, stages = profile(problem), schedule(problem, *shares)
    ends = ends_of(stages)
    present = min(present, len(shares) - 1)
    before = ends[present - 2] if present > 1 else 0
    end = before + max(1, round(early * (ends[present - 1] - before)))
    position = end + stages[present].model.global_batch

    found = replan(problem, records, stages, Progress(ends, present, position, {}, early=end))

    after = found.stages or stages
    moved = ends_of(after)
    assert moved[-1] == WHOLE
    assert after[:present] == stages[:present]
    assert moved[:present] == ends[:present]
    assert position < moved[present] <= ends[present], "the bound of the present stage lies ahead"
    names = [own.name for own in after]
    assert len(set(names)) == len(names)
    ended, present_name = set(names[:present]), names[present]
    assert edit_faults(stages, after, ended=ended, present=present_name) == ()
    assert (after[-1].model, after[-1].hardware.precision) == (problem.base.model, "BF16")
    full = ends[-1] - ends[-2]
    assert WHOLE - moved[-2] >= full - 1
    assert WHOLE - moved[-2] >= problem.final_share * WHOLE


def test_a_plan_that_follows_an_early_end_leaves_the_stage_that_has_begun_since_alone():
    """Its format is far slower than predicted: those to come leave it, and it is trained to its end."""
    problem = problem_of_two_formats()
    records, stages = profile(problem), schedule(problem, 0.3, 0.2, 0.2, first=HardwareSettings())
    speeds = {place: predicted(problem, records, stages[place]) for place in (0, 1)}
    seen = {0: speeds[0], 1: speeds[1] / 3}

    found = replan(problem, records, stages, Progress(ends_of(stages), 1, 130_000, seen, early=100_000))

    assert found.stages is not None
    assert (found.stages[1].model, found.stages[1].hardware) == (stages[1].model, stages[1].hardware)
    assert ends_of(found.stages)[1] < ends_of(stages)[1]
    assert {own.hardware.precision for own in found.stages[2:]} == {"FP32"}
    assert edit_faults(stages, found.stages, ended={"early-1"}, present="early-2") == ()
    assert "early-1 has ended early" in found.reason


def test_a_stage_that_still_gets_better_lasts_longer_by_what_those_after_it_can_spare():
    """A quarter longer: early stages give up to a half, the last one what it has beyond its least share."""
    ends = (120_000, 240_000, 360_000, 600_000)
    assert last_longer(ends, 0, 0.25) == (150_000, 261_429, 372_857, 600_000)
    assert last_longer(ends, 0, 0.4) == (150_000, 255_000, 360_000, 600_000)
    assert last_longer(ends, 2, 0.25) == (120_000, 240_000, 390_000, 600_000)
    assert last_longer(ends, 2, 0.39) == (120_000, 240_000, 366_000, 600_000)
    assert last_longer(ends, 2, 0.4) == ends
    assert last_longer(ends, 3, 0.25) == ends


@given(
    lengths=st.lists(st.integers(1, 10**6), min_size=2, max_size=8),
    present=st.integers(0, 7),
    final_share=st.floats(0.01, 1.0),
)
def test_whatever_lasts_longer_the_whole_the_past_and_the_last_share_stay(
    lengths: list[int], present: int, final_share: float
):
    ends = tuple(accumulate(lengths))
    present = min(present, len(ends) - 1)
    moved = last_longer(ends, present, final_share)
    assert moved[-1] == ends[-1]
    assert moved[:present] == ends[:present]
    begins = (0, *moved[:-1])
    after = [end - begin for begin, end in zip(begins, moved, strict=True)]
    assert lengths[present] <= after[present] <= lengths[present] + round(rules.EXTENSION * lengths[present])
    for place in range(present + 1, len(ends) - 1):
        assert lengths[place] // 2 <= after[place] <= lengths[place]
    assert after[-1] >= min(lengths[-1], math.floor(final_share * ends[-1]))


@given(shares=SHARES, present=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_longer_stage_keeps_its_settings_and_the_last_one_its_own(shares: list[float], present: int):
    problem = problem_of_two_formats()
    records, stages = profile(problem), schedule(problem, *shares)
    ends, present = ends_of(stages), min(present, len(shares) - 1)
    position = ends[present] - 1000

    found = replan(problem, records, stages, Progress(ends, present, position, {}, longer=True))

    assert found.stages is not None
    moved = ends_of(found.stages)
    assert moved[-1] == WHOLE
    assert moved[:present] == ends[:present]
    assert moved[present] > ends[present]
    assert WHOLE - moved[-2] >= problem.final_share * WHOLE
    assert (found.stages[-1].model, found.stages[-1].hardware.precision) == (problem.base.model, "BF16")
    ended, name = {own.name for own in stages[:present]}, stages[present].name
    assert edit_faults(stages, found.stages, ended=ended, present=name) == ()
    assert f"{name} lasts longer" in found.reason
