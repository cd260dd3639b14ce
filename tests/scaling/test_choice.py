"""Which of the trained networks become the family's members."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache

import pytest
from tests.scaling.simulation import ACCURACY, Simulation, sweep

from nascale.scaling import engine
from nascale.scaling.choice import Family, Levels, choose_family
from nascale.scaling.networks import scaled
from nascale.scaling.plan import Entrant, Plan, Trained
from nascale.scaling.problem import MEASURE_ONLY, Multipliers, Purpose, Range, ScalingRecord
from nascale.scaling.trainings import Result
from nascale.scaling.vectors import Candidate, published

RULES = ("EfficientNet", "FastScaling", "LACSGPU")
TIMES = {"s": 1.0, "m": 2.0, "l": 3.0}


@cache
def done(*, per_level: bool, repeats: int = 1, narrow: bool = False) -> Simulation:
    """Return a finished sweep; for reading alone."""
    ranges = {"width": Range(1.0, 1.15)} if narrow else {}
    simulation = Simulation(sweep(per_level=per_level, baselines=RULES, repeats=repeats, **ranges)).run()
    assert simulation.answer.finished
    return simulation


def foreign(simulation: Simulation) -> tuple[str, str]:
    """Return a baseline and a member at which its network is none that the sweep itself has in the end."""
    own = {
        scaled(simulation.problem, record.multipliers).key
        for record in simulation.records
        if record.purpose in {Purpose.TRAINING, Purpose.VERIFICATION}
    }
    for baseline in simulation.summary.baselines:
        for member in baseline.members:
            if member.network.key not in own:
                return baseline.name, member.name
    raise AssertionError("every network of the baselines is the sweep's own as well")


def with_accuracy(
    simulation: Simulation,
    networks: Mapping[str, float],
    *,
    without: Callable[[ScalingRecord], bool] | None = None,
) -> list[ScalingRecord]:
    """Change the accuracy of networks at the last rung, by key; leave some trainings out."""
    changed = []
    for record in simulation.records:
        key = scaled(simulation.problem, record.multipliers).key
        if (
            record.purpose in MEASURE_ONLY
            or record.rung < simulation.problem.rungs - 1
            or key not in networks
        ):
            changed.append(record)
        elif without is None or not without(record):
            changed.append(replace(record, values={ACCURACY: networks[key]}))
    return changed


def network_of(simulation: Simulation, baseline: str, member: str) -> str:
    family = next(own for own in simulation.summary.baselines if own.name == baseline)
    return next(own for own in family.members if own.name == member).network.key


def member_of(summary: engine.Summary, name: str) -> engine.MemberSummary:
    return next(own for own in summary.members if own.name == name)


class TestBaselinesNetworks:
    def test_that_are_better_at_a_member_are_taken_and_told(self):
        simulation = done(per_level=True)
        baseline, member = foreign(simulation)
        key = network_of(simulation, baseline, member)
        summary = engine.summarise(simulation.problem, with_accuracy(simulation, {key: 0.99}))
        found = member_of(summary, member)
        assert found.network.key == key
        assert found.taken_from == baseline
        assert found.values[ACCURACY] == 0.99
        assert found.gain is not None
        assert found.gain >= 0

    def test_cost_nothing_further(self):
        simulation = done(per_level=True)
        baseline, member = foreign(simulation)
        key = network_of(simulation, baseline, member)
        answer = engine.propose(simulation.problem, with_accuracy(simulation, {key: 0.99}), 1)
        assert answer.finished
        assert answer.pods == ()

    def test_that_are_worse_change_nothing(self):
        simulation = done(per_level=True)
        baseline, member = foreign(simulation)
        key = network_of(simulation, baseline, member)
        summary = engine.summarise(simulation.problem, with_accuracy(simulation, {key: 0.1}))
        assert member_of(summary, member).network.key != key
        assert member_of(summary, member).taken_from != baseline

    def test_of_vectors_beyond_the_ranges_are_not_taken(self):
        simulation = done(per_level=True, narrow=True)
        key = network_of(simulation, "FastScaling", "l")
        records = with_accuracy(simulation, {key: 0.99})
        summary = engine.summarise(simulation.problem, records)
        assert member_of(summary, "l").taken_from != "FastScaling"
        assert member_of(summary, "l").network.key != key

    def test_trained_less_often_are_not_taken(self):
        simulation = done(per_level=True, repeats=2)
        baseline, member = foreign(simulation)
        key = network_of(simulation, baseline, member)
        records = with_accuracy(simulation, {key: 0.99}, without=lambda record: record.repeat == 1)
        unfinished = engine.propose(simulation.problem, records, 1)
        assert len(unfinished.pods) == 1
        assert member_of(engine.summarise(simulation.problem, records), member).network.key != key
        complete = engine.summarise(simulation.problem, with_accuracy(simulation, {key: 0.99}))
        assert member_of(complete, member).network.key == key

    @pytest.mark.parametrize("baseline", RULES)
    def test_in_mode_compound_give_the_whole_family_their_vector_where_it_ranks_best(self, baseline):
        simulation = done(per_level=False)
        best = {network_of(simulation, baseline, member): 0.99 for member in TIMES}
        summary = engine.summarise(simulation.problem, with_accuracy(simulation, best))
        assert summary.vector == published(simulation.problem)[baseline].vector
        assert {own.vector for own in summary.members} == {summary.vector}
        assert {own.values[ACCURACY] for own in summary.members} == {0.99}
        assert {own.origin for own in summary.members} == {baseline}

    def test_in_mode_compound_do_not_split_the_family(self):
        simulation = done(per_level=False)
        key = network_of(simulation, "FastScaling", "l")
        summary = engine.summarise(simulation.problem, with_accuracy(simulation, {key: 0.99}))
        assert {own.vector for own in summary.members} == {summary.vector}


def trained(number: int, latency: float, accuracy: float, member: str, vector: Candidate) -> Trained:
    network = scaled(sweep(), Multipliers(1.0, 1.0 + number / 2, 1.0))
    entrant = Entrant(vector, network, member, vector.name)
    return Trained(entrant, 1, Result({ACCURACY: accuracy}, 1, number), latency, 0.0, -accuracy)


def with_beaten(levels: Levels, beaten: Collection[tuple[str, int]]) -> Levels:
    """Mark networks, given as member and number, as shown to be worse there."""
    return {
        member: sorted(
            (replace(own, beaten=(member, own.result.index) in beaten) for own in trained_there),
            key=lambda entry: entry.order,
        )
        for member, trained_there in levels.items()
    }


def chosen(
    *,
    per_level: bool,
    beaten: Collection[tuple[str, int]] = (),
    **levels: list[tuple[int, float, float, str]],
) -> Family:
    """Choose among networks given as number, latency, accuracy and name of a vector, by member."""
    plan = Plan(sweep(per_level=per_level), [])
    vectors = published(plan.problem)
    return choose_family(
        plan,
        with_beaten(
            {
                member: [
                    trained(number, latency, accuracy, member, vectors[name])
                    for number, latency, accuracy, name in own
                ]
                for member, own in levels.items()
            },
            beaten,
        ),
        (),
    )


def accuracies(family: Family) -> list[float]:
    return [own.trained.result.values[ACCURACY] for own in family.members.values()]


class TestGrowth:
    def test_takes_the_best_of_each_member_where_these_grow(self):
        family = chosen(
            per_level=True,
            s=[(0, 1.0, 0.8, "LACSGPU"), (1, 1.1, 0.7, "EfficientNet")],
            m=[(2, 2.0, 0.9, "LACSGPU"), (3, 2.1, 0.85, "EfficientNet")],
            l=[(4, 3.0, 0.95, "LACSGPU")],
        )
        assert accuracies(family) == [0.8, 0.9, 0.95]
        assert {own.same_as for own in family.members.values()} == {""}

    def test_passes_over_a_better_network_that_is_not_slower_than_the_member_before(self):
        family = chosen(
            per_level=True,
            s=[(0, 1.0, 0.8, "LACSGPU")],
            m=[(1, 1.0, 0.9, "LACSGPU"), (2, 1.2, 0.7, "EfficientNet")],
            l=[(3, 3.0, 0.95, "LACSGPU")],
        )
        assert accuracies(family) == [0.8, 0.7, 0.95]

    def test_takes_another_network_for_a_smaller_member_where_only_that_lets_the_family_grow(self):
        family = chosen(
            per_level=True,
            s=[(0, 1.05, 0.8, "LACSGPU"), (1, 1.0, 0.7, "EfficientNet")],
            m=[(0, 1.05, 0.8, "LACSGPU")],
            l=[(3, 3.0, 0.95, "LACSGPU")],
        )
        assert accuracies(family) == [0.7, 0.8, 0.95]
        assert {own.same_as for own in family.members.values()} == {""}

    def test_is_given_up_before_a_network_that_was_shown_to_be_worse_is_taken(self):
        family = chosen(
            per_level=True,
            beaten=[("s", 1)],
            s=[(0, 1.05, 0.8, "LACSGPU"), (1, 1.0, 0.7, "EfficientNet")],
            m=[(0, 1.05, 0.8, "LACSGPU")],
            l=[(3, 3.0, 0.95, "LACSGPU")],
        )
        assert accuracies(family) == [0.8, 0.8, 0.95]
        assert [own.same_as for own in family.members.values()] == ["", "s", ""]

    def test_goes_on_where_the_smaller_member_s_network_was_shown_to_be_worse(self):
        family = chosen(
            per_level=True,
            beaten=[("m", 0)],
            s=[(0, 1.05, 0.8, "LACSGPU"), (1, 1.0, 0.7, "EfficientNet")],
            m=[(0, 1.05, 0.8, "LACSGPU"), (2, 1.04, 0.9, "EfficientNet")],
            l=[(3, 3.0, 0.95, "LACSGPU")],
        )
        assert accuracies(family) == [0.7, 0.9, 0.95]

    def test_in_mode_compound_follows_the_vector_all_the_same(self):
        family = chosen(
            per_level=False,
            beaten=[("s", 0)],
            s=[(0, 1.0, 0.7, "LACSGPU"), (1, 1.0, 0.8, "EfficientNet")],
            m=[(2, 2.0, 0.9, "LACSGPU"), (3, 2.0, 0.7, "EfficientNet")],
            l=[(4, 3.0, 0.95, "LACSGPU"), (5, 3.0, 0.7, "EfficientNet")],
        )
        assert accuracies(family) == [0.7, 0.9, 0.95]

    def test_repeats_a_network_and_says_so_where_no_other_one_is_there(self):
        family = chosen(
            per_level=True,
            s=[(0, 1.05, 0.8, "LACSGPU")],
            m=[(0, 1.05, 0.8, "LACSGPU")],
            l=[(0, 1.05, 0.8, "LACSGPU")],
        )
        assert [own.same_as for own in family.members.values()] == ["", "s", "s"]
        assert accuracies(family) == [0.8, 0.8, 0.8]

    def test_prefers_the_familys_vector_to_a_better_network_of_another(self):
        family = chosen(
            per_level=False,
            s=[(0, 1.0, 0.8, "LACSGPU"), (1, 1.1, 0.7, "EfficientNet")],
            m=[(2, 2.0, 0.9, "LACSGPU"), (3, 2.1, 0.85, "EfficientNet")],
            l=[(4, 3.0, 0.94, "LACSGPU"), (5, 3.0, 0.95, "EfficientNet")],
        )
        assert family.vector is not None
        assert family.vector.name == "LACSGPU"
        assert accuracies(family) == [0.8, 0.9, 0.94]

    def test_leaves_the_familys_vector_where_its_network_does_not_grow(self):
        family = chosen(
            per_level=False,
            s=[(0, 1.0, 0.8, "LACSGPU"), (1, 1.1, 0.7, "EfficientNet")],
            m=[(0, 1.0, 0.8, "LACSGPU"), (3, 1.2, 0.75, "EfficientNet")],
            l=[(4, 3.0, 0.95, "LACSGPU")],
        )
        assert accuracies(family) == [0.8, 0.75, 0.95]

    def test_leaves_out_a_member_without_any_network(self):
        family = chosen(
            per_level=True,
            s=[(0, 1.0, 0.8, "LACSGPU")],
            l=[(4, 3.0, 0.95, "LACSGPU")],
        )
        assert list(family.members) == ["s", "l"]
