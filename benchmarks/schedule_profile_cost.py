"""What a profile costs, what is lost against the full grid, and from which length of training on it pays.

Every combination of the ranges of ``schedule-speedup`` is measured, in random order: a grid; and so three
more times, in other orders. The operator's design is played through on the measurements of one grid, with at
most a tenth of them, and a schedule is generated from those; what it measures again is answered by a second
grid. The grid's best is the cheapest among the same candidates with all measurements of the first grid
known. What both really take is told by the other two grids together, by the same sums of steps and switches:
who chooses by short measurements finds those that were lucky, and must not be judged by the same ones. So
for each pair of grids. The seconds of a profile are those that its combinations took when they were
measured. Grids are kept in ``results/schedule-profile-cost.runs.jsonl``: a benchmark that is cut off goes on
where it was.

Break-even: the length of training, in epochs of the constant recipe, at which the profile and the generated
schedule together take as long as a constant schedule: the recipe's own, and the best constant one (which
nobody knows without a profile).

A device without instructions for BF16 refuses half of the combinations at once; both counts hold those that
were asked for and refused.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
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
from rows import RESULTS, Aim, environment, measured, publish
from schedule_profiles import (
    MEASUREMENTS,
    append,
    described,
    digest,
    kept_lines,
    measure_all,
    record_of,
    written,
)
from schedule_runs import CPU, Setup, device_name, of_device, say, worker
from schedule_speedup import NETWORKS, RECIPES, problem, setup_of

NAME = "schedule-profile-cost"
COMMAND: Final = "python benchmarks/schedule_profile_cost.py"
GRIDS: Final = 4
MOST_ANSWERS: Final = 2
"""Measurements of a combination that a profile can have."""
MOST_SHARE: Final = 0.1
MOST_LOSS: Final = 0.03
AT_ONCE: Final = 12
"""Combinations of the grid that are measured between two messages."""


@dataclass(frozen=True, eq=False)
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
class Parts:
    """Which grid does what.

    Attributes:
        first: Answers what the design asks for, and is what the grid's best is chosen by.
        again: Answers what it asks for once more.
        judges: Say what schedules really take.
    """

    first: Grid
    again: Grid
    judges: tuple[Grid, ...]

    def true_seconds(self, asked: GenerationProblem, stages: Sequence[StageOrder]) -> float:
        """Return what a schedule takes when every combination is known."""
        records = [record for grid in self.judges for record in grid.records.values()]
        return Predictor(asked, records).predict(stages).seconds


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


def measure_grid(setup: Setup, asked: GenerationProblem, number: int) -> Grid:
    """Measure every combination once, in a random order; go on where that was cut off."""
    combinations = list(make_grid(asked).combinations)
    random.Random(number).shuffle(combinations)
    measurement = MEASUREMENTS[setup.device.type]
    about = f"{setup.architecture} {setup.data} {device_name(setup.device)} {measurement} grid {number}"
    key, path = digest(about), RESULTS / f"{NAME}.runs.jsonl"
    kept = [document for document in kept_lines(path) if document["key"] == key]
    records = [record_of(document["record"]) for document in kept]
    found = {record.combination.key: record for record in records}
    seconds = {
        record.combination.key: document["seconds"] for record, document in zip(records, kept, strict=True)
    }
    for place, own in enumerate(combinations):
        if own.key in found:
            continue
        begin = time.perf_counter()
        (record,) = measure_all(setup, asked, [Proposal(own, guarded=False, origin="grid")], first=place)
        found[own.key], seconds[own.key] = record, time.perf_counter() - begin
        append(path, {"key": key, "seconds": seconds[own.key], "record": written(record)})
        if (place + 1) % AT_ONCE == 0:
            say(f"grid {number + 1}: {place + 1} of {len(combinations)} combinations")
    return Grid(found, {own.key: seconds[own.key] for own in combinations})


def play(asked: GenerationProblem, parts: Parts) -> Played:
    """Let the design ask for what it wants, and answer from grids.

    What it asks for a third time is not answered: there is no measurement of its own for it.

    Args:
        asked: What a schedule is asked for.
        parts: Which grid answers, and which ones judge.
    """
    asked = replace(asked, max_trials=int(MOST_SHARE * len(parts.first.records)))
    records: list[ProfileRecord] = []
    times = Counter[str]()
    measuring, begin = 0.0, time.perf_counter()
    while proposals := design(asked, records).proposals:
        keys = [own.combination.key for own in proposals if times[own.combination.key] < MOST_ANSWERS]
        for key in keys:
            grid = parts.again if times[key] else parts.first
            times[key] += 1
            records.append(grid.records[key])
            measuring += grid.seconds[key]
        if not keys:
            break
    choice = choose(asked, records)
    thinking = time.perf_counter() - begin
    known = choose(asked, list(parts.first.records.values())).candidate.stages
    best, taken = (parts.true_seconds(asked, stages) for stages in (known, choice.candidate.stages))
    say(f"the profile's: {taken:.4g} s: {described(choice.candidate.stages)}")
    say(f"the grid's: {best:.4g} s: {described(known)}")
    return Played(len(records), measuring + thinking, taken / best - 1, choice, taken)


def break_even(parts: Parts, own: Played, stages: Sequence[StageOrder]) -> float:
    """Return the epochs of the recipe after which the profile has paid against a constant schedule."""
    constant = parts.true_seconds(problem(1, CPU), stages)
    return own.seconds / (constant - own.true_seconds) * RECIPES[CPU.type].epochs


def main() -> None:
    """Measure, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=next(iter(NETWORKS)))
    name = parser.parse_args().network
    own = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        setup = setup_of(own, CPU, Path(folder))
        asked = problem(own.shares[CPU.type], CPU)
        grids = [measure_grid(setup, asked, number) for number in range(GRIDS)]
    turns = [
        Parts(first, again, tuple(grid for grid in grids if grid not in (first, again)))
        for first, again in permutations(grids, 2)
    ]
    played = [(parts, play(asked, parts)) for parts in turns]
    size, measurement = len(grids[0].records), MEASUREMENTS[CPU.type]
    shared = {
        "command": f"{COMMAND} --network {name}",
        "environment": environment(
            "torch",
            "timm",
            "numpy",
            extra=f"{worker(CPU)}, {own.what}, {RECIPES[CPU.type].images} images of Fashion-MNIST; "
            f"a measurement: at least {measurement.min_calls} steps and {measurement.min_seconds:g} s",
        ),
    }
    rows = [
        measured(
            f"measurements of the profile over those of the grid ({size})",
            [run.measurements / size for _, run in played],
            unit="1",
            aim=Aim("at most", MOST_SHARE),
            **shared,
        ),
        measured(
            "time of the schedule over that of the grid's best, less 1",
            [run.loss for _, run in played],
            unit="1",
            aim=Aim("at most", MOST_LOSS),
            **shared,
        ),
        measured("seconds of the profile", [run.seconds for _, run in played], unit="s", **shared),
        measured("seconds of the grid", [grid.whole for grid in grids], unit="s", **shared),
        measured(
            "break-even against the constant recipe, epochs",
            [break_even(parts, run, (asked.base,)) for parts, run in played],
            unit="1",
            **shared,
        ),
        measured(
            "break-even against the best constant settings, epochs",
            [break_even(parts, run, run.choice.best_constant.stages) for parts, run in played],
            unit="1",
            **shared,
        ),
    ]
    publish(of_device(NAME, CPU), rows)


if __name__ == "__main__":
    main()
