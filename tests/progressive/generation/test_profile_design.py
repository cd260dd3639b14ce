"""What a profile asks for: little of the grid, the same after a restart, and nothing that never works."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.progressive.generation.simulation import (
    Oracle,
    Target,
    draw_target,
    image_problem,
    measuring,
    measuring_beside_others,
    run_profile,
)

from nascale.contract.stage_settings import Compilation, HardwareSettings, MemoryFormat
from nascale.contract.work_order import Precision
from nascale.progressive.generation import prediction
from nascale.progressive.generation.choice import choose
from nascale.progressive.generation.errors import NothingFeasibleError
from nascale.progressive.generation.feasibility import Feasibility
from nascale.progressive.generation.grid import hardware_settings, hardwares, make_grid
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.problem import Combination, GenerationProblem, Growth, ProfileRecord
from nascale.progressive.generation.profile import design
from nascale.progressive.generation.step_time import StepTimeModel
from nascale.search.history import TrialState


def test_the_first_batch_holds_the_constant_recipe_and_every_value_of_every_range():
    problem = image_problem()

    found = design(problem, [])

    proposed = [own.combination for own in found.proposals]
    assert proposed[0] == problem.full
    assert len(proposed) == len(set(proposed)) == problem.per_batch
    spanned = {item for own in make_grid(problem).combinations for item in own.levels.items()}
    assert {item for own in proposed for item in own.levels.items()} == spanned


def long_problem(**changes: Any) -> GenerationProblem:
    """Return a problem with a long range of resolutions, and a profile of a tenth of its grid."""
    ranges = {
        "precision": (Precision.FP32, Precision.BF16),
        "memory_format": (MemoryFormat.CONTIGUOUS, MemoryFormat.CHANNELS_LAST),
    }
    given: dict[str, Any] = {
        "growing": (Growth("resolution", (14, 16, 18, 20, 22, 24, 26, 28)),),
        "hardware": hardware_settings(HardwareSettings(), ranges),
        "max_trials": 9,
    }
    return image_problem(**(given | changes))


def test_of_a_long_range_of_sizes_ends_and_middle_are_measured_first():
    problem = long_problem()

    found = design(problem, [])

    proposed = [own.combination for own in found.proposals]
    assert {14, 22, 28} <= {own.model.resolution for own in proposed}
    assert {own.model.global_batch for own in proposed} == {64, 128, 256}
    target = draw_target(0)
    records = [target.measure(own) for own in proposed]
    assert {own.origin for own in design(problem, records).proposals} == {"may change the schedule"}


@pytest.mark.slow
def test_noisy_measurements_of_a_long_range_suffice_for_a_schedule_near_the_grid_s_best():
    """Six percent of noise, nine measurements of 96: no schedule of eight takes 3 % more than the best."""
    problem = long_problem()
    for seed in range(8):
        target = replace(draw_target(seed), noise=0.06)
        records, _ = run_profile(problem, measuring(target))
        assert len(records) <= make_grid(problem).size / 10
        truth = [replace(target, noise=0.0).measure(own) for own in make_grid(problem).combinations]
        judge = Predictor(problem, truth)

        seconds, least = (
            judge.predict(choose(problem, own).candidate.stages).seconds for own in (records, truth)
        )

        assert seconds <= 1.03 * least, seed


@pytest.mark.slow
def test_a_tenth_of_the_grid_gives_a_schedule_within_three_percent_of_the_grid_s_best(
    monkeypatch: pytest.MonkeyPatch,
):
    """24 devices: no profile takes more than a tenth, 23 schedules are that near, the other is 12 % off."""
    problem = image_problem(max_trials=14)
    size = make_grid(problem).size
    ratios, errors = [], []
    for seed in range(24):
        target = draw_target(seed)
        records, _ = run_profile(problem, measuring(target))
        assert len(records) <= size / 10
        found = choose(problem, records).candidate
        with monkeypatch.context() as patched:
            patched.setattr(prediction, "StepTimeModel", lambda *_, target=target: Oracle(target))
            best = choose(problem, records).candidate.prediction.seconds
            real = prediction.Predictor(problem, records).predict(found.stages).seconds
        ratios.append(real / best)
        errors.append(abs(found.prediction.seconds / real - 1))

    assert sum(ratio <= 1.03 for ratio in ratios) >= 23
    assert max(ratios) <= 1.15
    assert np.median(errors) <= 0.02


@pytest.mark.slow
def test_step_times_that_were_not_measured_are_predicted_within_five_percent_in_the_median():
    problem = image_problem(max_trials=14)
    combinations = make_grid(problem).combinations
    medians, within = [], []
    for seed in range(100, 112):
        target = draw_target(seed)
        records, _ = run_profile(problem, measuring(target))
        model = StepTimeModel(problem, hardwares(problem), records)
        unseen = [own for own in combinations if not model.measured(own)]
        belief = model.believe(unseen)
        off = belief.mean - np.log([target.seconds(own.model, own.hardware) for own in unseen])
        medians.append(float(np.median(np.abs(np.expm1(off)))))
        within.append(float(np.mean(np.abs(off) <= 2 * belief.deviation)))

    assert np.median(medians) <= 0.05
    assert np.mean(within) >= 0.85, "the model must know what it does not know"


def test_what_was_measured_steadily_is_predicted_as_it_was_measured():
    problem, target = image_problem(), draw_target(3)
    proposals = design(problem, []).proposals
    records = [target.measure(own.combination) for own in proposals]
    again = target.measure(proposals[1].combination, times=1)

    model = StepTimeModel(problem, hardwares(problem), [*records, again])

    assert model.seconds(records[0].combination) == pytest.approx(records[0].step_seconds, rel=1e-3)
    repeated = (records[1].step_seconds * again.step_seconds) ** 0.5
    assert model.seconds(again.combination) == pytest.approx(repeated, rel=1e-3)


def test_what_is_far_steadier_than_the_rest_is_taken_at_its_word():
    """As on a GPU that is busy with large images, and waits for the host's launches with all others."""
    problem, target = image_problem(), replace(draw_target(3), noise=0.1)
    proposals = [own.combination for own in design(problem, []).proposals]
    records = [replace(target.measure(own), step_spread=0.08) for own in proposals]
    seen = records[0].step_seconds

    def told(spread: float) -> tuple[float, float]:
        own = replace(records[0], step_spread=spread)
        model = StepTimeModel(problem, hardwares(problem), [own, *records[1:]])
        return model.seconds(own.combination), float(model.believe([own.combination]).deviation[0])

    steady, sure = told(0.0005)
    assert steady == pytest.approx(seen, rel=2e-3)
    assert sure < 0.005
    assert told(0.02) == told(0.07), "windows that agree somewhat better do so by luck"
    assert told(0.02)[1] > 0.03


def processor_problem(**changes: Any) -> GenerationProblem:
    """Return a problem for a processor in FP32: sizes, memory formats and accumulation vary."""
    ranges = {
        "memory_format": (MemoryFormat.CONTIGUOUS, MemoryFormat.CHANNELS_LAST),
        "accumulation": (1, 2, 4),
    }
    given: dict[str, Any] = {
        "batches": (64,),
        "hardware": hardware_settings(HardwareSettings(), ranges),
        "length": 36_000,
        "max_trials": 12,
    }
    return long_problem(**(given | changes))


def draw_processor(seed: int) -> Target:
    """Draw a slow device without noise of its own."""
    return replace(draw_target(seed), compute=2e-3, overhead=5e-3, noise=0.0)


def test_what_is_in_doubt_for_noise_is_measured_again_in_a_later_batch():
    problem, target = processor_problem(max_trials=24), draw_processor(0)

    records, _ = run_profile(problem, measuring_beside_others(target, seed=0))

    times = Counter(own.combination.key for own in records)
    assert max(times.values()) > 1, "the noise is told by the windows"
    assert max(times.values()) <= 4
    first = records[: problem.per_batch]
    assert len({own.combination.key for own in first}) == len(first), "one batch shares its disturbances"
    chosen = choose(problem, records).candidate.stages
    repeated = {key for key, count in times.items() if count > 1}
    assert repeated & {Combination(stage.model, stage.hardware).key for stage in chosen}


def test_the_same_measurements_are_made_once_where_they_were_steady():
    problem, target = processor_problem(max_trials=24), draw_processor(0)

    records, found = run_profile(problem, measuring(target))

    assert found.finished
    assert max(Counter(own.combination.key for own in records).values()) == 1


def test_nothing_is_measured_twice_where_that_would_not_pay():
    problem, target = processor_problem(max_trials=24), draw_processor(0)

    records, found = run_profile(problem, measuring_beside_others(target, seed=0), again=False)

    assert max(Counter(own.combination.key for own in records).values()) == 1
    assert found.finished


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "bests", "most"), [(0.0, 14, 0.04), (0.08, 13, 0.08)])
def test_noise_of_five_percent_is_averaged_out_of_choice_and_time(
    monkeypatch: pytest.MonkeyPatch, cache: float, bests: int, most: float
):
    """Twelve measurements of 48, 16 devices: most schedules are the grid's best, the others hardly slower.

    Where half a micro-batch saves nothing, and where it saves about as much as its overhead costs.
    """
    problem = processor_problem()
    losses, errors = [], []
    for seed in range(16):
        target = replace(draw_processor(seed), cache=cache)
        records, _ = run_profile(problem, measuring_beside_others(target, seed))
        assert len(records) <= problem.max_trials
        found = choose(problem, records).candidate
        with monkeypatch.context() as patched:
            patched.setattr(prediction, "StepTimeModel", lambda *_, target=target: Oracle(target))
            best = choose(problem, records).candidate.prediction.seconds
            real = prediction.Predictor(problem, records).predict(found.stages).seconds
        losses.append(real / best - 1)
        errors.append(found.prediction.seconds / real - 1)

    assert sum(loss <= 0.001 for loss in losses) >= bests
    assert np.mean(losses) <= 0.01
    assert max(losses) <= most
    assert np.sqrt(np.mean(np.square(errors))) <= 0.03, "half of what each single measurement is off"


@pytest.mark.parametrize("cache", [0.0, 0.08])
def test_what_the_parts_of_a_step_save_is_learnt_and_is_no_noise(cache: float):
    """Smaller parts stay in a processor's cache: a step in two parts may take no longer than one in one."""
    problem, target = processor_problem(), replace(draw_processor(0), cache=cache, fill=0.0)
    records, _ = run_profile(problem, measuring(target))
    full, settings = problem.base.model, HardwareSettings(memory_format=MemoryFormat.CHANNELS_LAST)
    for parts in (1, 2):
        own = Combination(full, settings.model_copy(update={"accumulation": parts}))
        records.append(target.measure(own))

    model = StepTimeModel(problem, hardwares(problem), records)

    assert model.noise <= 0.015
    for own in records:
        assert model.seconds(own.combination) == pytest.approx(own.step_seconds, rel=0.02)


def test_windows_that_differ_let_a_measurement_be_believed_less():
    problem, target = processor_problem(), draw_processor(1)
    records = [target.measure(own.combination) for own in design(problem, []).proposals]
    outlier = replace(records[0], step_seconds=1.15 * records[0].step_seconds)

    def pulled(spread: float) -> float:
        told = [replace(own, step_spread=spread) for own in (outlier, *records[1:])]
        return StepTimeModel(problem, hardwares(problem), told).seconds(outlier.combination)

    assert pulled(0.1) < pulled(0.001) <= outlier.step_seconds * (1 + 1e-3)


def test_a_restart_and_another_order_of_the_measurements_change_nothing():
    problem, target = image_problem(), draw_target(5)
    records = [target.measure(own.combination) for own in design(problem, []).proposals]
    rng = np.random.default_rng(0)

    first = design(problem, records)
    for _ in range(3):
        shuffled = [records[place] for place in rng.permutation(len(records))]
        assert design(problem, shuffled).proposals == first.proposals
        assert choose(problem, shuffled).candidate.stages == choose(problem, records).candidate.stages


def test_nothing_is_asked_for_while_measurements_are_under_way_or_twice():
    problem, target = image_problem(), draw_target(7)
    asked = design(problem, []).proposals
    pending = [
        ProfileRecord(own.combination.model, own.combination.hardware, TrialState.PENDING) for own in asked
    ]

    waiting = design(problem, pending)

    assert (waiting.proposals, waiting.finished) == ((), False)
    records, _ = run_profile(problem, measuring(target))
    assert len({own.combination.key for own in records}) == len(records)


def test_a_value_that_never_works_is_dropped_and_the_rest_goes_on():
    problem = image_problem()
    target = replace(draw_target(4), unsupported=frozenset({Precision.BF16}))

    records, found = run_profile(problem, measuring(target))

    refused = [own for own in records if own.state is TrialState.INFEASIBLE]
    first = {own.combination.key for own in design(problem, []).proposals}
    assert ("precision", "BF16") in Feasibility(problem, records).dropped
    assert len([own for own in refused if own.combination.key not in first]) <= 1
    chosen = choose(problem, records).candidate
    assert all(stage.hardware.precision is Precision.FP32 for stage in chosen.stages)
    assert found.finished


def test_combinations_that_need_as_much_memory_as_a_refused_one_are_not_asked_for():
    problem = image_problem(batches=(64, 128, 256, 512, 1024), max_trials=20)
    target = replace(draw_target(9), capacity=80.0)

    records, _ = run_profile(problem, measuring(target))

    feasibility = Feasibility(problem, records)
    refused = [own for own in records if own.state is TrialState.INFEASIBLE]
    assert refused
    for own in refused:
        larger = own.model.model_copy(update={"global_batch": 2 * own.model.global_batch})
        assert not feasibility.allows(Combination(larger, own.hardware))
    chosen = choose(problem, records).candidate
    assert all(target.measure(own.combination).measured for own in records if own.measured)
    assert all(
        feasibility.allows(replace(records[0], model=s.model, hardware=s.hardware).combination)
        for s in chosen.stages
    )


def test_nothing_feasible_names_what_was_refused():
    problem = image_problem()
    records = [
        ProfileRecord(
            own.combination.model,
            own.combination.hardware,
            TrialState.INFEASIBLE,
            reason="memory: must be at most 2 GiB, not 3 GiB",
        )
        for own in design(problem, []).proposals
    ]

    with pytest.raises(NothingFeasibleError) as refused:
        choose(problem, records)

    assert "the constant recipe: memory: must be at most 2 GiB, not 3 GiB" in str(refused.value)
    assert "(and " not in str(refused.value) or "more)" in str(refused.value)


def test_low_precision_is_guarded_twice_and_out_where_it_moves_the_loss():
    problem, target = image_problem(), draw_target(0)
    asked = design(problem, []).proposals
    low = [own for own in asked if own.combination.hardware.precision is Precision.BF16]

    assert [own.guarded for own in low] == [True, True, *[False] * (len(low) - 2)]
    assert not any(own.guarded for own in asked if own not in low)
    records = [
        replace(target.measure(own.combination), loss_deviation=0.4 if own.guarded else None) for own in asked
    ]
    assert "BF16" in {own.hardware.precision.value for own in records}
    chosen = choose(problem, records).candidate
    assert all(stage.hardware.precision is Precision.FP32 for stage in chosen.stages)
    harmless = [replace(own, loss_deviation=0.01 if own.loss_deviation else None) for own in records]
    assert any(
        stage.hardware.precision is Precision.BF16 for stage in choose(problem, harmless).candidate.stages
    )


def test_an_enormous_grid_is_sampled():
    ranges = tuple(
        HardwareSettings(precision=precision, compilation=compilation, threads=threads)
        for precision in (Precision.FP32, Precision.BF16)
        for compilation in (Compilation.NONE, Compilation.DEFAULT)
        for threads in range(1, 65)
    )
    problem = image_problem(hardware=ranges, batches=tuple(range(64, 64 * 20, 64)))

    grid = make_grid(problem)

    assert grid.size == 257 * 3 * 2 * 19
    assert len(grid.combinations) <= 4096 < grid.size
    assert grid.combinations[0] == problem.full
    assert make_grid(problem).combinations == grid.combinations
