"""The models that choose what is measured and trained next, and the search on a ray."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from tests.scaling.simulation import BASE, LARGE_BASE, Target, sweep

from nascale.scaling.budget_search import Answer, Sighting, search
from nascale.scaling.latency_model import LatencyModel, exceeding, prequential_error
from nascale.scaling.networks import scaler
from nascale.scaling.quality import Observation, QualityModel
from nascale.scaling.rays import ray
from nascale.scaling.vectors import distance, first_candidates, shares

TARGET = Target(noise=0.0)
WIDTH = 4


def measured(base=BASE, every: int = 5):
    problem = sweep(base=base)
    own = scaler(base)
    reference = TARGET.latency(own.unscaled)
    networks = [
        network
        for candidate in first_candidates(problem, 6)
        for network in ray(problem, candidate.vector).networks[1::every]
        if TARGET.latency(network) < 8 * reference
    ]
    features = [own.features(network) for network in networks]
    return features, [math.log(TARGET.latency(network) / reference) for network in networks]


class TestTheLatencyModel:
    def test_without_measurements_expects_larger_networks_to_be_slower(self):
        own = ray(sweep(), first_candidates(sweep(), 1)[0].vector)
        mean = LatencyModel([], [], WIDTH).predict(own.features).mean
        assert mean[0] == 0
        assert all(before <= after for before, after in itertools.pairwise(mean))

    def test_learns_a_target(self):
        features, logs = measured()
        draw = random.Random(0)
        known = draw.sample(range(len(logs)), 20)
        others = [place for place in range(len(logs)) if place not in known]
        model = LatencyModel([features[i] for i in known], [logs[i] for i in known], WIDTH)
        plain = LatencyModel([], [], WIDTH)

        def error(of):
            return np.median(
                np.abs(of.predict(np.array([features[i] for i in others])).mean - [logs[i] for i in others])
            )

        assert error(model) < 0.05
        assert error(model) < error(plain) / 3

    def test_knows_what_it_does_not_know(self):
        features, logs = measured()
        model = LatencyModel(features[::4], logs[::4], WIDTH)
        prediction = model.predict(np.array(features))
        inside = np.abs(prediction.mean - logs) < 3 * prediction.deviation
        assert inside.mean() > 0.9
        wider = LatencyModel([], [], WIDTH).predict(np.array(features)).deviation
        assert np.median(prediction.deviation) < np.median(wider) / 2

    def test_meets_measured_networks_of_a_ray(self):
        own = ray(sweep(), first_candidates(sweep(), 1)[0].vector)
        seen = {0: 0.0, 10: 0.7, 30: 1.9}
        prediction = LatencyModel([], [], WIDTH).along(own.features, own.coefficients, seen)
        assert [prediction.mean[place] for place in seen] == pytest.approx(list(seen.values()))
        assert prediction.deviation[10] < prediction.deviation[20]

    def test_is_judged_by_predictions_made_before(self):
        features, logs = measured()
        sound = prequential_error(features, logs, [place // 7 for place in range(len(logs))])
        blind = prequential_error(features, logs, [0] * len(logs))
        assert sound is not None
        assert blind is not None
        assert sound < blind

    def test_has_no_error_before_anything_is_measured(self):
        assert prequential_error([], [], []) is None

    @pytest.mark.parametrize(("mean", "chance"), [(0.0, 0.5), (10.0, 1.0), (-10.0, 0.0)])
    def test_gives_the_chance_to_break_a_limit(self, mean, chance):
        assert exceeding(mean, 1.0, 0.0) == pytest.approx(chance)


class TestTheSearchOnARay:
    OWN = ray(sweep(base=LARGE_BASE), first_candidates(sweep(base=LARGE_BASE), 1)[0].vector)
    MODEL = LatencyModel([], [], WIDTH)

    def ask(self, seen, dead=(), pending=(), limit=1.0, left=6):
        return search(self.OWN, Sighting(seen, set(dead), set(pending)), self.MODEL, limit, left)

    def test_measures_where_the_model_expects_the_budget(self):
        place = self.ask({0: 0.0}).measure
        assert place is not None
        mean = self.MODEL.predict(self.OWN.features).mean
        assert mean[place] <= 1.0 < mean[place + 1]

    def test_ends_between_two_measured_neighbours(self):
        assert self.ask({0: 0.0, 7: 0.98, 8: 1.02}) == Answer(place=7)

    def test_ends_below_a_network_that_surely_breaks_the_budget(self):
        assert self.ask({0: 0.0, 7: 0.99, 9: 1.3}) == Answer(place=7)

    def test_goes_on_below_what_breaks_the_budget(self):
        place = self.ask({0: 0.0, 20: 1.5}).measure
        assert place is not None
        assert 0 < place < 20

    def test_takes_what_can_not_be_used_for_too_slow(self):
        assert self.ask({0: 0.0, 6: 0.9, 7: 0.95}, dead=[7]) == Answer(place=6)

    def test_waits_for_a_network_in_between(self):
        assert self.ask({0: 0.0, 20: 1.5}, pending=[9]) == Answer()

    def test_does_not_wait_for_a_network_that_says_nothing(self):
        assert self.ask({0: 0.0, 7: 0.98, 8: 1.02}, pending=[15]) == Answer(place=7)

    def test_is_content_with_what_there_is_when_nothing_may_be_measured(self):
        assert self.ask({0: 0.0, 3: 0.2}, left=0) == Answer(place=3)

    def test_of_a_budget_below_the_base_ends_without_a_network(self):
        assert self.ask({0: 0.0}, limit=-0.1) == Answer(place=-1)

    def test_ends_at_the_end_of_the_ray(self):
        last = len(self.OWN.networks) - 1
        assert self.ask({0: 0.0, last: 0.5}) == Answer(place=last)


def observe(candidate, best, noise=0.0, rung=0, latency=0.4):
    loss = distance(shares(candidate.vector), best) ** 2 + noise - 0.1 * latency - 0.2 * rung
    return Observation(shares(candidate.vector), latency, rung, loss)


class TestTheQualityModel:
    BEST = (0.5, 0.4, 0.1)
    POOL = first_candidates(sweep(seed=3), 60)

    def test_finds_the_best_direction_from_some_points(self):
        draw = random.Random(1)
        seen = [observe(own, self.BEST, draw.gauss(0, 0.005)) for own in first_candidates(sweep(), 12)]
        (found,) = QualityModel(seen).choose(self.POOL, 0.4, 1)
        by_distance = sorted(distance(shares(own.vector), self.BEST) for own in self.POOL)
        assert distance(shares(found.vector), self.BEST) <= by_distance[8]

    def test_with_few_points_stays_nearer_to_the_better_ones(self):
        seen = [observe(own, self.BEST) for own in first_candidates(sweep(), 3)]
        (found,) = QualityModel(seen).choose(self.POOL, 0.4, 1)
        usual = np.median([distance(shares(own.vector), self.BEST) for own in self.POOL])
        assert distance(shares(found.vector), self.BEST) < usual

    def test_with_no_points_chooses_all_the_same(self):
        assert len(QualityModel([]).choose(self.POOL, 0.4, 3, improve=True)) == 3

    def test_chooses_different_directions(self):
        seen = [observe(own, self.BEST) for own in first_candidates(sweep(), 4)]
        found = QualityModel(seen).choose(self.POOL, 0.4, 5, improve=True)
        assert len(set(found)) == 5

    def test_leaves_out_what_is_taken(self):
        model = QualityModel([observe(own, self.BEST) for own in first_candidates(sweep(), 4)])
        first = model.choose(self.POOL, 0.4, 3)
        assert not set(first) & set(model.choose(self.POOL, 0.4, 3, taken=first))

    def test_expects_a_gain_of_the_better_direction_and_none_of_the_worse(self):
        ordered = sorted(
            first_candidates(sweep(), 12), key=lambda own: distance(shares(own.vector), self.BEST)
        )
        model = QualityModel([observe(own, self.BEST) for own in ordered])
        assert model.expected_gain(ordered[0], ordered[-1]) > 1
        assert model.expected_gain(ordered[-1], ordered[0]) < 0.01

    def test_expects_little_of_a_near_direction_and_more_of_one_that_is_unknown(self):
        known = first_candidates(sweep(), 4)
        model = QualityModel([observe(own, self.BEST) for own in known])
        near, far = sorted(
            (own for own in self.POOL if own not in known),
            key=lambda own: distance(shares(own.vector), shares(known[0].vector)),
        )[:: len(self.POOL) - 10]
        assert 0 <= model.expected_gain(near, known[0]) < model.expected_gain(far, known[0])
        assert model.expected_gain(known[0], known[0]) == pytest.approx(0, abs=1e-6)

    def test_does_not_take_more_training_for_a_better_direction(self):
        seen = [observe(own, self.BEST) for own in first_candidates(sweep(), 12)]
        worst = max(first_candidates(sweep(), 12), key=lambda own: distance(shares(own.vector), self.BEST))
        longer = QualityModel([*seen, observe(worst, self.BEST, rung=1)])
        assert longer.best_directions(1) != [shares(worst.vector)]

    def test_does_not_take_a_larger_budget_for_a_better_direction(self):
        candidates = first_candidates(sweep(), 12)
        seen = [observe(own, self.BEST) for own in candidates]
        worst = max(candidates, key=lambda own: distance(shares(own.vector), self.BEST))
        larger = QualityModel([*seen, observe(worst, self.BEST, latency=1.4)])
        (found,) = larger.choose(candidates, 0.4, 1)
        assert found != worst
