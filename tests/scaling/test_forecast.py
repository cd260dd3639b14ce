"""How long a sweep still takes, told while it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.scaling.simulation import LARGE_BASE, Simulation, Surface, Target, sweep

from nascale.scaling.forecast import remaining_seconds
from nascale.scaling.problem import MEASURE_ONLY, ScalingProblem
from nascale.search.history import TrialState

COSTS = (1.0, 3.0)


def run(problem: ScalingProblem) -> Simulation:
    simulation = Simulation(problem, Target(noise=0.0), Surface()).run()
    assert simulation.answer.finished
    return simulation


def forecasts(simulation: Simulation) -> list[tuple[float | None, float]]:
    """Return what was forecast after each training, and what really came."""
    trainings = [own.device_seconds if own.purpose not in MEASURE_ONLY else 0.0 for own in simulation.records]
    return [
        (remaining_seconds(simulation.problem, simulation.records[:end], COSTS), sum(trainings[end:]))
        for end in range(len(trainings) + 1)
    ]


class TestRemainingSeconds:
    def test_are_not_known_before_a_training_has_ended(self):
        simulation = run(sweep())
        first = next(own.index for own in simulation.records if own.purpose not in MEASURE_ONLY)
        told = forecasts(simulation)
        assert {forecast for forecast, _ in told[: first + 1]} == {None}
        assert told[first + 1][0] is not None
        pending = replace(simulation.records[first], state=TrialState.PENDING, device_seconds=1.0)
        assert remaining_seconds(simulation.problem, [*simulation.records[:first], pending], COSTS) is None

    @pytest.mark.parametrize("per_level", [False, True])
    @pytest.mark.parametrize("baselines", [(), ("EfficientNet", "FastScaling", "AccuracyFLOPs")])
    def test_are_near_what_comes(self, per_level, baselines):
        problem = sweep(base=LARGE_BASE, per_level=per_level, baselines=baselines, repeats=2)
        told = [(forecast, left) for forecast, left in forecasts(run(problem)) if forecast is not None]
        whole = told[0][1]
        assert max(abs(forecast - left) for forecast, left in told) < 0.35 * whole
        # Vectors share few networks of a large base: what is forecast is hardly ever too much.
        assert told[-1][0] < 0.2 * whole

    def test_fall_to_nothing_where_every_planned_training_is_done(self):
        simulation = run(sweep(base=LARGE_BASE, baselines=()))
        assert forecasts(simulation)[-1][0] == 0

    def test_do_not_depend_on_the_order_of_trials(self):
        simulation = run(sweep())
        half = simulation.records[: len(simulation.records) // 2 + 8]
        assert remaining_seconds(simulation.problem, half, COSTS) == pytest.approx(
            remaining_seconds(simulation.problem, half[::-1], COSTS)
        )
