"""The rest of a schedule planned again: within the same length, for a reason, and not again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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


@given(
    shares=st.lists(st.floats(0.05, 0.2), min_size=2, max_size=4),
    present=st.integers(0, 3),
    early=st.floats(0.05, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_what_an_early_end_leaves_is_shared_out_within_the_same_length(
    shares: list[float], present: int, early: float
):
    problem = problem_of_two_formats()
    records, stages = profile(problem), schedule(problem, *shares)
    ends = ends_of(stages)
    present = min(present, len(shares) - 1)
    begin = ends[present - 1] if present else 0
    position = begin + max(1, round(early * (ends[present] - begin)))

    found = replan(problem, records, stages, Progress(ends, present, position, {}, ended=True))

    after = found.stages or stages
    moved = ends_of(after)
    assert moved[-1] == WHOLE
    assert after[: present + 1] == stages[: present + 1]
    names = [own.name for own in after]
    assert len(set(names)) == len(names)
    assert edit_faults(stages, after, ended=set(names[: present + 1]), present=None) == ()
    assert (after[-1].model, after[-1].hardware.precision) == (problem.base.model, "BF16")
    full = ends[-1] - ends[-2]
    assert WHOLE - (moved[-2] if len(moved) - 1 > present else position) >= full - 1


def test_a_stage_that_still_gets_better_lasts_longer_at_the_cost_of_early_ones():
    problem = problem_of_two_formats()
    stages = schedule(problem, 0.2, 0.2, 0.2)
    ends = ends_of(stages)

    longer = last_longer(stages, Progress(ends, 0, 100_000, {}))

    assert longer is not None
    assert ends_of(longer) == (150_000, 255_000, 360_000, 600_000)
    assert edit_faults(stages, longer, ended=set(), present="early-1") == ()
    assert last_longer(stages, Progress(ends, 2, 300_000, {})) is None
    assert last_longer(stages, Progress(ends, 3, 400_000, {})) is None
