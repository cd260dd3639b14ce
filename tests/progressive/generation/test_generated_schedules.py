"""What holds for every generated schedule, whatever is asked for and whatever the device is like."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.progressive.generation.simulation import Oracle, Target, draw_target, image_problem, text_problem

from nascale.contract.run_order import LearningRateCourse, StageOrder
from nascale.contract.schedule import resolve
from nascale.contract.stage_settings import (
    Compilation,
    HardwareSettings,
    MemoryFormat,
    ModelSettings,
    micro_batch,
)
from nascale.contract.switch_class import SwitchClass
from nascale.contract.work_order import Precision
from nascale.progressive.generation import prediction, rules
from nascale.progressive.generation.choice import Choice, choose
from nascale.progressive.generation.courses import CompoundRamp, compound, courses, ramp_of
from nascale.progressive.generation.feasibility import Feasibility
from nascale.progressive.generation.floor import breaches
from nascale.progressive.generation.grid import hardware_settings
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.problem import (
    Combination,
    GenerationProblem,
    Growth,
    Optimize,
    ProfileRecord,
    Ramp,
    Risk,
    faults,
)
from nascale.progressive.generation.profile import design
from nascale.search.history import TrialState

_RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets predictions be exact."""

    def choose_exactly(problem: GenerationProblem, target: Target, **options: Any) -> Choice:
        monkeypatch.setattr(prediction, "StepTimeModel", lambda *_: Oracle(target))
        first = [target.measure(own.combination) for own in design(problem, []).proposals]
        return choose(problem, first, **options)

    return choose_exactly


@st.composite
def problems(draw: st.DrawFn) -> GenerationProblem:
    sides = sorted({*draw(st.lists(st.integers(8, 27), max_size=4)), 28})
    ranges = {
        "precision": (Precision.FP32, Precision.BF16, Precision.FP16),
        "memory_format": tuple(MemoryFormat),
        "compilation": (Compilation.NONE, Compilation.DEFAULT),
    }
    wanted = draw(st.sets(st.sampled_from(sorted(ranges))))
    return image_problem(
        length=draw(st.integers(2_000, 3_000_000)),
        growing=(
            Growth("resolution", tuple(sides)),
            Growth("depth", draw(st.sampled_from([(1.0,), (0.5, 1.0)]))),
        ),
        batches=tuple(draw(st.sets(st.sampled_from([16, 32, 64, 128, 256, 512]), max_size=4))),
        hardware=hardware_settings(HardwareSettings(), {name: ranges[name] for name in sorted(wanted)}),
        ramps=(Ramp("augmentation", 0.1), Ramp("dropout", 0.0)),
        stages=draw(st.none() | st.integers(1, 8)),
        final_share=draw(st.floats(0.05, 1.0)),
        optimize=draw(st.sampled_from([Optimize.TIME, Optimize.DEVICE_SECONDS])),
        fixed_hardware=draw(st.booleans()),
        fixed_model=draw(st.booleans()),
        allowed_late=frozenset(draw(st.sets(st.sampled_from(list(Risk))))),
    )


def plain(stage: StageOrder) -> ModelSettings:
    """Return model-level settings without the learning rate's own course."""
    return stage.model.model_copy(update={"learning_rate_factor": 1.0})


@given(problem=problems(), seed=st.integers(0, 10_000))
@_RELAXED
def test_every_schedule_is_whole_safe_at_its_end_and_never_slower_than_the_best_constant_one(
    oracle: Any, problem: GenerationProblem, seed: int
):
    assert faults(problem) == ()

    choice = oracle(problem, draw_target(seed))

    stages, base, whole = choice.candidate.stages, problem.base, problem.whole
    ends = resolve(f"{whole}sp", stages, samples_per_epoch=54_000).ends
    assert (
        ends[-1]
        == whole
        == sum(int(stage.length[:-2]) for stage in stages[:-1]) + whole - (ends[-2] if len(ends) > 1 else 0)
    )
    assert all(low < high for low, high in pairwise((0, *ends)))
    assert len({stage.name for stage in stages}) == len(stages) <= (problem.stages or 8)
    last = stages[-1]
    assert plain(last) == plain(base)
    assert problem.safe(last.model, last.hardware)
    assert whole - (ends[-2] if len(ends) > 1 else 0) >= problem.final_share * whole - 1
    cost = choice.candidate.prediction.cost(problem.optimize)
    assert cost <= choice.best_constant.prediction.cost(problem.optimize)
    assert choice.recipe is not None
    assert choice.best_constant.prediction.cost(problem.optimize) <= choice.recipe.cost(problem.optimize)
    for stage in stages:
        assert micro_batch(stage.model, stage.hardware) is not None
    rates = [stage.model.learning_rate_factor for stage in stages]
    assert rates == sorted(rates)
    assert 1.0 <= rates[-1] <= rules.MOST_RATE_FACTOR
    assert not problem.fixed_model or set(rates) == {1.0}
    for before, after in pairwise(stages):
        assert before.model.resolution <= after.model.resolution
        assert before.model.depth <= after.model.depth
        assert before.model.augmentation <= after.model.augmentation
        assert before.model.dropout <= after.model.dropout
        assert not (
            problem.safe(base.model, before.hardware) and not problem.safe(base.model, after.hardware)
        )
    if problem.fixed_model:
        assert all(stage.model == base.model for stage in stages)
    if problem.fixed_hardware:
        assert all(stage.hardware == base.hardware for stage in stages)
    rows = choice.candidate.prediction.stages
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.samples for row in rows) <= whole
    assert sum(row.steps * row.stage.model.global_batch for row in rows) >= whole


@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_every_course_ends_full_and_has_no_more_stages_than_asked_for(problem: GenerationProblem):
    for course in courses(problem):
        ends = [piece.end for piece in course.pieces]
        assert all(low < high for low, high in pairwise((0, *ends)))
        assert ends[-1] == problem.whole
        last = course.pieces[-1].model
        assert last.model_copy(update={"learning_rate_factor": 1.0}) == problem.base.model
        assert len(course.pieces) <= (problem.stages or 8)
        assert ramp_of(course.name) is None or ramp_of(course.name).name == course.name


@pytest.mark.parametrize("seed", range(6))
def test_no_other_hardware_level_settings_of_a_stage_would_be_faster(oracle: Any, seed: int):
    """The two halves are complementary: exchanging one stage's settings never pays, switches included."""
    problem, target = image_problem(length=60 * 54_000), draw_target(seed)

    chosen = oracle(problem, target).candidate

    first = [target.measure(own.combination) for own in design(problem, []).proposals]
    predictor = Predictor(problem, first)
    assert predictor.predict(chosen.stages) == chosen.prediction
    for place, stage in enumerate(chosen.stages):
        for hardware in problem.hardware:
            others = list(chosen.stages)
            others[place] = stage.model_copy(update={"hardware": hardware})
            assert predictor.predict(others).seconds >= chosen.prediction.seconds - 1e-6


def test_early_stages_have_neither_what_pays_at_the_full_size_alone(oracle: Any):
    target = Target(
        compute=3e-4,
        memory=2e-4,
        overhead=4e-3,
        speed={Precision.BF16: 3.0},
        compiled=(1.25, 0.5, 30.0),
        fill=0.5,
    )

    stages = oracle(image_problem(length=200 * 54_000, batches=()), target).candidate.stages

    assert stages[0].hardware.compilation is Compilation.NONE
    assert stages[-1].hardware.compilation is Compilation.DEFAULT
    assert {own.hardware.precision for own in stages[1:]} == {Precision.BF16}


@pytest.mark.parametrize(("cache", "parts"), [(0.0, {1}), (0.012, {1}), (0.15, {4})])
def test_a_step_is_taken_in_more_parts_only_where_that_saves_more_than_noise(
    oracle: Any, cache: float, parts: set[int]
):
    ranges = {"accumulation": (1, 2, 4), "memory_format": tuple(MemoryFormat)}
    problem = image_problem(batches=(), hardware=hardware_settings(HardwareSettings(), ranges))
    target = Target(overhead=1e-4, fixed=1e-4, memory=0.0, fill=0.0, cache=cache)

    choice = oracle(problem, target)

    for stages in (choice.candidate.stages, choice.best_constant.stages):
        assert {stage.hardware.accumulation for stage in stages} == parts
    assert choice.candidate.prediction.seconds <= choice.best_constant.prediction.seconds


def test_the_recipe_is_compared_with_however_many_parts_it_has(oracle: Any):
    ranges = {"accumulation": (1, 2, 4)}
    base = HardwareSettings(accumulation=4)
    problem = image_problem(batches=(), hardware=hardware_settings(base, ranges))
    problem = replace(problem, base=problem.base.model_copy(update={"hardware": base}))

    choice = oracle(problem, Target(overhead=1e-2))

    assert choice.recipe is not None
    assert choice.best_constant.stages[-1].hardware.accumulation == 1
    assert choice.best_constant.prediction.seconds < choice.recipe.seconds


def test_a_switch_that_costs_more_than_it_saves_is_left_out(oracle: Any):
    target = draw_target(0)
    slow = replace(target, compiled=(0.3, 0.5, 1e6))

    hours = oracle(image_problem(), slow).candidate

    assert all(stage.hardware.compilation is Compilation.NONE for stage in hours.stages)
    short = image_problem(length=3_000)
    never = replace(target, compiled=(1.0, 1.0, 0.0))
    long_switch = replace(never, switch=100.0)
    assert len(oracle(short, long_switch).candidate.stages) == 1
    assert len(oracle(short, replace(never, switch=0.0)).candidate.stages) > 1


def test_a_smaller_model_that_is_hardly_faster_is_not_worth_its_samples(oracle: Any):
    """Bound by fixed costs: a quarter of the pixels saves a tenth of the time."""
    changes = {"growing": (Growth("resolution", (14, 20, 28)),), "batches": ()}
    launches = Target(compute=1e-5, memory=1e-6, overhead=5e-3, fixed=5e-3, fill=0.0)
    work = replace(launches, compute=1e-3)

    for target, grows in ((launches, False), (work, True)):
        sides = {own.model.resolution for own in oracle(image_problem(**changes), target).candidate.stages}
        assert (len(sides) > 1) is grows
        assert 28 in sides


def test_the_ablations_change_their_half_alone(oracle: Any):
    target = draw_target(4)
    both = oracle(image_problem(), target)
    hardware_alone = oracle(image_problem(fixed_model=True), target)
    model_alone = oracle(image_problem(fixed_hardware=True), target)

    base = image_problem().base
    assert all(own.model == base.model for own in hardware_alone.candidate.stages)
    assert any(own.hardware != base.hardware for own in hardware_alone.candidate.stages)
    assert all(own.hardware == base.hardware for own in model_alone.candidate.stages)
    assert any(own.model != base.model for own in model_alone.candidate.stages)
    seconds = [own.candidate.prediction.seconds for own in (both, hardware_alone, model_alone)]
    assert seconds[0] < min(seconds[1:])
    assert max(seconds[1:]) < both.recipe.seconds


def test_risky_settings_come_early_unless_they_are_allowed_late(oracle: Any):
    ranges = {"precision": (Precision.FP32, Precision.FP16)}
    changes = {"hardware": hardware_settings(HardwareSettings(), ranges), "fixed_model": True}
    target = replace(draw_target(4), speed={Precision.FP16: 3.0})

    early = oracle(image_problem(**changes), target).candidate.stages
    always = oracle(
        image_problem(allowed_late=frozenset({Risk.LOW_PRECISION}), **changes), target
    ).candidate.stages

    assert [own.hardware.precision for own in early] == [Precision.FP16, Precision.FP32]
    assert [own.hardware.precision for own in always] == [Precision.FP16]


def test_regularisation_follows_what_has_grown():
    problem = image_problem(growing=(Growth("resolution", (14, 20, 24, 28)),))

    own = compound(problem, CompoundRamp(0.7, 0.3, 0.3))

    strengths = [piece.model.augmentation for piece in own.pieces]
    assert [piece.model.resolution for piece in own.pieces] == [20, 24, 28]
    assert (strengths[0], strengths[-1]) == (0.0, 0.5)
    assert 0.0 < strengths[1] < 0.5


def test_known_good_schedules_are_those_of_their_papers():
    problem = image_problem(
        final_share=0.1,
        length=1_000_000,
        growing=(Growth("resolution", tuple(range(4, 33, 4))),),
        base=image_problem().base.model_copy(
            update={"model": image_problem().base.model.model_copy(update={"resolution": 32})}
        ),
    )
    found = {own.name: own for own in courses(problem)}

    def shown(name: str) -> list[tuple[float, int]]:
        return [(piece.end / problem.whole, piece.model.resolution) for piece in found[name].pieces]

    assert shown("efficientnetv2") == [(0.25, 16), (0.5, 20), (0.75, 24), (1.0, 32)]
    assert shown("composer") == [(0.5, 16), (0.6, 20), (0.7, 24), (0.8, 28), (1.0, 32)]
    assert shown("ffcv") == [(0.86, 28), (1.0, 32)]
    assert not breaches(problem, found["ffcv"])
    assert all(breaches(problem, found[name]) for name in ("efficientnetv2", "composer"))


def test_a_sequence_length_stands_in_place_of_a_resolution(oracle: Any):
    problem = text_problem()
    target = replace(draw_target(4), side=None, length=64)

    choice = oracle(problem, target)

    lengths = [own.model.parameters["sequence_length"] for own in choice.candidate.stages]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] == 64
    assert all(own.model.parameters["vocabulary"] == 96 for own in choice.candidate.stages)
    assert choice.candidate.prediction.seconds < choice.best_constant.prediction.seconds


def test_everything_counts_in_a_prediction():
    problem = image_problem(length=54_000, evaluation_every=27_000)
    target = replace(draw_target(1), noise=0.0, start=7.0)
    small = problem.base.model.model_copy(update={"resolution": 14, "global_batch": 256})
    fast = HardwareSettings(compilation=Compilation.DEFAULT)
    threads = HardwareSettings(threads=2)
    stages = (
        StageOrder(name="a", length="27001sp", model=small, hardware=fast),
        StageOrder(name="b", length="10000sp", model=problem.base.model, hardware=HardwareSettings()),
        StageOrder(name="c", model=problem.base.model, hardware=threads),
    )
    records = [target.measure(Combination(own.model, own.hardware)) for own in stages]

    found = Predictor(problem, records, evaluation_seconds=3.0).predict(stages)

    first, second, third = found.stages
    steps = (first.steps, second.steps, third.steps)
    assert steps == (
        106,
        (37_001 - 106 * 256 + 63) // 64,
        (54_000 - 106 * 256 - 64 * second.steps + 63) // 64,
    )
    assert [own.switch for own in found.stages] == [
        SwitchClass.RESTART,
        SwitchClass.RECOMPILE,
        SwitchClass.RESTART,
    ]
    settle = [target.settle(own.hardware) for own in stages]
    expected = [7.0 + settle[0], settle[1], 7.0 + settle[2]]
    assert [own.switch_seconds for own in found.stages] == pytest.approx(expected)
    seconds = [
        count * target.seconds(own.model, own.hardware) + cost
        for count, own, cost in zip(steps, stages, expected, strict=True)
    ]
    # Evaluations: at both ends of stages that are not multiples, at the multiple, and at the end.
    assert found.evaluation_seconds == 4 * 3.0
    assert found.seconds == pytest.approx(sum(seconds) + 12)
    assert found.joules is None


def test_energy_is_what_is_optimised_where_it_is_known():
    problem = image_problem(fixed_model=True, optimize=Optimize.ENERGY, per_batch=8, max_trials=8)
    target = replace(draw_target(4), noise=0.0)
    records = []
    for own in problem.hardware:
        record = target.measure(Combination(problem.base.model, own))
        watts = 10.0 if own.precision is Precision.FP32 else 1000.0
        joules = watts * record.step_seconds / problem.base.model.global_batch
        records.append(replace(record, energy_per_sample=joules))

    least = choose(problem, records).candidate
    fastest = choose(replace(problem, optimize=Optimize.TIME), records).candidate

    assert {own.hardware.precision for own in least.stages} == {Precision.FP32}
    assert {own.hardware.precision for own in fastest.stages} == {Precision.BF16}
    assert least.prediction.joules < fastest.prediction.joules
    nothing = choose(problem, [replace(own, energy_per_sample=None) for own in records])
    assert nothing.candidate.stages == fastest.stages
    assert "no energy has been measured" in nothing.reason


def test_the_reason_and_the_alternatives_have_figures(oracle: Any):
    problem, target = image_problem(), draw_target(4)

    choice = oracle(problem, target, evaluation_seconds=1.0)

    assert choice.candidate.name in choice.reason
    assert "times as fast as the constant recipe" in choice.reason
    names = [own.name for own, _ in choice.alternatives]
    assert "constant" in names
    assert choice.candidate.name not in names
    costs = [own.prediction.seconds for own, _ in choice.alternatives]
    assert costs == sorted(costs)
    assert all(text for _, text in choice.alternatives)


def test_wrong_questions_are_named():
    problem = image_problem(
        stages=9,
        final_share=0.0,
        growing=(Growth("resolution", (14, 20)), Growth("width", (1, 2)), Growth("depth", (1.0, 0.5, 1.0))),
        base=image_problem().base.model_copy(update={"hardware": HardwareSettings(precision=Precision.FP16)}),
    )

    assert faults(problem) == (
        "stages: must be Auto or from 1 to 8, not 9",
        "finalShare: must be above 0 and at most 1, not 0",
        "model.resolution: the last value must be that of the defaults, 28, not 20",
        "model.width: must be one of resolution, depth, or a parameter of the user's own",
        "model.depth: values must ascend, not [1.0, 0.5, 1.0]",
        "defaults.hardware: must be quality-safe, or LowPrecision be allowed late",
    )


def test_the_length_comes_from_the_first_measurement_where_only_epochs_are_known():
    problem = image_problem(length=None, epochs=2.5)
    target = draw_target(2)
    records = [target.measure(own.combination) for own in design(problem, []).proposals]

    choice = choose(problem, records)

    assert sum(row.samples for row in choice.candidate.prediction.stages) <= 135_000
    assert (
        sum(row.steps * row.stage.model.global_batch for row in choice.candidate.prediction.stages) >= 135_000
    )
    with pytest.raises(ValueError, match="length: must be known"):
        choose(problem, [replace(own, epoch_samples=None) for own in records])


def test_a_step_that_failed_for_the_recipe_leaves_other_safe_settings():
    problem, target = image_problem(), draw_target(4)
    asked = design(problem, []).proposals
    records = [
        ProfileRecord(own.combination.model, own.combination.hardware, TrialState.FAILED, reason="it crashed")
        if own.combination == problem.full
        else target.measure(own.combination)
        for own in asked
    ]

    choice = choose(problem, records)

    assert choice.recipe is None
    assert choice.candidate.stages[-1].hardware != problem.base.hardware
    assert not Feasibility(problem, records).allows(problem.full)
    assert "constant recipe" not in choice.reason
    assert np.isfinite(choice.candidate.prediction.seconds)


def test_rules_are_no_bolder_than_published_schedules():
    for rule in (rules.EFFICIENTNETV2, rules.COMPOSER):
        assert rule.start < rules.CONSERVATIVE.scale
    assert rules.FFCV.start >= rules.CONSERVATIVE.scale
    assert rules.LENGTH_WARM_UP.start >= rules.CONSERVATIVE.own_scale


@pytest.mark.parametrize(
    ("ramp", "bold"),
    [
        (CompoundRamp(0.7, 0.5, 0.5, depth=False), []),
        (CompoundRamp(0.5, 0.2, 0.5, depth=False), []),
        (
            CompoundRamp(0.5, 0.2, 0.4, depth=False),
            ["resolution: must begin at 0.7", "resolution: must be 0.855"],
        ),
        (CompoundRamp(0.5, 0.45, 0.5, depth=False), ["resolution: must be 0.82"]),
        (CompoundRamp(0.4, 0.1, 0.6, depth=False), ["resolution: must begin at 0.5"]),
        (CompoundRamp(0.5, 0.2, 0.5), ["depth: must begin at 0.7"]),
        (CompoundRamp(0.5, 0.2, 0.5, 4.0, depth=False), ["globalBatch: must be at most 2 times"]),
    ],
)
def test_images_may_begin_smaller_where_half_of_the_samples_have_full_size(
    ramp: CompoundRamp, bold: list[str]
):
    sides, depths = Growth("resolution", (12, 14, 20, 24, 28)), Growth("depth", (0.5, 1.0))
    problem = image_problem(growing=(sides, depths), batches=(32, 64, 128, 256))

    found = breaches(problem, compound(problem, ramp))

    assert len(found) == len(bold), found
    assert all(text.startswith(begin) for text, begin in zip(found, bold, strict=True)), found


def test_small_images_at_the_beginning_are_a_candidate_of_the_generators_own():
    sides, depths = Growth("resolution", (14, 20, 24, 28)), Growth("depth", (0.5, 1.0))
    problem = image_problem(growing=(sides, depths))

    vouched = [own for own in courses(problem) if not breaches(problem, own)]

    smallest = min(own.pieces[0].model.resolution for own in vouched)
    assert smallest == 14
    for own in vouched:
        if own.pieces[0].model.resolution == smallest:
            assert own.begin(len(own.pieces) - 1) <= problem.whole / 2
            assert {piece.model.depth for piece in own.pieces} == {1.0}
    assert not any(own.name.startswith("ramp-s50") for own in courses(text_problem()))


@pytest.mark.parametrize("course", list(LearningRateCourse))
def test_a_stage_begins_at_the_rate_of_its_share_of_the_work(course: LearningRateCourse):
    problem = image_problem(
        learning_rate_course=course, warm_up=0.0, growing=(Growth("resolution", (20, 28)),), batches=(64,)
    )

    own = compound(problem, CompoundRamp(0.7, 0.5, 0.5))

    small = (20 / 28) ** 2
    done = small / (small + 1)
    shares = {
        LearningRateCourse.CONSTANT: (1.0, 1.0),
        LearningRateCourse.LINEAR: (1 - done, 0.5),
        LearningRateCourse.COSINE: (0.5 * (1 + math.cos(math.pi * done)), 0.5),
    }
    by_work, by_samples = shares[course]
    factors = [piece.model.learning_rate_factor for piece in own.pieces]
    assert [piece.model.resolution for piece in own.pieces] == [20, 28]
    assert factors == pytest.approx([1.0, by_work / by_samples], abs=0.005)


def test_a_rate_is_raised_within_bounds_and_not_where_nothing_grows(oracle: Any):
    late = compound(image_problem(), CompoundRamp(0.5, 0.9, 0.05))
    fixed = oracle(image_problem(fixed_model=True), draw_target(3))

    factors = [piece.model.learning_rate_factor for piece in late.pieces]
    assert factors[0] == 1.0
    assert factors == sorted(factors)
    assert factors[-1] <= rules.MOST_RATE_FACTOR
    assert {own.model.learning_rate_factor for own in fixed.candidate.stages} == {1.0}
