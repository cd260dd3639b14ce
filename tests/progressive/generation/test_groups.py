"""Workers, processes and how they talk: measured like everything else, and counted in every prediction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.progressive.generation.simulation import (
    Oracle,
    Target,
    draw_target,
    group_problem,
    measuring,
    run_profile,
)

from nascale.contract.stage_settings import CommunicationHook, HardwareSettings, Parallelism
from nascale.contract.switch_class import SwitchClass
from nascale.contract.work_order import Precision
from nascale.progressive.generation import prediction
from nascale.progressive.generation.choice import choose
from nascale.progressive.generation.feasibility import Feasibility
from nascale.progressive.generation.grid import hardware_settings, hardwares, make_grid
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.problem import (
    Combination,
    GenerationProblem,
    Optimize,
    ProfileRecord,
    Risk,
)
from nascale.progressive.generation.profile import design
from nascale.progressive.generation.step_time import StepTimeModel
from nascale.search.history import TrialState


def test_settings_that_change_nothing_or_can_not_be_are_no_combinations():
    ranges = {
        "workers": (1, 2),
        "parallelism": (Parallelism.DDP, Parallelism.FSDP),
        "communication_hook": (CommunicationHook.NONE, CommunicationHook.BF16),
    }

    found = hardware_settings(HardwareSettings(), ranges)

    shapes = [(own.workers, own.parallelism.value, own.communication_hook.value) for own in found]
    assert shapes == [(1, "DDP", "None"), (2, "DDP", "None"), (2, "DDP", "BF16"), (2, "FSDP", "None")]


@pytest.mark.slow
def test_a_tenth_of_the_grid_finds_workers_and_communication_within_three_percent_of_the_best(
    monkeypatch: pytest.MonkeyPatch,
):
    """12 devices with a network of their own; 11 schedules are that near, none is 15 % off."""
    problem = group_problem(max_trials=22)
    size = make_grid(problem).size
    ratios, errors, worlds = [], [], set[int]()
    for seed in range(200, 212):
        target = draw_target(seed)
        records, _ = run_profile(problem, measuring(target))
        assert len(records) <= size / 10
        found = choose(problem, records).candidate
        with monkeypatch.context() as patched:
            patched.setattr(prediction, "StepTimeModel", lambda *_, target=target: Oracle(target))
            best = choose(problem, records).candidate.prediction.seconds
            real = Predictor(problem, records).predict(found.stages).seconds
        ratios.append(real / best)
        errors.append(abs(found.prediction.seconds / real - 1))
        worlds.add(found.stages[-1].hardware.world)

    assert sum(ratio <= 1.03 for ratio in ratios) >= 11
    assert max(ratios) <= 1.15
    assert np.median(errors) <= 0.02
    assert len(worlds) > 1, "devices must differ in what suits them"


def test_an_exchange_that_takes_long_keeps_one_worker_and_a_quick_one_takes_several():
    problem = group_problem(max_trials=22)
    slow = Target(gradients=0.2, latency=0.05, local=1.0)
    quick = Target(gradients=1e-4, latency=1e-5)

    chosen = {
        name: choose(problem, run_profile(problem, measuring(target))[0])
        .candidate.stages[-1]
        .hardware.workers
        for name, target in (("slow", slow), ("quick", quick))
    }

    assert chosen == {"slow": 1, "quick": 4}


def test_steps_of_groups_that_were_not_measured_are_predicted():
    problem, target = group_problem(max_trials=22), draw_target(207)
    records, _ = run_profile(problem, measuring(target))
    model = StepTimeModel(problem, hardwares(problem), records)

    unseen = [own for own in make_grid(problem).combinations if not model.measured(own)]
    off = model.believe(unseen).mean - np.log([target.seconds(own.model, own.hardware) for own in unseen])
    error = model.held_out_error()

    assert np.median(np.abs(np.expm1(off))) <= 0.08
    assert error is not None
    assert error.median <= 0.12


@pytest.mark.parametrize("allowed", [frozenset(), frozenset({Risk.COMPRESSED_COMMUNICATION})])
def test_compressed_communication_ends_before_the_last_stage_unless_it_is_allowed_late(
    allowed: frozenset[Risk],
):
    """The exchange is most of a step, and without the hook the last stage would take much longer."""
    problem = group_problem(
        max_trials=22,
        allowed_late=allowed,
        hardware=hardware_settings(
            HardwareSettings(workers=2),
            {"communication_hook": (CommunicationHook.NONE, CommunicationHook.BF16)},
        ),
        base=group_problem().base.model_copy(update={"hardware": HardwareSettings(workers=2)}),
    )
    target = Target(compute=1e-5, memory=1e-6, gradients=0.05, latency=1e-5)
    records, _ = run_profile(problem, measuring(target))

    stages = choose(problem, records).candidate.stages

    late = CommunicationHook.BF16 if allowed else CommunicationHook.NONE
    assert stages[-1].hardware.communication_hook is late
    assert any(own.hardware.communication_hook is CommunicationHook.BF16 for own in stages)


def test_device_seconds_count_every_worker_with_all_that_its_pod_holds():
    problem = group_problem(optimize=Optimize.DEVICE_SECONDS, devices_per_worker=2)
    target = Target(gradients=1e-4, latency=1e-5)
    records = [target.measure(own) for own in make_grid(problem).combinations if own.model.global_batch == 64]
    predictor = Predictor(problem, records)
    four = HardwareSettings(workers=4)
    stage = problem.base.model_copy(update={"hardware": four})

    found = predictor.predict([stage])

    assert predictor.rate(Combination(stage.model, four)) == 8.0
    assert found.device_seconds == pytest.approx(8 * found.seconds)
    assert choose(problem, records).candidate.stages[-1].hardware.workers == 1, (
        "four are never four times as fast"
    )


def test_other_workers_cost_new_pods_and_other_communication_new_processes():
    problem, target = group_problem(), Target(start=6.0, pods=15.0, switch=0.2)
    combinations = make_grid(problem).combinations[:40]
    predictor = Predictor(problem, [target.measure(own) for own in combinations])
    model = problem.base.model
    alone = Combination(model, HardwareSettings())
    two = Combination(model, HardwareSettings(workers=2))
    hooked = Combination(model, HardwareSettings(workers=2, communication_hook=CommunicationHook.BF16))

    assert predictor.switch(alone, two) == (SwitchClass.RESCHEDULE, pytest.approx(21.2))
    assert predictor.switch(two, hooked) == (SwitchClass.RESTART, pytest.approx(6.2))


def test_a_ring_of_more_processes_takes_longer_by_what_each_sends():
    problem = group_problem()
    model = StepTimeModel(problem, hardwares(problem), [Target().measure(problem.full)])
    seconds = [
        model.seconds(Combination(problem.base.model, HardwareSettings(workers=count))) * count
        for count in (2, 4)
    ]

    assert seconds[1] > seconds[0], "processor time grows with what is exchanged"
    assert all(math.isfinite(own) for own in seconds)


def hook_problem(**changes: Any) -> GenerationProblem:
    """Return a problem whose two workers may round their gradients in two ways, beside BF16."""
    base = group_problem().base.model_copy(update={"hardware": HardwareSettings(workers=2)})
    ranges = {
        "precision": (Precision.FP32, Precision.BF16),
        "communication_hook": tuple(CommunicationHook),
    }
    return group_problem(base=base, hardware=hardware_settings(base.hardware, ranges), **changes)


def names(settings: Iterable[tuple[str, str]]) -> set[str]:
    return {f"{name} {value}" for name, value in settings}


FP16_HOOK, BF16_HOOK, BF16 = "communication_hook FP16", "communication_hook BF16", "precision BF16"


def judged(problem: GenerationProblem, deviations: Mapping[frozenset[str], float]) -> list[ProfileRecord]:
    """Measure everything; what is risky has a deviation by the names of its settings."""
    target = Target()
    return [
        replace(
            target.measure(own),
            loss_deviation=deviations.get(frozenset(names(problem.guarded(own.hardware)))),
        )
        for own in make_grid(problem).combinations
    ]


def test_rounded_gradients_are_compared_alone_before_they_are_with_low_precision():
    problem = hook_problem(max_trials=60)
    records, rounds = list[ProfileRecord](), list[list[frozenset[str]]]()
    while not (found := design(problem, records)).finished and len(rounds) < 3:
        guarded = [own for own in found.proposals if own.guarded]
        rounds.append([frozenset(names(problem.guarded(own.combination.hardware))) for own in guarded])
        records += [
            replace(Target().measure(own.combination), loss_deviation=0.01 if own.guarded else None)
            for own in found.proposals
        ]

    told = [own for looked in rounds for own in looked]
    assert {frozenset({FP16_HOOK}), frozenset({BF16_HOOK}), frozenset({BF16})} <= set(rounds[0])
    assert max(Counter(told).values()) == 2
    risky = [own for own in records if problem.guarded(own.hardware)]
    assert len(risky) > len(told), "more of them are measured than compared"
    compared: Counter[frozenset[str]] = Counter()
    for own in risky:
        settings = frozenset(names(problem.guarded(own.hardware)))
        compared[settings] += own.loss_deviation is not None
        assert compared[settings], "the first measurement of what is risky is compared"


def test_workers_alone_are_no_risk_and_one_process_rounds_nothing():
    problem = group_problem()
    for hardware in (
        HardwareSettings(workers=4),
        HardwareSettings(communication_hook=CommunicationHook.FP16),
        HardwareSettings(workers=2, parallelism=Parallelism.FSDP),
    ):
        assert problem.guarded(hardware) == frozenset()
    one = HardwareSettings(processes_per_worker=2, communication_hook=CommunicationHook.FP16)
    assert problem.guarded(one) == {("communication_hook", "FP16")}


@pytest.mark.parametrize("deviation", [0.4, math.inf])
def test_a_hook_that_moves_the_loss_is_not_used_and_is_named(deviation: float):
    problem = hook_problem(length=100_000_000)
    harmless = {frozenset({BF16_HOOK}): 0.01, frozenset({BF16}): 0.01, frozenset({BF16, BF16_HOOK}): 0.02}
    records = judged(problem, {**harmless, frozenset({FP16_HOOK}): deviation})

    chosen = choose(problem, records)

    hooks = {own.hardware.communication_hook for own in chosen.candidate.stages}
    assert CommunicationHook.FP16 not in hooks
    assert CommunicationHook.BF16 in hooks, "which is as fast, and harmless"
    (left,) = chosen.left_out
    assert left.settings == (("communication_hook", "FP16"),)
    said = "but the loss is no number" if math.isinf(deviation) else "not 0.4"
    assert left.reason == f"loss deviation must be at most 0.05, {said}"
    feasibility = Feasibility(problem, records)
    for own in make_grid(problem).combinations:
        assert feasibility.allows(own) == (own.hardware.communication_hook is not CommunicationHook.FP16)


@pytest.mark.parametrize(
    ("deviations", "out"),
    [
        ({(FP16_HOOK,): 0.01, (BF16,): 0.01, (FP16_HOOK, BF16): 0.4}, [{FP16_HOOK, BF16}]),
        ({(FP16_HOOK,): 0.01, (BF16,): 0.4, (FP16_HOOK, BF16): 0.4}, [{BF16}]),
        ({(BF16,): 0.01, (FP16_HOOK, BF16): 0.4}, [{FP16_HOOK}]),
        ({(FP16_HOOK, BF16): 0.4}, [{FP16_HOOK}, {BF16}]),
        ({(FP16_HOOK, BF16): 0.01, (BF16,): 0.05}, []),
    ],
)
def test_who_is_to_blame_where_several_risky_settings_come_together(
    deviations: dict[tuple[str, ...], float], out: list[set[str]]
):
    problem = hook_problem()
    records = judged(problem, {frozenset(own): value for own, value in deviations.items()})

    feasibility = Feasibility(problem, records)

    assert sorted(map(sorted, (names(own.settings) for own in feasibility.left_out))) == sorted(
        map(sorted, out)
    )
    for own in make_grid(problem).combinations:
        risky = names(problem.guarded(own.hardware))
        assert feasibility.allows(own) == (not any(settings <= risky for settings in out))


def test_what_never_worked_is_named_with_why():
    problem = hook_problem()
    records = [
        ProfileRecord(own.model, own.hardware, TrialState.INFEASIBLE, reason="UnsupportedHook: no such hook")
        if own.hardware.communication_hook is CommunicationHook.FP16
        else Target().measure(own)
        for own in make_grid(problem).combinations
    ]

    (left,) = Feasibility(problem, records).left_out

    assert (left.settings, left.reason) == (
        (("communication_hook", "FP16"),),
        "UnsupportedHook: no such hook",
    )
