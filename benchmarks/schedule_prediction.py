"""How well the generator predicts times: against whole trainings, and against measurements left out.

The profiles and the trainings are those of ``schedule-speedup``, of SEEDS seeds; what is not kept there is
measured now. Each training is compared with what the profile of its own seed says, which was measured before
it. Each stage of the constant recipe, the best constant settings, the generated schedule and
EfficientNetV2's ramp is one figure: the median step of the training against the predicted one. Some of these
settings were measured by the profile and some were not; both are told apart. Whole trainings are compared by
the time of all steps and switches. The error is the absolute deviation over the measured value.

A host that is not always as fast sets a bound: one and the same stage takes more time with one seed than with
another. The value to compare with is the error that remains to one who knows the median over the seeds of
these very trainings, and predicts it (of schedules that at least three seeds have).

The rows of a processor with instructions for BF16 are older: one profile served all seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Final

from nascale.progressive.generation.prediction import Predictor
from rows import Aim, Row, environment, measured, publish
from schedule_arms import CONSTANT, MODEL, OURS, RECIPE, Comparison
from schedule_profiles import described
from schedule_runs import CPU, Run, of_device, worker
from schedule_speedup import NETWORKS, TRAINING, prepare, seeds_of

NAME = "schedule-prediction"
COMMAND: Final = "python benchmarks/schedule_prediction.py"
SEEDS: Final = 5
ARMS: Final = (RECIPE, CONSTANT, OURS, MODEL)
MEDIAN_ERROR: Final = 0.05
FEWEST_ALIKE: Final = 3
"""Trainings of one schedule of which a median is known."""


class Errors:
    """Relative errors of predictions, each from the profile that its training's seed has.

    Args:
        found: Schedules, profiles and trainings of one network.
        seeds: Of the trainings of each schedule.
    """

    def __init__(self, found: Comparison, seeds: Sequence[int]) -> None:
        self.measured: list[float] = []
        """Of steps with settings that the profile has measured."""
        self.others: list[float] = []
        """Of steps with other settings."""
        self.wholes: list[float] = []
        """Of the time of whole trainings."""
        self.known_steps: list[float] = []
        """Of steps, where each stage's median over the seeds is what was predicted."""
        self.known_wholes: list[float] = []
        """Of whole trainings, where the median over the seeds is what was predicted."""
        for arm in ARMS:
            alike: dict[str, list[Run]] = {}
            for seed in seeds:
                run = found.run(arm, seed)
                self._add(found, arm, seed, run)
                alike.setdefault(described(found.arms(seed).stages[arm]), []).append(run)
            for runs in alike.values():
                if len(runs) >= FEWEST_ALIKE:
                    self._add_known(runs)

    def _add(self, found: Comparison, arm: str, seed: int, run: Run) -> None:
        arms = found.arms(seed)
        predicted = Predictor(found.problem(arm), arms.profile.records).predict(arms.stages[arm])
        start = predicted.stages[0].switch_seconds  # of a process: no part of a run's own time
        for own, (_, _, _, step) in zip(predicted.stages, run.stages, strict=True):
            (self.measured if own.measured else self.others).append(off(own.step_seconds, step))
        self.wholes.append(off(predicted.seconds - start, run.training_seconds))

    def _add_known(self, runs: Sequence[Run]) -> None:
        for stages in zip(*(run.stages for run in runs), strict=True):
            steps = [step for _, _, _, step in stages]
            self.known_steps += [off(median(steps), step) for step in steps]
        wholes = [run.training_seconds for run in runs]
        self.known_wholes += [off(median(wholes), whole) for whole in wholes]


def off(predicted: float, seen: float) -> float:
    """Return the relative error against a measured value."""
    return abs(predicted - seen) / seen


def main() -> None:
    """Measure, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=next(iter(NETWORKS)))
    name = parser.parse_args().network
    own = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        found = prepare(name, CPU, Path(folder))
        for seed in seeds_of(SEEDS):
            found.train(seed)
    errors = Errors(found, seeds_of(SEEDS))
    arms = [found.arms(seed) for seed in seeds_of(SEEDS)]
    where = environment("torch", "timm", "numpy", extra=f"{worker(CPU)}, {TRAINING}")

    def row(figure: str, value: float, aim: Aim | None = None, known: float | None = None) -> Row:
        return measured(
            f"{own.what}: {figure}",
            value,
            unit="1",
            aim=aim,
            baseline=known,
            command=f"{COMMAND} --network {name}",
            environment=where,
        )

    aim = Aim("at most", MEDIAN_ERROR)
    steps = errors.measured + errors.others
    rows = [
        row(f"median error of the step, {len(steps)} stages", median(steps), aim, median(errors.known_steps)),
        row(f"largest error of the step, {len(steps)} stages", max(steps)),
        row(
            f"median error of the time, {len(errors.wholes)} whole trainings",
            median(errors.wholes),
            aim,
            median(errors.known_wholes),
        ),
        row(f"largest error of the time, {len(errors.wholes)} whole trainings", max(errors.wholes)),
    ]
    for what, part in (("measured", errors.measured), ("not measured", errors.others)):
        if part:
            rows.append(
                row(f"median error of the step, {len(part)} stages with settings {what}", median(part))
            )
    held_out = [own.choice.error.median for own in arms if own.choice.error is not None]
    if held_out:
        figure = f"median error that is reported, each measurement left out, mean of {len(held_out)} profiles"
        rows.append(row(figure, fmean(held_out)))
    counts = [len(own.profile.records) for own in arms]
    grid = arms[0].profile.grid_size
    rows.append(row(f"measurements, of {grid} combinations, mean of {len(counts)} profiles", fmean(counts)))
    publish(of_device(NAME, CPU), rows)


if __name__ == "__main__":
    main()
