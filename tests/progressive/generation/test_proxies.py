"""Schedules that are tried: known ones first, then searched ones; the choice by time and quality."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.progressive.generation.simulation import Oracle, draw_target, image_problem

from nascale.progressive.generation import prediction
from nascale.progressive.generation.candidates import Candidate
from nascale.progressive.generation.courses import ramp_of
from nascale.progressive.generation.errors import QualityFloorError
from nascale.progressive.generation.problem import GenerationProblem, ProfileRecord, ProxyRecord, QualityFloor
from nascale.progressive.generation.profile import design
from nascale.progressive.generation.proxies import ProxyTrial, choose_by_quality, propose_proxies
from nascale.search.history import TrialState

METRIC = "accuracy"


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[ProfileRecord]:
    target = draw_target(4)
    monkeypatch.setattr(prediction, "StepTimeModel", lambda *_: Oracle(target))
    return [target.measure(own.combination) for own in design(image_problem(), []).proposals]


def quality(candidate: Candidate) -> float:
    """Return a made-up accuracy: what is small, shallow or in large batches early costs some of it."""
    whole = image_problem().whole
    course = candidate.course
    lost = 0.0
    for place, piece in enumerate(course.pieces):
        share = (piece.end - course.begin(place)) / whole
        small = 1 - piece.model.resolution / 28
        lost += share * (0.05 * small**2 + 0.02 * (1 - piece.model.depth))
        lost += share * 0.004 * math.log2(piece.model.global_batch / 64)
    return 0.93 - lost


def train(trials: tuple[ProxyTrial, ...]) -> list[ProxyRecord]:
    return [
        ProxyRecord(own.candidate.name, TrialState.SUCCEEDED, {METRIC: quality(own.candidate)})
        for own in trials
    ]


def search(problem: GenerationProblem, records: list[ProfileRecord], most: int) -> list[ProxyRecord]:
    proxies: list[ProxyRecord] = []
    for _ in range(most + 1):
        fresh = propose_proxies(problem, records, proxies, most, metric=METRIC)
        if not fresh:
            return proxies
        proxies += train(fresh)
    raise AssertionError("the search did not end")


def test_known_schedules_come_first_and_each_once(records: list[ProfileRecord]):
    asked = propose_proxies(image_problem(), records, [], 20, metric=METRIC)

    names = [own.candidate.name for own in asked]
    assert names[0] == "constant"
    assert {"composer", "efficientnetv2", "stacking"} <= set(names)
    assert len(set(names)) == len(names)
    shown = [repr(own.candidate.stages) for own in asked]
    assert len(set(shown)) == len(shown)
    assert len(propose_proxies(image_problem(), records, [], 3, metric=METRIC)) == 3


def test_the_search_goes_on_with_schedules_that_are_new(records: list[ProfileRecord]):
    problem = image_problem()

    proxies = search(problem, records, 20)

    assert len(proxies) == 20 == len({own.candidate for own in proxies})
    ramps = [own.candidate for own in proxies if ramp_of(own.candidate) is not None]
    assert len(ramps) >= 10


def test_the_same_trials_in_another_order_give_the_same_proposals(records: list[ProfileRecord]):
    problem = image_problem()
    proxies = search(problem, records, 12)
    rng = np.random.default_rng(1)

    first = propose_proxies(problem, records, proxies, 16, metric=METRIC)
    shuffled = [proxies[place] for place in rng.permutation(len(proxies))]

    assert len(first) == 4
    again = propose_proxies(problem, records[::-1], shuffled, 16, metric=METRIC)
    assert [own.candidate.stages for own in again] == [own.candidate.stages for own in first]


def test_nothing_is_asked_for_while_trials_are_under_way(records: list[ProfileRecord]):
    asked = propose_proxies(image_problem(), records, [], 20, metric=METRIC)
    pending = [ProxyRecord(own.candidate.name, TrialState.PENDING) for own in asked]

    assert propose_proxies(image_problem(), records, pending, 20, metric=METRIC) == ()


def test_with_a_floor_the_fastest_schedule_that_keeps_it_is_chosen(records: list[ProfileRecord]):
    floor = QualityFloor(METRIC, bound=0.92)
    problem = image_problem(quality_floor=floor)
    proxies = search(problem, records, 24)

    choice = choose_by_quality(problem, records, proxies, metric=METRIC)

    values = {own.candidate: own.values[METRIC] for own in proxies}
    assert values[choice.candidate.name] >= 0.92
    for other, _ in choice.alternatives:
        faster = other.prediction.seconds < choice.candidate.prediction.seconds
        assert not (faster and values[other.name] >= 0.92)
    assert choice.candidate.prediction.seconds < choice.best_constant.prediction.seconds
    assert f"{METRIC} 0.92" in choice.reason
    relative = replace(problem, quality_floor=QualityFloor(METRIC, within=0.93 - 0.92))
    assert choose_by_quality(relative, records, proxies, metric=METRIC).candidate == choice.candidate


def test_the_search_finds_faster_schedules_above_the_floor_than_the_known_ones(records: list[ProfileRecord]):
    problem = image_problem(quality_floor=QualityFloor(METRIC, bound=0.918))
    known_ones = train(propose_proxies(problem, records, [], 20, metric=METRIC))
    proxies = search(problem, records, 24)

    before = choose_by_quality(problem, records, known_ones, metric=METRIC).candidate
    after = choose_by_quality(problem, records, proxies, metric=METRIC).candidate

    assert after.prediction.seconds < before.prediction.seconds


def test_a_floor_that_nothing_keeps_is_told_with_the_best(records: list[ProfileRecord]):
    problem = image_problem(quality_floor=QualityFloor(METRIC, bound=0.99))
    proxies = train(propose_proxies(problem, records, [], 20, metric=METRIC))

    with pytest.raises(QualityFloorError) as missed:
        choose_by_quality(problem, records, proxies, metric=METRIC)

    assert "accuracy must be at least 0.99" in str(missed.value)
    assert "has 0.93" in str(missed.value)
    nothing = [replace(own, values={}) for own in proxies]
    with pytest.raises(QualityFloorError, match="none has reported it"):
        choose_by_quality(problem, records, nothing, metric=METRIC)


def test_without_a_floor_the_knee_is_chosen_and_failed_trials_are_left_out(records: list[ProfileRecord]):
    problem = image_problem()
    proxies = train(propose_proxies(problem, records, [], 20, metric=METRIC))
    failed = [replace(proxies[-1], state=TrialState.FAILED, values={})]

    choice = choose_by_quality(problem, records, [*proxies[:-1], *failed], metric=METRIC)

    assert "knee" in choice.reason
    assert choice.candidate.name in {own.candidate for own in proxies[:-1]}
    assert failed[0].candidate not in {own.name for own, _ in choice.alternatives}
