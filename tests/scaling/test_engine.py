"""What a sweep asks for and what it finds, on a simulated target."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections import Counter
from dataclasses import replace
from functools import cache
from statistics import fmean

import pytest
from tests.scaling.simulation import (
    ACCURACY,
    BASE,
    LARGE_BASE,
    LATENCY,
    TRANSFORMER,
    Simulation,
    Surface,
    Target,
    purposes,
    sweep,
)

from nascale.scaling import engine, halving
from nascale.scaling.networks import ScaledNetwork, scaled, scaler
from nascale.scaling.plan import FaultReason
from nascale.scaling.problem import (
    MEASURE_ONLY,
    UNSCALED,
    Member,
    Purpose,
    ScalingProblem,
    ScalingProposal,
    ScalingRecord,
)
from nascale.scaling.rays import ray
from nascale.scaling.vectors import PUBLISHED, Candidate, distance, published, sequence, shares
from nascale.search.history import TrialState
from nascale.search.problem import Direction, Objective

QUIET = Target(noise=0.0)
EXACT = Surface(noise=0.0)


@cache
def plain() -> Simulation:
    """Return a sweep with every default, finished; for reading alone."""
    return finished(sweep())


def finished(problem: ScalingProblem, **parts) -> Simulation:
    done = Simulation(problem, **parts).run()
    assert done.answer.finished, done.answer.fault
    return done


def largest_keeping(done: Simulation, candidate: Candidate, budget: float) -> ScaledNetwork:
    limit = budget * (1 + done.problem.tolerance)
    own = ray(done.problem, candidate.vector)
    return own.networks[bisect.bisect_right(own.networks, limit, key=done.target.latency) - 1]


def accuracies_of_a_dense_search(done: Simulation, budget: float, directions: int = 60) -> list[float]:
    """Accuracy of the networks of many directions that fill a budget, the best first."""
    last = done.problem.rungs - 1
    candidates = [*published(done.problem).values(), *itertools.islice(sequence(done.problem), directions)]
    networks = [largest_keeping(done, own, budget) for own in candidates]
    return sorted((done.surface.accuracy(done.problem, own, last) for own in networks), reverse=True)


def missed_shares(done: Simulation) -> dict[str, float]:
    """For each member, how far its accuracy is below a dense search's best: 0 the best, 1 a usual network."""
    missed = {}
    for member in done.summary.members:
        dense = accuracies_of_a_dense_search(done, member.budget)
        found = done.surface.accuracy(done.problem, member.network, done.problem.rungs - 1)
        missed[member.name] = (dense[0] - found) / (dense[0] - dense[len(dense) // 2])
    return missed


class TestMeasuring:
    def test_begins_with_the_reference_and_networks_of_several_vectors_in_one_pod(self):
        (pod,) = engine.propose(sweep(), [], 1).pods
        assert pod[0] == ScalingProposal(Purpose.REFERENCE, UNSCALED)
        assert len(pod) > 4
        assert {own.purpose for own in pod[1:]} == {Purpose.LATENCY}

    def test_comes_before_any_training_and_takes_few_pods(self):
        records = plain().records
        first_training = next(own.index for own in records if own.purpose not in MEASURE_ONLY)
        before = records[:first_training]
        assert len({own.lead for own in before}) <= 4

    def test_takes_at_most_six_networks_per_ray_and_budget(self):
        done = finished(sweep(vectors=24), target=Target(noise=0.01))
        asked = Counter((own.origin, own.member) for own in purposes(done.records, Purpose.LATENCY))
        assert max(asked.values()) <= 6

    def test_finds_the_largest_network_that_keeps_each_budget(self):
        # Noise and the guard are away, so that every network can be said to keep its budget or not.
        done = finished(sweep(baselines=tuple(PUBLISHED)), target=QUIET)
        for baseline in done.summary.baselines:
            for member in baseline.members:
                guarded = member.budget * (1 + 0.9 * 0.05) / 1.05
                expected = largest_keeping(done, published(done.problem)[baseline.name], guarded)
                assert member.network.key == expected.key, (baseline.name, member.name)

    def test_shows_how_well_latency_is_predicted(self):
        error = plain().summary.latency_model_error
        assert error is not None
        assert 0 < error < 0.1

    def test_takes_the_reference_three_times_before_any_training(self):
        one = sweep(vectors=2, trained_vectors=2, finalists=1, members=(Member("s", multiple=1.5),))
        for problem in (one, sweep()):
            records = finished(problem).records
            first_training = next(own.index for own in records if own.purpose not in MEASURE_ONLY)
            assert len(purposes(records[:first_training], Purpose.REFERENCE)) >= 3

    def test_trains_although_the_reference_fails_after_once(self):
        def fate(own, index):
            failed = own.purpose is Purpose.REFERENCE and index > 0
            return TrialState.FAILED if failed else TrialState.SUCCEEDED

        problem = sweep(vectors=2, trained_vectors=2, finalists=1, members=(Member("s", multiple=1.5),))
        done = finished(problem, fate=fate)
        assert done.summary.reference.measurements == 1
        sizes = Counter(own.lead for own in done.records if own.purpose in MEASURE_ONLY)
        assert sum(size == 1 for size in sizes.values()) <= 3

    def test_waits_for_pods_under_way_rather_than_paying_a_reference_for_little(self):
        simulation = Simulation(sweep())
        first = engine.propose(simulation.problem, [], 3).pods
        records = [own for pod in first for own in simulation.work(pod, 0)]
        pending = [replace(own, state=TrialState.PENDING, values={}) for own in records]
        assert engine.propose(simulation.problem, pending, 3).pods == ()


class TestTheFamily:
    @pytest.mark.slow
    @pytest.mark.parametrize("preferred", [(0.55, 0.3, 0.15), (0.2, 0.6, 0.2), (0.2, 0.2, 0.6)])
    def test_is_near_the_best_that_a_dense_search_finds(self, preferred):
        # Noise of the reference moves budgets over networks' steps, and with them what the best can be.
        done = finished(
            sweep(base=LARGE_BASE, vectors=24, trained_vectors=12),
            target=QUIET,
            surface=Surface(preferred),
        )
        self.assert_near_the_best(done, preferred)

    @pytest.mark.slow
    @pytest.mark.parametrize("preferred", [(0.55, 0.3, 0.15), (0.2, 0.6, 0.2), (0.2, 0.2, 0.6)])
    def test_of_a_vector_per_member_is_near_the_best_as_well(self, preferred):
        done = finished(
            sweep(base=LARGE_BASE, per_level=True, vectors=24, trained_vectors=12),
            target=QUIET,
            surface=Surface(preferred),
        )
        assert done.summary.vector is None
        self.assert_near_the_best(done, preferred)

    @pytest.mark.slow
    @pytest.mark.parametrize("preferred", [(0.55, 0.3, 0.15), (0.2, 0.6, 0.2), (0.2, 0.2, 0.6)])
    def test_of_a_vector_per_member_is_near_the_best_under_noise_with_other_seeds_too(self, preferred):
        problem = sweep(base=LARGE_BASE, per_level=True, vectors=24, trained_vectors=12)
        missed = [
            found
            for seed in range(4)
            for found in missed_shares(
                finished(replace(problem, seed=seed), surface=Surface(preferred))
            ).values()
        ]
        assert fmean(missed) < 0.25

    def assert_near_the_best(self, done, preferred):
        for member, missed in missed_shares(done).items():
            assert missed < 0.45, member
        largest = done.summary.members[-1]
        far = max(distance(shares(own), preferred) for own in PUBLISHED.values())
        assert distance(shares(largest.vector), preferred) < 0.6 * far

    def test_keeps_every_budget_within_the_tolerance_and_uses_it(self):
        for member in plain().summary.members:
            assert 0.85 * member.budget <= member.latency <= 1.05 * member.budget

    def test_grows_in_latency(self):
        for per_level in (False, True):
            summary = finished(sweep(per_level=per_level)).summary
            latencies = [own.latency for own in summary.members]
            assert latencies == sorted(set(latencies))

    def test_in_mode_compound_has_one_vector(self):
        summary = plain().summary
        assert summary.vector is not None
        assert {own.vector for own in summary.members} == {summary.vector}

    def test_has_what_was_measured_of_it(self):
        done = finished(sweep(repeats=3, finalists=1))
        for member in done.summary.members:
            latency = done.target.latency(member.network)
            assert member.values[LATENCY] == pytest.approx(latency, rel=0.02)
            assert member.values["latency_p90_seconds"] == pytest.approx(1.1 * latency, rel=0.02)
            exact = done.surface.accuracy(done.problem, member.network, 1)
            assert member.values[ACCURACY] == pytest.approx(exact, abs=0.004)
            assert member.trainings == 3
            assert member.trial is not None
            assert done.records[member.trial].rung == 1

    def test_takes_latency_from_measuring_pods_alone(self):
        done = plain()
        disturbed = [
            own if own.purpose in MEASURE_ONLY else replace(own, values={**own.values, LATENCY: 9.0})
            for own in done.records
        ]
        assert engine.summarise(done.problem, disturbed) == done.summary

    def test_of_an_own_model_has_its_sizes(self):
        done = finished(sweep(base=TRANSFORMER))
        largest = done.summary.members[-1]
        sizes = dict(largest.network.parameters)
        assert set(sizes) == {"layers", "width", "heads", "length"}
        assert sizes["width"] % 8 == sizes["length"] % 4 == 0
        assert largest.architecture is None

    def test_of_networks_that_are_as_good_takes_the_faster_one(self):
        done = finished(sweep(members=(Member("s", multiple=2.0),), finalists=3, baselines=()))
        flat = [
            own if own.purpose in MEASURE_ONLY else replace(own, values={ACCURACY: 0.9})
            for own in done.records
        ]
        (best,) = engine.summarise(done.problem, flat).members
        last = [own for own in purposes(flat, Purpose.TRAINING) if own.rung == 1]
        assert len(last) == 3
        latencies = [done.target.latency(scaled(BASE, own.multipliers)) for own in last]
        assert done.target.latency(best.network) == min(latencies)

    def test_repeats_no_member_where_budgets_are_close(self):
        done = finished(sweep(members=(Member("s", multiple=2.0), Member("m", multiple=2.01))))
        small, medium = done.summary.members
        assert small.latency <= medium.latency <= 2.01 * 1.05 * done.summary.reference.latency


class TestTraining:
    def test_goes_through_the_rungs(self):
        done = finished(
            sweep(
                base=LARGE_BASE, rungs=3, vectors=12, trained_vectors=9, finalists=2, repeats=2, baselines=()
            )
        )
        trained = purposes(done.records, Purpose.TRAINING)
        by_rung = {
            rung: len({scaled(LARGE_BASE, own.multipliers).key for own in trained if own.rung == rung})
            for rung in range(3)
        }
        assert by_rung == {0: 9, 1: 3, 2: 2}
        assert Counter(own.repeat for own in trained if own.rung == 2) == {0: 2, 1: 2}
        assert {own.member for own in trained} == {"s"}

    def test_leaves_out_a_rung_from_which_all_would_go_on(self):
        done = finished(
            sweep(base=LARGE_BASE, rungs=3, trained_vectors=6, finalists=2, per_level=True, baselines=())
        )
        by_rung = Counter((own.member, own.rung) for own in purposes(done.records, Purpose.TRAINING))
        # 6 networks, 2 of them go on: the middle rung would choose nothing.
        assert (by_rung["s", 0], by_rung["s", 1], by_rung["s", 2]) == (6, 0, 2)
        assert by_rung["m", 1] == by_rung["l", 0] == by_rung["l", 1] == 0
        assert by_rung["l", 2] >= 1

    def test_per_level_leaves_out_finalists_that_can_hardly_gain(self, monkeypatch):
        problem = sweep(base=LARGE_BASE, per_level=True, finalists=3, baselines=())

        def full(least: float) -> Counter[str]:
            monkeypatch.setattr(halving, "SMALLEST_GAIN", least)
            done = finished(problem)
            return Counter(own.member for own in purposes(done.records, Purpose.TRAINING) if own.rung == 1)

        everything, nothing_more = full(0.0), full(math.inf)
        assert everything == {"s": 3, "m": 3, "l": 3}
        assert nothing_more == {"s": 3, "m": 1, "l": 1}

    def test_reopens_nothing_that_has_been_decided(self):
        """Measure a member's vectors before its trainings and never after them."""
        done = finished(sweep(base=LARGE_BASE, per_level=True, baselines=()), target=Target(noise=0.02))
        trained: set[str] = set()
        again = []
        measured = Counter()
        for own in done.records:
            if own.purpose is Purpose.TRAINING:
                trained |= {(own.member, origin) for member, origin in measured if member == own.member}
            elif own.purpose is Purpose.LATENCY and own.remeasures is None:
                measured[own.member, own.origin] += 1
                again += [own] if (own.member, own.origin) in trained else []
        assert len(trained) > 12
        assert again == []

    def test_in_mode_compound_verifies_the_finalists_at_larger_members(self):
        done = finished(sweep(finalists=2, repeats=2, baselines=()))
        verified = purposes(done.records, Purpose.VERIFICATION)
        assert {own.rung for own in verified} == {1}
        assert Counter(own.member for own in verified) == {"m": 4, "l": 4}
        assert len({own.origin for own in verified}) == 2

    def test_per_level_halves_the_candidates_from_member_to_member(self):
        done = finished(
            sweep(base=LARGE_BASE, per_level=True, vectors=16, trained_vectors=8, finalists=2, baselines=())
        )
        trained = {(own.member, own.origin) for own in purposes(done.records, Purpose.TRAINING)}
        by_member = Counter(member for member, _ in trained)
        assert (by_member["s"], by_member["m"]) == (8, 4)
        assert 1 <= by_member["l"] <= 2
        assert purposes(done.records, Purpose.VERIFICATION) == []

    def test_with_one_rung_repeats_the_best_alone(self):
        done = finished(sweep(rungs=1, repeats=3, trained_vectors=6, finalists=2, baselines=()))
        repeats = Counter(own.repeat for own in purposes(done.records, Purpose.TRAINING))
        assert repeats == {0: 6, 1: 2, 2: 2}

    def test_is_done_once_whoever_asks(self):
        done = finished(sweep(baselines=tuple(PUBLISHED), repeats=2))
        trainings = Counter(
            (scaled(BASE, own.multipliers).key, own.rung, own.repeat)
            for own in done.records
            if own.purpose not in MEASURE_ONLY
        )
        assert set(trainings.values()) == {1}

    def test_looks_in_a_second_round_near_the_best_of_the_first(self):
        done = finished(sweep(base=LARGE_BASE, vectors=12, trained_vectors=6), surface=EXACT)
        origins = list(dict.fromkeys(own.origin for own in purposes(done.records, Purpose.TRAINING)))
        names = list(dict.fromkeys(own.origin for own in purposes(done.records, Purpose.LATENCY)))
        assert len(names) >= 12
        assert len(origins) == 6


class TestBaselines:
    def test_stand_beside_the_family_at_every_budget(self):
        done = finished(sweep(baselines=("EfficientNet", "FastScaling", "AccuracyFLOPs"), repeats=2))
        summary = done.summary
        assert [own.name for own in summary.baselines] == ["EfficientNet", "FastScaling", "AccuracyFLOPs"]
        for baseline in summary.baselines:
            assert [own.name for own in baseline.members] == ["s", "m", "l"]
            assert all(own.trainings == 2 for own in baseline.members)
            assert all(own.latency <= 1.05 * own.budget for own in baseline.members)

    def test_scale_by_their_own_vectors(self):
        done = finished(sweep(baselines=tuple(PUBLISHED)))
        for baseline in done.summary.baselines:
            expected = published(done.problem)[baseline.name].vector
            assert {own.vector for own in baseline.members} == {expected}

    def test_show_by_how_much_the_family_is_better(self):
        done = plain()
        (rule,) = done.summary.baselines
        for own, other in zip(done.summary.members, rule.members, strict=True):
            assert own.gain == pytest.approx(own.values[ACCURACY] - other.values[ACCURACY])

    def test_leave_no_gain_where_they_are_not_asked_for(self):
        assert {own.gain for own in finished(sweep(baselines=())).summary.members} == {None}

    def test_show_a_loss_that_is_minimised_as_a_positive_gain(self):
        loss = Objective("loss", Direction.MINIMIZE)
        latency, _ = sweep().objectives
        done = Simulation(sweep())
        as_loss = sweep(objectives=(latency, loss), quality=loss)
        turned = [
            replace(own, values={"loss": 1 - own.values[ACCURACY]}) if ACCURACY in own.values else own
            for own in done.run().records
        ]
        gains = [own.gain for own in engine.summarise(as_loss, turned).members]
        assert gains == pytest.approx([own.gain for own in done.summary.members])

    def test_of_equal_flops_are_blind_to_latency(self):
        done = finished(sweep(baselines=("AccuracyFLOPs",), trained_vectors=4))
        candidates = [own for own in purposes(done.records, Purpose.BASELINE) if not own.member]
        assert {own.origin for own in candidates} == {"AccuracyFLOPs"}
        rule = ray(done.problem, published(done.problem)["EfficientNet"].vector)
        budget = 1.5 * done.summary.reference.latency
        fills = largest_keeping(done, published(done.problem)["EfficientNet"], budget)
        own_scaler = scaler(BASE)
        target = own_scaler.log_flops(fills)
        assert len(candidates) > 1
        for own in candidates:
            flops = own_scaler.log_flops(scaled(BASE, own.multipliers))
            assert flops == pytest.approx(target, abs=0.25)
        assert rule.places[fills.key] > 0


class TestDrift:
    def test_measures_a_disturbed_pod_again(self):
        done = finished(sweep(), target=Target(drift=lambda pod: 1.2 if pod == 1 else 1.0))
        again = [own for own in done.records if own.remeasures is not None]
        disturbed = [own for own in done.records if own.lead == done.records[again[0].remeasures].lead]
        assert [own.remeasures for own in again] == [own.index for own in disturbed]
        assert len({own.lead for own in again}) == 1
        state = done.summary.reference
        assert (state.remeasured_pods, state.corrected_pods) == (1, 0)

    def test_leaves_the_family_as_it_is_on_a_quiet_target(self):
        quiet = finished(sweep(), target=QUIET).summary
        drifting = Target(noise=0.0, drift=lambda pod: 1.2 if pod == 1 else 1.0)
        disturbed = finished(sweep(), target=drifting).summary
        assert [own.network.key for own in disturbed.members] == [own.network.key for own in quiet.members]
        assert [own.latency for own in disturbed.members] == [own.latency for own in quiet.members]

    def test_that_no_repetition_is_free_of_is_corrected_by_its_ratio(self):
        drifting = Target(noise=0.0, drift=lambda pod: 1.25 if pod in (5, 6, 7) else 1.0)
        done = finished(sweep(per_pod=3), target=drifting)
        again = [own for own in done.records if own.remeasures is not None]
        assert len({own.lead for own in again}) == 2
        assert done.summary.reference.corrected_pods == 1
        for member in done.summary.members:
            assert member.latency == pytest.approx(done.target.latency(member.network))
            assert member.values[LATENCY] == pytest.approx(member.latency)
            assert member.values["throughput_samples_per_second"] == pytest.approx(1 / member.latency)

    def test_to_another_level_is_measured_again_once(self):
        # Once members grow the target is a little slower, for good.
        moved = Target(noise=0.0, drift=lambda pod: 1.08 if pod > 6 else 1.0)
        done = finished(sweep(per_pod=3), target=moved)
        again = [own for own in done.records if own.remeasures is not None]
        assert len({own.lead for own in again}) == 1
        assert done.summary.reference.remeasured_pods == 1
        assert done.summary.reference.corrected_pods == 2
        for member in done.summary.members:
            assert member.latency == pytest.approx(done.target.latency(member.network))

    def test_is_followed_to_the_end_where_it_is_large(self):
        disturbed = Target(noise=0.0, drift=lambda pod: 1.6 if pod > 6 else 1.0)
        done = finished(sweep(per_pod=3), target=disturbed)
        repetitions = Counter(own.remeasures for own in done.records if own.remeasures is not None)
        assert set(repetitions.values()) == {2}

    def test_that_repeating_never_ends_is_followed_once_in_the_end(self):
        restless = Target(noise=0.0, drift=lambda pod: 1.0 if pod < 7 else (1.25, 1.5, 2.0)[pod % 3])
        done = finished(sweep(base=LARGE_BASE, per_pod=2, per_level=True), target=restless)
        repetitions = Counter(own.remeasures for own in done.records if own.remeasures is not None)
        by_chain = [repetitions[own.index] for own in done.records if own.purpose is Purpose.REFERENCE]
        assert [most for most in by_chain if most][:3] == [2, 2, 2]
        assert {most for most in by_chain if most} == {1, 2}

    def test_leaves_budgets_where_they_were_once_something_is_trained(self):
        moved = Target(noise=0.0, drift=lambda pod: 1.02**pod)
        done = finished(sweep(), target=moved)
        first = next(own.index for own in done.records if own.purpose not in MEASURE_ONLY)
        early = engine.summarise(done.problem, done.records[:first])
        assert done.summary.reference.measurements > early.reference.measurements
        assert done.summary.reference.latency == early.reference.latency

    def test_is_not_followed_further_than_was_asked_for(self):
        target = Target(noise=0.0, drift=lambda pod: 1.25 if pod == 1 else 1.0)
        done = finished(sweep(max_remeasurements=0), target=target)
        assert not [own for own in done.records if own.remeasures is not None]
        assert done.summary.reference.corrected_pods == 1

    def test_below_the_ratio_is_noise(self):
        done = finished(sweep(drift=0.1), target=Target(drift=lambda pod: 1.05 if pod % 2 else 1.0))
        assert done.summary.reference.remeasured_pods == 0

    def test_can_not_be_told_where_the_reference_failed(self):
        def fate(own, index):
            failed = own.purpose is Purpose.REFERENCE and index > 0
            return TrialState.FAILED if failed else TrialState.SUCCEEDED

        done = finished(sweep(), target=Target(noise=0.0), fate=fate)
        assert done.summary.reference.measurements == 1
        assert done.summary.reference.remeasured_pods == 0

    def test_shows_the_latest_ratio(self):
        done = finished(sweep(), target=Target(noise=0.0, drift=lambda pod: 1 + 0.01 * pod))
        references = [own.values[LATENCY] for own in purposes(done.records, Purpose.REFERENCE)]
        state = done.summary.reference
        assert state.measurements == len(references)
        assert state.last_ratio == pytest.approx(references[-1] / state.latency)


class TestFailures:
    def test_of_a_measurement_lead_to_the_next_smaller_network(self):
        quiet = finished(sweep(), target=QUIET)
        broken = {own.network.key for own in quiet.summary.members}

        def fate(own, _):
            failed = own.purpose is Purpose.LATENCY and scaled(BASE, own.multipliers).key in broken
            return TrialState.FAILED if failed else TrialState.SUCCEEDED

        done = finished(sweep(), target=QUIET, fate=fate)
        for member in done.summary.members:
            assert member.network.key not in broken

    @pytest.mark.parametrize(
        "state",
        [TrialState.FAILED, TrialState.INFEASIBLE, TrialState.METRICS_UNAVAILABLE, TrialState.EARLY_STOPPED],
    )
    def test_of_a_training_lead_to_the_next_smaller_network(self, state):
        quiet = finished(sweep(), target=QUIET)
        broken = quiet.summary.members[-1].network

        def fate(own, _):
            trained = own.purpose not in MEASURE_ONLY
            return (
                state if trained and scaled(BASE, own.multipliers).key == broken.key else TrialState.SUCCEEDED
            )

        done = finished(sweep(), target=QUIET, fate=fate)
        instead = [
            own
            for own in purposes(done.records, Purpose.VERIFICATION)
            if own.origin == quiet.summary.members[-1].origin and own.member == "l"
        ]
        own_ray = ray(done.problem, quiet.summary.members[-1].vector)
        assert [own_ray.places[scaled(BASE, own.multipliers).key] for own in instead] == [
            own_ray.places[broken.key],
            own_ray.places[broken.key] - 1,
        ]

    def test_of_every_training_end_the_sweep(self):
        def fate(own, _):
            return TrialState.SUCCEEDED if own.purpose in MEASURE_ONLY else TrialState.FAILED

        fault = Simulation(sweep(), fate=fate).run().answer.fault
        assert fault is not None
        assert fault.reason is FaultReason.NO_FEASIBLE_TRIAL
        assert "member s" in fault.message

    def test_of_every_reference_end_the_sweep(self):
        def fate(own, _):
            return TrialState.FAILED if own.purpose is Purpose.REFERENCE else TrialState.SUCCEEDED

        done = Simulation(sweep(), fate=fate).run()
        assert done.answer.fault is not None
        assert done.answer.fault.reason is FaultReason.NO_FEASIBLE_TRIAL
        assert len(purposes(done.records, Purpose.REFERENCE)) == 3

    def test_of_one_reference_do_not(self):
        def fate(_own, index):
            return TrialState.FAILED if index == 0 else TrialState.SUCCEEDED

        assert finished(sweep(), fate=fate).summary.complete

    def test_of_some_repeats_leave_the_mean_of_the_others(self):
        def fate(own, _):
            return TrialState.FAILED if own.repeat == 2 else TrialState.SUCCEEDED

        done = finished(sweep(repeats=3), fate=fate)
        assert {own.trainings for own in done.summary.members} == {2}


class TestBudgets:
    def test_below_the_bases_latency_can_not_be_reached(self):
        done = Simulation(sweep(members=(Member("s", seconds=0.001), Member("m", seconds=0.01))))
        fault = done.run().answer.fault
        assert fault is not None
        assert fault.reason is FaultReason.BUDGET_UNREACHABLE
        base = done.summary.reference.latency
        assert fault.message == (
            f"family[0].latencySeconds: must be at least {base:.6g} s, the smallest latency measured "
            "(of the unscaled base), not 0.001 s at member s"
        )
        assert not [own for own in done.records if own.purpose not in MEASURE_ONLY]

    def test_that_do_not_increase_on_this_target_end_the_sweep(self):
        done = Simulation(sweep(members=(Member("s", multiple=4.0), Member("m", seconds=0.005)))).run()
        assert done.answer.fault is not None
        assert "family[1].latencySeconds: must be more than" in done.answer.fault.message

    def test_of_one_base_latency_are_met_by_the_base(self):
        done = finished(sweep(members=(Member("s", multiple=1.0), Member("m", multiple=2.0))))
        assert done.summary.members[0].latency <= 1.05 * done.summary.reference.latency

    def test_in_seconds_and_multiples_may_be_mixed(self):
        done = finished(sweep(members=(Member("s", multiple=1.5), Member("m", seconds=0.006))))
        assert done.summary.members[1].budget == 0.006

    def test_beyond_the_ray_are_met_by_its_last_network(self):
        deep = BASE.model_copy(update={"resolution": 1000})
        done = finished(sweep(base=deep, members=(Member("s", seconds=1e3),)), target=QUIET)
        assert done.summary.complete


class TestSoftBounds:
    def test_rank_what_breaks_them_behind(self):
        latency, accuracy = sweep().objectives
        done = plain()
        best = done.summary.members[0]
        bound = Objective("size", Direction.MINIMIZE, bound=1.0, hard=False)
        changed = sweep(objectives=(latency, accuracy, bound))
        records = [
            replace(own, values={**own.values, "size": 2.0 if own.origin == best.origin else 0.5})
            if own.values and own.purpose not in MEASURE_ONLY
            else own
            for own in done.records
        ]
        assert engine.summarise(changed, records).members[0].origin != best.origin


class TestRestarts:
    @pytest.mark.parametrize("per_level", [False, True])
    def test_after_every_trial_change_nothing(self, per_level):
        problem = sweep(per_level=per_level, repeats=2, baselines=("EfficientNet", "AccuracyFLOPs"))
        done = finished(problem)
        leads = sorted({own.lead for own in done.records})
        for lead in leads:
            before = done.records[:lead]
            pod = [own for own in done.records if own.lead == lead]
            answer = engine.propose(problem, random.Random(lead).sample(before, len(before)), 1)
            assert [(own.purpose, own.multipliers, own.rung, own.repeat) for own in answer.pods[0]] == [
                (own.purpose, own.multipliers, own.rung, own.repeat) for own in pod
            ]

    def test_do_not_ask_again_for_what_is_under_way(self):
        problem = sweep()
        done = finished(problem)
        for record in done.records:
            before = done.records[: record.index]
            pending = [
                replace(own, state=TrialState.PENDING, values={})
                for own in done.records[record.lead : record.index]
            ]
            state = [*before[: record.lead], *pending]
            asked = {
                (own.purpose, scaled(BASE, own.multipliers).key, own.rung, own.repeat)
                for pod in engine.propose(problem, state, 4).pods
                for own in pod
                if own.purpose is not Purpose.REFERENCE
            }
            assert not asked & {
                (own.purpose, scaled(BASE, own.multipliers).key, own.rung, own.repeat) for own in pending
            }


def trainings_of(done: Simulation) -> dict[tuple[str, int, int], dict[str, float]]:
    return {
        (scaled(done.problem, own.multipliers).key, own.rung, own.repeat): dict(own.values)
        for own in done.records
        if own.purpose not in MEASURE_ONLY and own.state is TrialState.SUCCEEDED
    }


class TestReuse:
    @pytest.mark.parametrize("per_level", [False, True])
    def test_of_a_sweep_on_the_same_target_trains_nothing(self, per_level):
        first = finished(
            sweep(per_level=per_level, baselines=("EfficientNet", "AccuracyFLOPs")), target=QUIET
        )
        again = finished(replace(first.problem, known=trainings_of(first)), target=QUIET)
        assert {own.purpose for own in again.records} == set(MEASURE_ONLY)
        assert again.summary.reused == len(trainings_of(first))
        assert [own.network.key for own in again.summary.members] == [
            own.network.key for own in first.summary.members
        ]
        assert {own.trial for own in again.summary.members} == {None}

    def test_on_another_target_trains_what_is_new_alone(self):
        first = finished(sweep(), target=QUIET)
        other = Target(noise=0.0, per_layer=4e-5, per_flop=1e-11)
        fresh = finished(sweep(), target=other)
        again = finished(replace(first.problem, known=trainings_of(first)), target=other)
        assert [own.values[ACCURACY] for own in again.summary.members] == [
            own.values[ACCURACY] for own in fresh.summary.members
        ]
        known = set(trainings_of(first))
        assert len(trainings_of(again)) == len(set(trainings_of(fresh)) - known)


class TestTheCost:
    def test_is_below_half_of_a_plain_grids(self):
        # A grid trains each point's network fully at the smallest member, and the best at the others.
        done = finished(sweep(base=LARGE_BASE, vectors=24, trained_vectors=12, rungs=3, baselines=()))
        ours = done.summary.seconds.total
        full = [own for own in done.records if own.rung == 2 and own.purpose is Purpose.TRAINING]
        per_training = sum(own.device_seconds for own in full) / len(full)
        verified = {own.member: own.device_seconds for own in purposes(done.records, Purpose.VERIFICATION)}
        # The grid of EfficientNet's paper, steps of 0.05 in alpha, beta and gamma with a product near 2.
        grid = [
            (a, b, c)
            for a in range(100, 151, 5)
            for b in range(100, 141, 5)
            for c in range(100, 131, 5)
            if 1.9e10 <= a * b * b * c * c <= 2.1e10
        ]
        of_the_grid = len(grid) * per_training + sum(verified.values())
        assert len(grid) > 20
        assert ours < 0.5 * of_the_grid, f"{ours:.0f} s, {of_the_grid:.0f} s for {len(grid)} points"

    def test_is_told_by_phase(self):
        done = finished(sweep(baselines=("FastScaling",)))
        seconds = done.summary.seconds
        assert seconds.total == pytest.approx(sum(own.device_seconds for own in done.records))
        assert seconds.measuring < 0.1 * seconds.total
        assert min(seconds.measuring, seconds.training, seconds.verifying, seconds.baselines) > 0


class TestASweepUnderWay:
    def test_has_no_family_before_anything_is_trained(self):
        assert engine.summarise(sweep(), []) == replace(
            engine.Summary(), baselines=engine.summarise(sweep(), []).baselines
        )

    def test_shows_the_members_found_so_far(self):
        done = plain()
        counts = [
            len(engine.summarise(done.problem, done.records[:end]).members)
            for end in range(0, len(done.records) + 1, 2)
        ]
        assert counts[0] == 0
        assert max(counts) == 3
        assert engine.summarise(done.problem, done.records).complete

    def test_says_what_it_is_busy_with(self):
        problem = sweep(baselines=("FastScaling",))
        done = finished(problem)
        phases = [
            engine.propose(problem, done.records[:lead], 1).phase
            for lead in sorted({own.lead for own in done.records})
        ]
        assert [phase for phase, _ in itertools.groupby(phases)] == [
            engine.Phase.MEASURING,
            engine.Phase.TRAINING,
            engine.Phase.MEASURING,
            engine.Phase.TRAINING,
            engine.Phase.MEASURING,
            engine.Phase.VERIFYING,
            engine.Phase.BASELINES,
        ]
        assert done.answer.phase is engine.Phase.FINISHED

    def test_counts_the_vectors_that_it_looks_at(self):
        assert plain().summary.vectors == 12

    def test_keeps_its_family_while_something_is_measured_again(self):
        done = plain()
        last_reference = purposes(done.records, Purpose.REFERENCE)[-1]
        moved: list[ScalingRecord] = [
            replace(own, values={**own.values, LATENCY: 1.1 * own.values[LATENCY]})
            if own is last_reference
            else own
            for own in done.records
        ]
        assert engine.propose(done.problem, moved, 1).phase is engine.Phase.MEASURING
        assert engine.summarise(done.problem, moved).complete
