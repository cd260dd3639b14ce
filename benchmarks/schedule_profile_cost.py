"""What a profile costs, what is lost against the full grid, and from which length of training on it pays.

Every combination of the ranges of ``schedule-speedup`` is measured, in random order: a grid; then all of them
once more, in another order: a second one. The operator's design is played through on one grid's measurements,
with at most a tenth of them, for REPEATS different seeds, and schedules are generated from each. The grid's
best is the cheapest among the same candidates with all measurements of that grid known. What both really take
is told by the other grid, by the same sums of steps and switches: who chooses by short measurements finds
those that were lucky, and must not be judged by the same ones. Each grid is answer and judge in turn. The
seconds of a profile are those that its combinations took when they were measured.

Break-even: the length of training, in epochs of the constant recipe, at which the profile and the generated
schedule together take as long as a constant schedule: the recipe's own, and the best constant one (which
nobody knows without a profile).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Final

from nascale.contract.run_order import StageOrder
from nascale.progressive.generation.choice import Choice, choose
from nascale.progressive.generation.grid import make_grid
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.problem import GenerationProblem, ProfileRecord
from nascale.progressive.generation.profile import Proposal, design
from rows import Aim, environment, measured, publish
from schedule_profiles import MEASUREMENT, described, measure_all
from schedule_runs import CPU, Images, Setup, image_setup, of_device, say, worker
from schedule_speedup import EPOCHS, IMAGES, NETWORKS, OPTIMIZER, SAMPLES, problem

NAME = "schedule-profile-cost"
COMMAND: Final = "python benchmarks/schedule_profile_cost.py"
REPEATS: Final = 5
MOST_SHARE: Final = 0.1
MOST_LOSS: Final = 0.03
AT_ONCE: Final = 12
"""Combinations of the grid that are measured between two messages."""


@dataclass(frozen=True)
class Grid:
    """All combinations, measured.

    Attributes:
        records: By the combination's key.
        seconds: Each one's measurement took so long, by the same key.
    """

    records: Mapping[str, ProfileRecord]
    seconds: Mapping[str, float]

    @property
    def whole(self) -> float:
        """Seconds of all measurements."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Played:
    """A profile that was played through.

    Attributes:
        measurements: Combinations that it asked for.
        seconds: Of their measurement, and of the design's own thinking.
        loss: Time of its schedule over that of the grid's best, less 1.
        choice: The schedule.
        true_seconds: What the schedule takes by the grid.
    """

    measurements: int
    seconds: float
    loss: float
    choice: Choice
    true_seconds: float


def measure_grid(setup: Setup, asked: GenerationProblem, order: int) -> Grid:
    """Measure every combination once, in a random order."""
    combinations = list(make_grid(asked).combinations)
    random.Random(order).shuffle(combinations)
    records: dict[str, ProfileRecord] = {}
    seconds: dict[str, float] = {}
    for place, own in enumerate(combinations):
        begin = time.perf_counter()
        proposal = Proposal(own, guarded=False, origin="grid")
        (records[own.key],) = measure_all(setup, asked, [proposal], first=place)
        seconds[own.key] = time.perf_counter() - begin
        if (place + 1) % AT_ONCE == 0:
            say(f"grid {order + 1}: {place + 1} of {len(combinations)} combinations")
    return Grid(records, seconds)


def true_seconds(asked: GenerationProblem, grid: Grid, stages: Sequence[StageOrder]) -> float:
    """Return what a schedule takes when every combination is known."""
    return Predictor(asked, list(grid.records.values())).predict(stages).seconds


def play(asked: GenerationProblem, grid: Grid, judge: Grid, seed: int) -> Played:
    """Let the design ask for what it wants, and answer from a grid.

    Args:
        asked: What a schedule is asked for.
        grid: Measurements to answer from, and those that the grid's best schedule is chosen by.
        judge: Measurements by which both schedules are judged.
        seed: Of the design.
    """
    asked = replace(asked, seed=seed, max_trials=int(MOST_SHARE * len(grid.records)))
    records: list[ProfileRecord] = []
    measuring, begin = 0.0, time.perf_counter()
    while True:
        found = design(asked, records)
        if found.finished or not found.proposals:
            break
        for own in found.proposals:
            records.append(grid.records[own.combination.key])
            measuring += grid.seconds[own.combination.key]
    choice = choose(asked, records)
    thinking = time.perf_counter() - begin
    known = choose(asked, list(grid.records.values())).candidate.stages
    best, taken = (true_seconds(asked, judge, stages) for stages in (known, choice.candidate.stages))
    say(f"the profile's: {taken:.4g} s: {described(choice.candidate.stages)}")
    say(f"the grid's: {best:.4g} s: {described(known)}")
    return Played(len(records), measuring + thinking, taken / best - 1, choice, taken)


def break_even(grid: Grid, own: Played, stages: Sequence[StageOrder]) -> float:
    """Return the epochs of the recipe after which the profile has paid against a constant schedule."""
    constant = true_seconds(problem(SAMPLES, CPU), grid, stages)
    return own.seconds / (constant - own.true_seconds) * EPOCHS


def main() -> None:
    """Measure, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=next(iter(NETWORKS)))
    name = parser.parse_args().network
    own = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        setup = image_setup(own.architecture, Images(Path(folder), IMAGES), OPTIMIZER, CPU)
        asked = problem(own.samples, CPU)
        grids = [measure_grid(setup, asked, order) for order in range(2)]
    pairs = list(permutations(grids))
    played = {(pair, seed): play(asked, *pairs[pair], seed) for pair in range(2) for seed in range(REPEATS)}
    size = len(grids[0].records)
    shared = {
        "command": f"{COMMAND} --network {name}",
        "environment": environment(
            "torch",
            "timm",
            "numpy",
            extra=f"{worker(CPU)}, {own.what}, {IMAGES} images of Fashion-MNIST; a measurement: at least "
            f"{MEASUREMENT.min_calls} steps and {MEASUREMENT.min_seconds:g} s",
        ),
    }
    rows = [
        measured(
            f"measurements of the profile over those of the grid ({size})",
            [run.measurements / size for run in played.values()],
            unit="1",
            aim=Aim("at most", MOST_SHARE),
            **shared,
        ),
        measured(
            "time of the schedule over that of the grid's best, less 1",
            [run.loss for run in played.values()],
            unit="1",
            aim=Aim("at most", MOST_LOSS),
            **shared,
        ),
        measured("seconds of the profile", [run.seconds for run in played.values()], unit="s", **shared),
        measured("seconds of the grid", [grid.whole for grid in grids], unit="s", **shared),
        measured(
            "break-even against the constant recipe, epochs",
            [break_even(pairs[pair][1], run, (asked.base,)) for (pair, _), run in played.items()],
            unit="1",
            **shared,
        ),
        measured(
            "break-even against the best constant settings, epochs",
            [
                break_even(pairs[pair][1], run, run.choice.best_constant.stages)
                for (pair, _), run in played.items()
            ],
            unit="1",
            **shared,
        ),
    ]
    publish(of_device(NAME, CPU), rows)


if __name__ == "__main__":
    main()
