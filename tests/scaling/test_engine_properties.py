"""What holds of a sweep whatever happens: random fates, parallel pods, ends in any order, restarts."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scaling.simulation import BASE, TRANSFORMER, Simulation, Surface, Target, sweep

from nascale.scaling import engine
from nascale.scaling.networks import scaled
from nascale.scaling.problem import MEASURE_ONLY, Member, Purpose, ScalingProblem, ScalingRecord
from nascale.search.history import TrialState

ENDS = [own for own in TrialState if own is not TrialState.PENDING]
ALL_BASELINES = ("EfficientNet", "FastScaling", "LACSGPU", "LACSTPU", "AccuracyFLOPs")

problems = st.builds(
    sweep,
    base=st.sampled_from([BASE, TRANSFORMER]),
    per_level=st.booleans(),
    rungs=st.integers(1, 3),
    repeats=st.integers(1, 2),
    finalists=st.integers(1, 2),
    vectors=st.integers(4, 8),
    trained_vectors=st.integers(2, 4),
    per_pod=st.integers(2, 8),
    max_remeasurements=st.integers(0, 2),
    seed=st.integers(0, 5),
    baselines=st.sampled_from([(), ("EfficientNet",), ALL_BASELINES]),
    members=st.sampled_from(
        [
            (Member("s", multiple=1.4),),
            (Member("s", multiple=1.0), Member("m", multiple=2.0), Member("l", multiple=2.1)),
            (Member("s", seconds=0.004), Member("m", seconds=0.008)),
        ]
    ),
)


@dataclass
class Crowd:
    """Carries out a sweep with several pods at a time, which end in any order."""

    problem: ScalingProblem
    draw: random.Random
    pods: int = 1
    failing: float = 0.0
    """Share of trials that don't succeed."""
    drifting: float = 0.0
    """Share of measuring pods on a disturbed device."""
    records: list[ScalingRecord] = field(default_factory=list)
    answer: engine.Proposals = field(default_factory=engine.Proposals)

    def run(self) -> Crowd:
        simulation = Simulation(self.problem, Target(drift=self._factor), Surface(), self._fate)
        ended: dict[int, ScalingRecord] = {}
        while True:
            pending = [own for own in self.records if own.state is TrialState.PENDING]
            free = self.pods - len({own.lead for own in pending})
            self.answer = self._ask(free)
            for pod in self.answer.pods:
                simulation.records = self.records
                made = simulation.work(pod, len(self.records))
                ended.update((own.index, own) for own in made)
                self.records += [replace(own, state=TrialState.PENDING, values={}) for own in made]
            pending = [own for own in self.records if own.state is TrialState.PENDING]
            if not pending:
                assert self.answer.finished or self.answer.fault, "neither anything to do nor an end"
                return self
            chosen = self.draw.choice(pending).index
            self.records[chosen] = ended[chosen]
            assert len(self.records) < 1500, "no end"

    def _ask(self, free: int) -> engine.Proposals:
        shuffled = self.draw.sample(self.records, len(self.records))
        answer = engine.propose(self.problem, shuffled, free)
        assert len(answer.pods) <= max(0, free)
        for pod in answer.pods:
            self._check(pod)
        return answer

    def _check(self, pod: engine.Pod) -> None:
        if pod[0].purpose in MEASURE_ONLY:
            assert pod[0].purpose is Purpose.REFERENCE
            assert all(own.purpose is Purpose.LATENCY for own in pod[1:])
            assert len(pod) <= self.problem.per_pod
            assert not any(
                own.state is TrialState.PENDING and own.purpose not in MEASURE_ONLY for own in self.records
            )
        else:
            assert len(pod) == 1
            assert not any(
                own.state is TrialState.PENDING and own.purpose in MEASURE_ONLY for own in self.records
            )

    def _fate(self, _: object, __: int) -> TrialState:
        return self.draw.choice(ENDS) if self.draw.random() < self.failing else TrialState.SUCCEEDED

    def _factor(self, pod: int) -> float:
        return 1.15 if random.Random(pod).random() < self.drifting else 1.0


def crowd(problem: ScalingProblem, seed: int, pods: int, failing: float, drifting: float) -> Crowd:
    return Crowd(problem, random.Random(seed), pods, failing, drifting).run()


def assert_nothing_is_done_twice(done: Crowd) -> None:
    trainings = Counter(
        (scaled(done.problem, own.multipliers).key, own.rung, own.repeat)
        for own in done.records
        if own.purpose not in MEASURE_ONLY
    )
    measurements = Counter(
        scaled(done.problem, own.multipliers).key
        for own in done.records
        if own.purpose is Purpose.LATENCY and own.remeasures is None
    )
    repetitions = Counter(own.remeasures for own in done.records if own.remeasures is not None)
    assert max([*trainings.values(), *measurements.values(), 0]) <= 1
    assert max(repetitions.values(), default=0) <= done.problem.max_remeasurements


@pytest.mark.slow
class TestAnySweep:
    @settings(max_examples=30, deadline=None)
    @given(problems, st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    def test_ends_whatever_becomes_of_its_trials(self, problem, seed, pods, failing):
        done = crowd(problem, seed, pods, failing, drifting=0.0)
        assert_nothing_is_done_twice(done)
        summary = engine.summarise(problem, done.records)
        if done.answer.finished:
            assert summary.complete
            assert [own.name for own in summary.members] == [own.name for own in problem.members]

    @settings(max_examples=20, deadline=None)
    @given(problems, st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.05, 0.3, 0.6]))
    def test_ends_on_a_target_that_drifts(self, problem, seed, pods, drifting):
        done = crowd(problem, seed, pods, 0.05, drifting)
        assert_nothing_is_done_twice(done)

    @settings(max_examples=20, deadline=None)
    @given(problems, st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.0, 0.1]))
    def test_keeps_budgets_and_grows_in_latency(self, problem, seed, pods, failing):
        done = crowd(problem, seed, pods, failing, drifting=0.0)
        summary = engine.summarise(problem, done.records)
        assert done.answer.finished or failing
        for own in summary.members:
            assert own.latency <= own.budget * (1 + problem.tolerance)
        for baseline in summary.baselines:
            for own in baseline.members:
                assert own.latency <= own.budget * (1 + problem.tolerance)
        latencies = [own.latency for own in summary.members]
        assert latencies == sorted(latencies)


@pytest.mark.slow
class TestTheOrderOfTrials:
    @settings(max_examples=12, deadline=None)
    @given(problems, st.integers(0, 10**6), st.integers(1, 4))
    def test_in_which_they_are_listed_changes_nothing(self, problem, seed, pods):
        done = crowd(problem, seed, pods, 0.1, drifting=0.2)
        draw = random.Random(seed)
        cut = done.records[: draw.randint(0, len(done.records))]
        shuffled = draw.sample(cut, len(cut))
        assert engine.propose(problem, cut, 3) == engine.propose(problem, shuffled, 3)
        assert engine.summarise(problem, cut) == engine.summarise(problem, shuffled)
