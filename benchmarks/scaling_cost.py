"""What a sweep costs beside a plain grid over directions that finds a family as good.

Both look for a family of three members under the same latency budgets, a vector for each member, on the
same data with the same recipe. The grid takes 25 directions evenly over the ranges; for each and each
budget it finds the largest network that keeps it by bisection (each network is measured once, whoever
asks), and trains it in full; the best at each budget wins. The sweep measures reference networks beside its
candidates and repeats what drifted; all of that counts as its cost. Device-seconds are wall time on one
thread.

The grid makes no random choice and is run once; the sweep is run with several seeds. Every family is then
trained afresh with seeds and a split that nothing has seen, so that "as good" is a figure: pairs of one seed.

Rows are written after each sweep: a run that is cut off leaves those it has.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from statistics import mean
from typing import Any, Final

from nascale.contract.architecture import Architecture
from nascale.contract.work_order import Fidelity, MeasurementOrder
from nascale.scaling import engine
from nascale.scaling.problem import ScalingProblem, Vector
from nascale.scaling.rays import ray
from nascale.scaling.vectors import normalised
from nascale.search.problem import Direction, Objective
from nascale_trainer.outcomes import NoisyMeasurement
from rows import Aim, Row, measured, show, write_rows
from scaling_family import MEMBERS, QUALITY, accuracies, base, circumstances, workbench
from sweep_runner import Run, Workbench, network_of, run_sweep, say

NAME = "scaling-cost"
COMMAND: Final = "python benchmarks/scaling_cost.py"
RUNS: Final = 5
STEPS: Final = 5
SEEDS: Final = 3


def bench_of_cost() -> Workbench:
    """Return a recipe of six epochs: training is what costs, and a sixth of it tells something."""
    bench = workbench()
    (share,) = {own.data_fraction for own in bench.fidelities}
    return replace(
        bench,
        fidelities=(Fidelity(epochs=1, data_fraction=share), Fidelity(epochs=6, data_fraction=share)),
        measurement=MeasurementOrder(min_calls=50, min_seconds=0.15, max_spread_ratio=0.5),
    )


def problem_of_cost(seed: int) -> ScalingProblem:
    """Return the sweep: no baselines, one training a network."""
    return ScalingProblem(
        base=base(),
        members=MEMBERS,
        objectives=(QUALITY, Objective("latency_p50_seconds", Direction.MINIMIZE)),
        latency_metric="latency_p50_seconds",
        quality=QUALITY,
        per_level=True,
        baselines=(),
        rungs=2,
        seed=seed,
        vectors=12,
        trained_vectors=6,
        finalists=2,
        per_pod=6,
    )


@dataclass
class Grid:
    """A plain grid search under way."""

    problem: ScalingProblem
    bench: Workbench
    seconds: float = 0.0
    measurements: int = 0
    trainings: int = 0

    def __post_init__(self) -> None:
        """Measure the base, whose multiples are the budgets."""
        self._latency: dict[Architecture, float] = {}
        self._accuracy: dict[Architecture, float] = {}
        self._base = self._measure(base())

    def family(self) -> list[Architecture]:
        """Return the best network at each budget."""
        found = []
        for member in self.problem.members:
            budget = self._base * (member.multiple or 1.0) * (1 + self.problem.tolerance)
            networks = dict.fromkeys(self._largest(vector, budget) for vector in directions(self.problem))
            say(f"grid, member {member.name}: {len(networks)} networks to train")
            found.append(max(networks, key=self._train))
        return found

    def _largest(self, vector: Vector, budget: float) -> Architecture:
        """Bisect a ray for the largest network that keeps a budget; the base always does."""
        networks = [
            own.architecture for own in ray(self.problem, vector).networks if own.architecture is not None
        ]
        low, high = 0, len(networks)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._measure(networks[middle]) <= budget else (low, middle)
        return networks[low]

    def _measure(self, architecture: Architecture) -> float:
        if architecture not in self._latency:
            begun = time.perf_counter()
            try:
                self._latency[architecture] = self.bench.latency(architecture).p50
            except NoisyMeasurement:
                self._latency[architecture] = float("inf")
            self.seconds += time.perf_counter() - begun
            self.measurements += 1
        return self._latency[architecture]

    def _train(self, architecture: Architecture) -> float:
        if architecture not in self._accuracy:
            begun = time.perf_counter()
            self._accuracy[architecture] = self.bench.accuracy(architecture, -1, 0)
            self.seconds += time.perf_counter() - begun
            self.trainings += 1
        return self._accuracy[architecture]


def directions(problem: ScalingProblem) -> list[Vector]:
    """Return a grid over the ranges, as directions: width against depth, resolution against depth."""

    def steps(low: float, high: float) -> list[float]:
        return [low + (high - low) * place / (STEPS - 1) for place in range(STEPS)]

    depth = (problem.depth.low * problem.depth.high) ** 0.5
    grid = product(
        steps(problem.width.low, problem.width.high), steps(problem.resolution.low, problem.resolution.high)
    )
    return [normalised(Vector(depth, width, resolution)) for width, resolution in grid]


@dataclass
class Comparison:
    """Sweeps beside the grid, so far."""

    grid: Grid
    best: list[float]
    """Accuracies of the grid's family, the mean over its members for each fresh seed."""
    seconds: list[float] = field(default_factory=list)
    trainings: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)

    def add(self, run: Run, family: list[float]) -> None:
        """Take in a sweep and the accuracies of its family."""
        last = self.grid.problem.rungs - 1
        self.seconds.append(run.device_seconds)
        self.trainings.append(
            float(sum(record.rung == last and "accuracy" in record.values for record in run.records))
        )
        self.gains.append(mean(own - other for own, other in zip(family, self.best, strict=True)))

    def publish(self) -> None:
        """Write the rows."""

        def row(figure: str, samples: list[float], unit: str = "1", **other: Any) -> Row:
            return measured(figure, samples, unit=unit, command=COMMAND, environment=circumstances(), **other)

        grid = self.grid
        write_rows(
            NAME,
            [
                row(
                    "device-seconds of a sweep over those of the grid",
                    [seconds / grid.seconds for seconds in self.seconds],
                    aim=Aim("at most", 0.2),
                ),
                row(
                    "mean accuracy of the sweep's family less that of the grid's, fresh seeds and split",
                    self.gains,
                ),
                row("mean accuracy of the grid's family, fresh seeds and split", self.best),
                row(
                    "full trainings of a sweep over those of the grid",
                    [trainings / grid.trainings for trainings in self.trainings],
                ),
                row(
                    "device-seconds of a sweep (baseline: the grid)", self.seconds, "s", baseline=grid.seconds
                ),
            ],
        )


def of_family(bench: Workbench, family: Iterable[Architecture]) -> list[float]:
    """Train a family afresh; return the mean accuracy of its members for each seed."""
    by_seed = zip(*(_fresh(bench, architecture) for architecture in family), strict=True)
    return [mean(own) for own in by_seed]


@cache
def _known() -> dict[Architecture, list[float]]:
    return {}


def _fresh(bench: Workbench, architecture: Architecture) -> list[float]:
    """Train with fresh seeds, a network once."""
    if architecture not in _known():
        _known()[architecture] = accuracies(bench, architecture, SEEDS)
    return _known()[architecture]


def main() -> None:
    """Run grid and sweeps, compare them, write the rows."""
    bench = bench_of_cost()
    grid = Grid(problem_of_cost(0), bench)
    best = grid.family()
    say(f"the grid: {grid.seconds:.0f} s, {grid.measurements} measurements, {grid.trainings} trainings")
    comparison = Comparison(grid, of_family(bench, best))
    for seed in range(RUNS):
        own = problem_of_cost(seed)
        run = run_sweep(own, bench)
        if run.fault is not None:
            raise RuntimeError(f"the sweep must end with a family, not with {run.fault}")
        found = engine.summarise(own, run.records)
        family = [network_of(own, member.multipliers) for member in found.members]
        comparison.add(run, of_family(bench, family))
        comparison.publish()
        say(f"sweep {seed}: {run.device_seconds:.0f} s, {comparison.gains[-1]:+.4f}")
    show(NAME)


if __name__ == "__main__":
    main()
