"""What a sweep costs beside a plain grid over directions that finds a family as good.

Both look for a family of three members under the same latency budgets, a vector for each member, on the
same data with the same recipe. The grid takes 25 directions evenly over the ranges; for each and each
budget it finds the largest network that keeps it by bisection (each network is measured once, whoever
asks), and trains it in full; the best at each budget wins. The sweep measures reference networks beside its
candidates and repeats what drifted; all of that counts as its cost. Device-seconds are wall time on one
thread.

Both families are then trained afresh with seeds and a split that neither has seen, so that "as good" is a
figure. The whole comparison is repeated with different seeds of the sweep.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, median
from typing import Final

from nascale.contract.architecture import Architecture
from nascale.contract.work_order import Fidelity, MeasurementOrder
from nascale.scaling import engine
from nascale.scaling.problem import Member, ScalingProblem, Vector
from nascale.scaling.rays import ray
from nascale.scaling.vectors import normalised
from nascale.search.problem import Direction, Objective
from nascale_trainer.outcomes import NoisyMeasurement
from rows import Aim, environment, measured, publish
from scaling_family import QUALITY, accuracies, base, workbench
from sweep_runner import Workbench, network_of, run_sweep

NAME = "scaling-cost"
COMMAND: Final = "python benchmarks/scaling_cost.py"
RUNS: Final = 3
STEPS: Final = 5
SEEDS: Final = 5


def bench_of_cost() -> Workbench:
    """Return a recipe long enough that training is what costs."""
    return replace(
        workbench(),
        fidelities=(Fidelity(epochs=1), Fidelity(epochs=8)),
        measurement=MeasurementOrder(min_calls=100, min_seconds=0.2, max_spread_ratio=0.5),
    )


def problem_of_cost(seed: int) -> ScalingProblem:
    """Return the sweep: no baselines, one training a network."""
    return ScalingProblem(
        base=base(),
        members=(Member("s", multiple=1.3), Member("m", multiple=1.7), Member("l", multiple=2.2)),
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


def main() -> None:
    """Run grid and sweeps, compare them, write the rows."""
    bench = bench_of_cost()
    where = environment("torch", "timm", "numpy", extra="one thread, digits")
    ratios, shares, gains = [], [], []
    sweeps, grids = [], []
    for seed in range(RUNS):
        own = problem_of_cost(seed)
        run = run_sweep(own, bench)
        if run.fault is not None:
            raise RuntimeError(f"the sweep must end with a family, not with {run.fault}")
        grid = Grid(own, bench)
        best = grid.family()
        found = engine.summarise(own, run.records)
        sweeps.append(run.device_seconds)
        grids.append(grid.seconds)
        ratios.append(run.device_seconds / grid.seconds)
        trained = sum(record.rung == own.rungs - 1 and "accuracy" in record.values for record in run.records)
        shares.append(trained / grid.trainings)
        ours = [mean(accuracies(bench, network_of(own, each.multipliers), SEEDS)) for each in found.members]
        theirs = [mean(accuracies(bench, architecture, SEEDS)) for architecture in best]
        gains.append(mean(ours) - mean(theirs))
        print(
            f"run {seed}: {run.device_seconds:.0f} s and {grid.seconds:.0f} s, accuracy {ours} and {theirs}"
        )
    publish(
        NAME,
        [
            measured(
                "device-seconds of a sweep over those of the grid",
                ratios,
                unit="1",
                aim=Aim("at most", 0.2),
                command=COMMAND,
                environment=where,
            ),
            measured(
                "mean accuracy of the sweep's family less that of the grid's, fresh seeds and split",
                gains,
                unit="1",
                command=COMMAND,
                environment=where,
            ),
            measured(
                "full trainings of a sweep over those of the grid",
                shares,
                unit="1",
                command=COMMAND,
                environment=where,
            ),
            measured(
                "device-seconds of a sweep (baseline: the grid)",
                sweeps,
                unit="s",
                baseline=median(grids),
                command=COMMAND,
                environment=where,
            ),
        ],
    )


if __name__ == "__main__":
    main()
