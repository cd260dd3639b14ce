"""What is too close to call is trained with further seeds before the family is chosen."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache
from statistics import fmean

import pytest
from tests.scaling.simulation import Simulation, Surface, Target, purposes, sweep

from nascale.scaling import engine
from nascale.scaling.forecast import remaining_seconds
from nascale.scaling.networks import ScaledNetwork, scaled
from nascale.scaling.problem import MEASURE_ONLY, Purpose, ScalingProposal
from nascale.search.history import TrialState

RULES = ("EfficientNet", "FastScaling", "LACSGPU")
NOISY = Surface(noise=0.004)
REPEATS, MOST = 2, 8
SEEDS = 8


@cache
def done(
    *, per_level: bool = True, most: int = MOST, noise: float = NOISY.noise, seed: int = 0
) -> Simulation:
    """Return a finished sweep; for reading alone."""
    problem = sweep(
        per_level=per_level, baselines=RULES, finalists=3, repeats=REPEATS, most_repeats=most, seed=seed
    )
    simulation = Simulation(problem, surface=Surface(noise=noise)).run()
    assert simulation.answer.finished
    return simulation


def trainings(simulation: Simulation) -> Counter[str]:
    """Count the trainings of each network at the last rung."""
    last = simulation.problem.rungs - 1
    return Counter(
        scaled(simulation.problem, record.multipliers).key
        for record in simulation.records
        if record.purpose not in MEASURE_ONLY and record.rung == last
    )


def worth(simulation: Simulation, network: ScaledNetwork) -> float:
    """Return a network's accuracy without noise."""
    return simulation.surface.accuracy(simulation.problem, network, simulation.problem.rungs - 1)


class TestFurtherTrainings:
    @pytest.mark.parametrize("per_level", [True, False])
    def test_are_of_close_networks_alone_and_none_beyond_the_most(self, per_level):
        simulation = done(per_level=per_level)
        counts = trainings(simulation)
        confirmed = {
            scaled(simulation.problem, own.multipliers).key
            for own in purposes(simulation.records, Purpose.CONFIRMATION)
        }
        assert confirmed
        assert max(counts.values()) <= MOST
        assert {key for key, count in counts.items() if count > REPEATS} == confirmed
        assert any(count == REPEATS for count in counts.values()), "those far behind get none"

    def test_come_in_steps_of_the_repeats_with_seeds_of_their_own(self):
        simulation = done()
        asked = [
            (scaled(simulation.problem, own.multipliers).key, own.repeat)
            for own in simulation.records
            if own.purpose not in MEASURE_ONLY and own.rung == 1
        ]
        assert len(set(asked)) == len(asked)
        for key, count in trainings(simulation).items():
            assert sorted(repeat for own, repeat in asked if own == key) == list(range(count))
            assert count % REPEATS == 0

    def test_are_none_where_no_more_than_the_repeats_are_wanted(self):
        assert purposes(done(most=REPEATS).records, Purpose.CONFIRMATION) == []

    def test_are_none_where_trainings_have_no_noise(self):
        assert purposes(done(noise=0.0).records, Purpose.CONFIRMATION) == []

    def test_follow_everything_else_and_are_measured_by_nobody(self):
        records = done().records
        first = next(own.index for own in records if own.purpose is Purpose.CONFIRMATION)
        assert {own.purpose for own in records[first:]} == {Purpose.CONFIRMATION}

    def test_count_as_verifying_and_are_forecast(self):
        simulation = done()
        further = purposes(simulation.records, Purpose.CONFIRMATION)
        spent = simulation.summary.seconds
        verified = [*purposes(simulation.records, Purpose.VERIFICATION), *further]
        assert spent.verifying == pytest.approx(sum(own.device_seconds for own in verified))
        before = simulation.records[: further[0].index]
        answer = engine.propose(simulation.problem, before, 1)
        assert answer.phase is engine.Phase.VERIFYING
        assert not answer.finished
        left, less = (
            remaining_seconds(replace(simulation.problem, most_repeats=most), before, [1.0, 3.0]) or 0.0
            for most in (MOST, REPEATS)
        )
        assert left > less


class TestChoice:
    def test_is_nearer_to_the_best_than_without_further_trainings(self):
        with_further, without = (
            [
                worth(simulation, member.network)
                for seed in range(SEEDS)
                for simulation in [_shuffled(seed, most)]
                for member in simulation.summary.members
            ]
            for most in (MOST, REPEATS)
        )
        assert fmean(with_further) > fmean(without)

    def test_is_made_of_what_was_not_beaten(self):
        simulation = done()
        counts = trainings(simulation)
        for member in simulation.summary.members:
            assert member.trainings == counts[member.network.key]

    def test_stays_as_it_was_until_all_further_trainings_have_ended(self):
        simulation = done()
        first = next(own.index for own in simulation.records if own.purpose is Purpose.CONFIRMATION)
        before = engine.summarise(simulation.problem, simulation.records[:first])
        between = engine.summarise(simulation.problem, simulation.records[:-1])
        assert [own.network.key for own in between.members] == [own.network.key for own in before.members]
        assert between.complete

    def test_does_not_depend_on_the_order_in_which_trials_ended(self):
        simulation = done()
        records = list(simulation.records)
        random.Random(5).shuffle(records)
        assert engine.summarise(simulation.problem, records) == simulation.summary
        assert engine.propose(simulation.problem, records, 1).finished


def test_failed_further_trainings_neither_stop_the_sweep_nor_count():
    def fate(own: ScalingProposal, _: int) -> TrialState:
        failed = own.purpose is Purpose.CONFIRMATION and own.repeat % 2 == 0
        return TrialState.FAILED if failed else TrialState.SUCCEEDED

    problem = sweep(per_level=True, baselines=RULES, finalists=3, repeats=REPEATS, most_repeats=MOST)
    simulation = Simulation(problem, surface=NOISY, fate=fate).run()
    assert simulation.answer.finished
    assert [own.name for own in simulation.summary.members] == ["s", "m", "l"]
    assert all(own.trainings <= REPEATS + (MOST - REPEATS) // 2 for own in simulation.summary.members)


def _shuffled(seed: int, most: int) -> Simulation:
    """Return a finished sweep whose trainings have noise of their own."""

    class Own(Simulation):
        def _values(self, own, network, lead):
            if own.purpose in MEASURE_ONLY:
                return super()._values(own, network, lead)
            draw = random.Random(f"{seed} {network.key} {own.rung} {own.repeat}")
            return {"accuracy": worth_at(self, network, own.rung) + draw.gauss(0, self.surface.noise)}

    problem = sweep(per_level=True, baselines=RULES, finalists=3, repeats=REPEATS, most_repeats=most)
    return Own(problem, target=Target(), surface=NOISY).run()


def worth_at(simulation: Simulation, network: ScaledNetwork, rung: int) -> float:
    return simulation.surface.accuracy(simulation.problem, network, rung)
