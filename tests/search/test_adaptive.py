"""What the default sampler does beyond what every sampler promises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.search.simulation import CONDITIONAL, OBJECTIVES, SMALL, measure, run

from nascale.search.domination import losses
from nascale.search.history import TrialRecord, TrialState
from nascale.search.hypervolume import hypervolume
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.samplers.adaptive import Adaptive
from nascale.search.samplers.encoding import INACTIVE, Encoding
from nascale.search.samplers.improvement import Belief, expected_improvement
from nascale.search.samplers.surrogate import (
    Model,
    Roughness,
    Shape,
    Transformation,
    _log_density,
    squared_distances,
)
from nascale.search.space import Assignment, Categorical, Integer, Real, SearchSpace

LAYERS = SearchSpace(tuple(Categorical(f"layer{number}", ("skip", "small", "large")) for number in range(8)))
MIXED = SearchSpace(
    (
        *CONDITIONAL.parameters,
        Integer("depth", 1, 1_000_000, log=True),
        Integer("only", 3, 3),
        Real("rate", 0.0, 1.0),
    )
)


def cost(assignment: Assignment) -> float:
    """Add up what each layer costs; each has its own prices."""
    return sum(
        {"skip": 0.0, "small": 3.0 + number, "large": 11.0 + number**2}[str(value)]
        for number, value in enumerate(assignment.values())
    )


def gain(assignment: Assignment) -> float:
    """Larger layers gain, with diminishing returns and a preference for alternation."""
    sizes = [("skip", "small", "large").index(str(value)) for value in assignment.values()]
    changes = sum(left != right for left, right in pairwise(sizes))
    return math.sqrt(sum(sizes)) + 0.2 * changes


def layered(assignment: Assignment, _rung: int = 0) -> tuple[TrialState, Mapping[str, float]]:
    return TrialState.SUCCEEDED, {"accuracy": gain(assignment), "latency": cost(assignment)}


def search(algorithm: str = "Adaptive", space: SearchSpace = LAYERS, **changes: object) -> SearchProblem:
    whole = SearchProblem(space, OBJECTIVES, algorithm=algorithm, seed=4)
    return replace(whole, **changes)  # type: ignore[arg-type]


def pend(history: list[TrialRecord], parameters: Assignment) -> list[TrialRecord]:
    index = len(history)
    return [*history, TrialRecord(index, index, 0, parameters, TrialState.PENDING)]


class TestEncoding:
    def test_genome_and_candidate_are_the_same_thing(self):
        encoding = Encoding(MIXED)
        rng = np.random.default_rng(0)
        candidates = [MIXED.draw(rng) for _ in range(300)]

        assert [encoding.assignment(genome) for genome in encoding.genomes(candidates)] == candidates

    @pytest.mark.parametrize("seed", range(5))
    def test_draws_crossings_and_mutations_are_candidates(self, seed):
        encoding = Encoding(MIXED)
        rng = np.random.default_rng(seed)
        drawn = encoding.draw(rng, 100)
        crossed = encoding.cross(drawn, drawn[::-1], rng)
        mutated = encoding.mutate(crossed, rng, rng.integers(1, 4, size=100))

        for genome in np.vstack([drawn, crossed, mutated]):
            candidate = encoding.assignment(genome)
            assert candidate == MIXED.canonical(candidate)
            np.testing.assert_allclose(encoding.genomes([candidate])[0], genome, atol=1e-6)

    def test_mutation_changes_as_many_parameters_as_asked(self):
        encoding = Encoding(LAYERS)
        rng = np.random.default_rng(1)
        before = encoding.draw(rng, 200)
        changes = rng.integers(1, 8, size=200)

        after = encoding.mutate(before, rng, changes)

        assert (before != after).sum(1).tolist() == changes.tolist()

    def test_mutation_leaves_alone_what_has_one_value(self):
        encoding = Encoding(MIXED)
        only = MIXED.names.index("only")
        rng = np.random.default_rng(1)

        assert not encoding.mutate(encoding.draw(rng, 100), rng, np.full(100, 9))[:, only].any()

    def test_draws_have_the_distribution_of_the_space(self):
        encoding = Encoding(MIXED)
        rng = np.random.default_rng(2)
        depth = MIXED.names.index("depth")
        ours = np.log(1 + encoding.draw(rng, 4000)[:, depth])
        theirs = np.log([float(MIXED.draw(rng)["depth"]) for _ in range(4000)])

        np.testing.assert_allclose(
            np.quantile(ours, [0.1, 0.5, 0.9]), np.quantile(theirs, [0.1, 0.5, 0.9]), rtol=0.06
        )

    def test_every_parameter_counts_alike(self):
        space = SearchSpace(
            (Categorical("a", tuple("xyz")), Integer("b", 1, 9), Real("c", 1e-3, 1.0, log=True))
        )
        encoding = Encoding(space)
        base = {"a": "x", "b": 1, "c": 1e-3}
        others = [base, {**base, "a": "z"}, {**base, "b": 9}, {**base, "c": 1.0}]
        features = encoding.features(encoding.genomes(others))

        np.testing.assert_allclose(squared_distances(features[:1], features)[0], [0, 1, 1, 1], atol=1e-12)

    def test_inactive_parameters_differ_from_every_value(self):
        encoding = Encoding(CONDITIONAL)
        genomes = encoding.genomes([{"block": "identity", "width": 8, "drop": 0.1}])

        assert genomes[0, CONDITIONAL.names.index("kernel")] == INACTIVE
        assert genomes[0, CONDITIONAL.names.index("ratio")] == INACTIVE


class TestSurrogate:
    @staticmethod
    def error(objective, trials: int) -> tuple[float, float]:
        """Return the largest error over the whole space and the range of the objective."""
        encoding = Encoding(LAYERS)
        candidates = list(LAYERS.enumerate())
        rows = encoding.features(encoding.genomes(candidates))
        values = np.array([objective(candidate) for candidate in candidates])
        chosen = np.random.default_rng(3).choice(len(candidates), size=trials, replace=False)
        model = Model.of(rows[chosen], values[chosen], encoding.groups)
        surrogate = model.condition(rows[chosen], values[chosen], rows[:0])
        return float(np.abs(surrogate.expect(rows) - values).max()), float(np.ptp(values))

    def test_additive_objective_is_learnt_from_forty_of_6561_candidates(self):
        error, span = self.error(cost, 40)

        assert error < 0.005 * span

    def test_product_over_decades_is_learnt_as_a_sum_of_logarithms(self):
        error, span = self.error(lambda candidate: 1e-3 * math.exp(cost(candidate) / 20), 40)

        assert error < 0.005 * span

    def test_interactions_are_learnt_from_more(self):
        few, span = self.error(gain, 20)
        many, _ = self.error(gain, 200)

        assert many < few / 2
        assert many < 0.2 * span

    def test_pending_candidate_takes_uncertainty_and_moves_no_expectation(self):
        encoding = Encoding(LAYERS)
        rng = np.random.default_rng(5)
        rows = encoding.features(encoding.draw(rng, 30))
        values = rng.normal(size=30)
        model = Model.of(rows, values, encoding.groups)
        fresh = encoding.features(encoding.draw(rng, 5))

        mean, deviation = model.condition(rows, values, fresh[:0]).predict(fresh)
        mean_after, deviation_after = model.condition(rows, values, fresh[:1]).predict(fresh)

        np.testing.assert_allclose(mean_after, mean, atol=1e-6)
        assert deviation_after[0] < 0.5 * deviation[0]
        assert (deviation_after <= deviation + 1e-9).all()

    def test_constant_objective_is_expected_everywhere(self):
        encoding = Encoding(LAYERS)
        rows = encoding.features(encoding.draw(np.random.default_rng(6), 10))
        surrogate = Model.of(rows, np.full(10, 7.0), encoding.groups).condition(
            rows, np.full(10, 7.0), rows[:0]
        )

        np.testing.assert_allclose(surrogate.expect(rows), 7.0, atol=1e-6)

    @pytest.mark.parametrize("roughness", list(Roughness))
    def test_gradient_is_the_derivative_of_the_density(self, roughness):
        rng = np.random.default_rng(7)
        rows = rng.uniform(size=(15, 3))
        distances = np.stack([squared_distances(rows[:, [c]], rows[:, [c]]) for c in range(3)]).reshape(3, -1)
        products, targets = rows @ rows.T / 3, rng.normal(size=15)
        point = np.array([0.3, -0.5, 0.1, 0.2, -0.3, -2.0])

        def density(at):
            return _log_density(at, distances, products, targets, roughness)[0]

        found = _log_density(point, distances, products, targets, roughness)[1]
        numeric = [(density(point + step) - density(point - step)) / 2e-5 for step in 1e-5 * np.eye(6)]
        np.testing.assert_allclose(found, numeric, rtol=1e-4, atol=1e-6)

    @given(
        st.lists(st.floats(0.001, 1e6), min_size=3, max_size=20, unique=True), st.sampled_from(list(Shape))
    )
    @settings(max_examples=100, deadline=None)
    def test_transformations_rise_and_can_be_inverted(self, values, shape):
        ordered = np.sort(np.array(values))
        transformation = Transformation.through(ordered, shape, width=0.3 * float(np.ptp(ordered)))

        transformed = transformation.apply(ordered)

        assert (np.diff(transformed) >= 0).all()
        np.testing.assert_allclose(transformation.invert(transformed), ordered, rtol=1e-6, atol=1e-9)

    def test_no_tail_puts_a_floor_under_the_best_value(self):
        values = np.array([8.0, 9.0, 20.0, 90.0])
        tail = Transformation.through(values, Shape.LOGARITHMIC_TAIL, width=1.0)

        assert tail.invert(tail.apply(np.array([5.0])))[0] == pytest.approx(5.0)


class TestImprovement:
    @staticmethod
    def certain(points: np.ndarray) -> list[Belief]:
        plain = Transformation(Shape.LINEAR)
        return [Belief(points[:, m], np.full(len(points), 1e-9), plain) for m in range(points.shape[1])]

    @pytest.mark.parametrize("objectives", [2, 3, 4])
    def test_of_certain_candidates_is_the_gain_of_hypervolume(self, objectives):
        rng = np.random.default_rng(8)
        front, points = rng.uniform(size=(8, objectives)), rng.uniform(size=(20, objectives))
        reference = np.full(objectives, 0.9)
        before = hypervolume(front, reference)

        expected = [hypervolume(np.vstack([front, point]), reference) - before for point in points]

        assert max(expected) > 0
        np.testing.assert_allclose(
            expected_improvement(front, reference, self.certain(points)), expected, rtol=1e-5, atol=1e-9
        )

    def test_of_uncertain_candidates_is_the_average_over_outcomes(self):
        rng = np.random.default_rng(9)
        front, reference = np.array([[0.2, 0.7], [0.5, 0.4]]), np.ones(2)
        plain = Transformation(Shape.LINEAR)
        beliefs = [
            Belief(np.array([0.4]), np.array([0.2]), plain),
            Belief(np.array([0.5]), np.array([0.1]), plain),
        ]
        outcomes = rng.normal([0.4, 0.5], [0.2, 0.1], size=(20_000, 2))
        before = hypervolume(front, reference)

        average = np.mean(
            [hypervolume(np.vstack([front, outcome]), reference) - before for outcome in outcomes]
        )

        assert expected_improvement(front, reference, beliefs)[0] == pytest.approx(average, rel=0.03)

    def test_front_larger_than_the_grid_is_seen_coarsely(self):
        angles = np.linspace(0, np.pi / 2, 60)
        rng = np.random.default_rng(10)
        heights = rng.uniform(0.2, 1, size=60)
        front = 1 - np.column_stack([np.cos(angles) * heights, np.sin(angles) * heights, 1 - heights**2])
        points = rng.uniform(0.0, 0.5, size=(30, 3))
        reference = np.full(3, 1.1)
        before = hypervolume(front, reference)
        exact = [hypervolume(np.vstack([front, point]), reference) - before for point in points]

        found = expected_improvement(front, reference, self.certain(points))

        assert np.corrcoef(found, exact)[0, 1] > 0.97

    def test_nothing_beyond_the_reference_counts(self):
        points = np.array([[0.5, 1.2], [1.2, 0.5]])

        assert not expected_improvement(np.zeros((0, 2)), np.ones(2), self.certain(points)).any()

    def test_log_probability_orders_even_the_impossible(self):
        belief = Belief(np.array([0.0, 50.0, 60.0]), np.ones(3), Transformation(Shape.LINEAR))
        likely, unlikely, less = belief.log_probability_below(0.0)

        assert likely == pytest.approx(math.log(0.5))
        assert 0 > likely > unlikely > less > -math.inf


class TestSearch:
    def test_opens_with_both_corners_and_then_every_value_of_every_parameter(self):
        trials = run(search(), 10, layered)

        assert set(trials[0].parameters.values()) == {"skip"}
        assert set(trials[1].parameters.values()) == {"large"}
        for layer in LAYERS.names:
            assert {trial.parameters[layer] for trial in trials[2:]} == {"skip", "small", "large"}

    def test_needs_a_fraction_of_random_searchs_trials(self):
        def volume(algorithm: str, trials: int, seed: int) -> float:
            history = run(search(algorithm, seed=seed), trials, layered)
            return hypervolume(losses(search(), history), [0.0, 300.0])

        for seed in range(3):
            assert volume("Adaptive", 40, seed) > volume("Random", 400, seed)

    def test_proposals_of_one_call_are_those_of_single_calls(self):
        history = run(search(), 15, layered)

        single = list(history)
        for _ in range(4):
            (proposal,) = Adaptive().propose(search(), single, 1)
            single = pend(single, proposal.parameters)

        together = Adaptive().propose(search(), history, 4)
        assert [proposal.parameters for proposal in together] == [trial.parameters for trial in single[15:]]

    def test_pending_trials_turn_it_elsewhere(self):
        history = run(search(), 20, layered)
        (alone,) = Adaptive().propose(search(settings={"exploration": "0"}), history, 1)
        waiting = pend(history, alone.parameters)

        (beside,) = Adaptive().propose(search(settings={"exploration": "0"}), waiting, 1)

        assert alone.origin == beside.origin == "surrogate"
        assert alone.parameters != beside.parameters

    def test_explores_uniformly_as_often_as_set(self):
        history = run(search("Random"), 15, layered)

        for exploration, origin in (("1", "random"), ("0", "surrogate")):
            proposals = Adaptive().propose(search(settings={"exploration": exploration}), history, 3)
            assert [proposal.origin for proposal in proposals] == [origin] * 3

    def test_comes_to_keep_a_bound_that_few_candidates_keep(self):
        """Accuracy is not measured where the bound is broken."""
        bounded = (OBJECTIVES[0], replace(OBJECTIVES[1], bound=25.0))
        share = np.mean([cost(candidate) <= 25.0 for candidate in LAYERS.enumerate()])

        def evaluate(assignment: Assignment, _rung: int):
            if cost(assignment) > 25.0:
                return TrialState.INFEASIBLE, {"latency": cost(assignment)}
            return layered(assignment)

        history = run(search(objectives=bounded), 60, evaluate)

        assert share < 0.05
        assert sum(trial.state is TrialState.SUCCEEDED for trial in history[20:]) >= 20

    def test_finds_the_bounds_where_no_trial_keeps_them_yet(self):
        history = [
            replace(trial, state=TrialState.INFEASIBLE, values={"latency": trial.values["latency"]})
            for trial in run(search("Random"), 40, layered)
        ]
        bound = min(trial.values["latency"] for trial in history) - 5
        bounded = (OBJECTIVES[0], replace(OBJECTIVES[1], bound=bound))

        proposals = Adaptive().propose(search(objectives=bounded, settings={"exploration": "0"}), history, 3)

        assert all(0 <= cost(proposal.parameters) <= bound for proposal in proposals)

    def test_shuns_what_makes_trials_fail(self):
        def evaluate(assignment: Assignment, _rung: int):
            if assignment["layer0"] == "large":
                return TrialState.FAILED, {}
            return layered(assignment)

        history = run(search(), 60, evaluate)
        blind = [
            trial
            if trial.state is TrialState.SUCCEEDED
            else replace(trial, state=TrialState.METRICS_UNAVAILABLE)
            for trial in history
        ]

        def large(trials: list[TrialRecord]) -> int:
            proposals = Adaptive().propose(search(settings={"exploration": "0"}), trials, 8)
            return sum(proposal.parameters["layer0"] == "large" for proposal in proposals)

        assert large(history) < large(blind)

    def test_takes_eight_objectives(self):
        many = tuple(Objective(f"m{number}", Direction.MINIMIZE) for number in range(8))
        rng = np.random.default_rng(11)
        history = [
            replace(trial, values={goal.metric: float(rng.normal()) for goal in many})
            for trial in run(search("Random"), 30, layered)
        ]

        (proposal,) = Adaptive().propose(search(objectives=many, settings={"exploration": "0"}), history, 1)

        assert proposal.origin == "surrogate"

    def test_long_history_is_learnt_from_a_selection(self):
        """Thousands of trials: the surrogate sees 256 of them, the best among these."""
        history = run(search("Random"), 3000, layered)

        (proposal,) = Adaptive().propose(search(settings={"exploration": "0"}), history, 1)

        assert proposal.origin == "surrogate"
        assert LAYERS.key(proposal.parameters) not in {LAYERS.key(trial.parameters) for trial in history}

    def test_space_is_exhausted_with_parallel_trials_pending(self):
        history: list[TrialRecord] = []
        while found := Adaptive().propose(search(space=SMALL), history, 3):
            for proposal in found:
                history = pend(history, proposal.parameters)

        assert len(history) == SMALL.count

    def test_space_of_one_point_beside_a_continuous_range_ends(self):
        space = SearchSpace((Real("x", 1.0, 1.000000001), Categorical("y", ("a", "b"))))
        history = run(search(space=space), 50, lambda _, __: measure({"y": "no"}))

        assert 2 <= len(history) == len({space.key(trial.parameters) for trial in history}) < 50
