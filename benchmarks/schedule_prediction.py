"""How well the generator predicts times: against whole trainings, and against measurements left out.

The profile and the trainings are those of ``schedule-speedup``, of SEEDS seeds; what is not kept there is
measured now. Each stage of the constant recipe, the best constant settings, the generated schedule and
EfficientNetV2's ramp is one figure: the median step of the training against the predicted one. Some of these
settings were measured by the profile and some were not; both are told apart. Whole trainings are compared by
the time of all steps and switches. The error is the absolute deviation over the measured value.

A host that is not always as fast sets a bound: one and the same stage takes more time with one seed than with
another. The value to compare with is the error that remains to one who knows the median over the seeds of
these very trainings, and predicts it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from nascale.progressive.generation.prediction import Predictor
from rows import Aim, Row, environment, measured, publish
from schedule_arms import CONSTANT, MODEL, OURS, RECIPE, train_all
from schedule_runs import CPU, of_device, worker
from schedule_speedup import NETWORKS, TRAINING, Comparison, prepare, seeds_of

NAME = "schedule-prediction"
COMMAND: Final = "python benchmarks/schedule_prediction.py"
SEEDS: Final = 5
ARMS: Final = (RECIPE, CONSTANT, OURS, MODEL)
MEDIAN_ERROR: Final = 0.05


class Errors:
    """Relative errors of predictions.

    Args:
        found: Schedules, profile and runs of one network.
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
            predictor = Predictor(found.arms.problem(arm), found.arms.profile.records)
            predicted = predictor.predict(found.arms.stages[arm])
            start = predicted.stages[0].switch_seconds  # of a process: no part of a run's own time
            runs = [found.runs.found[arm, seed] for seed in seeds]
            for own, stages in zip(
                predicted.stages, zip(*(run.stages for run in runs), strict=True), strict=True
            ):
                steps = [step for _, _, _, step in stages]
                (self.measured if own.measured else self.others).extend(all_off(own.step_seconds, steps))
                self.known_steps += all_off(median(steps), steps)
            wholes = [run.training_seconds for run in runs]
            self.wholes += all_off(predicted.seconds - start, wholes)
            self.known_wholes += all_off(median(wholes), wholes)


def all_off(predicted: float, seen: Sequence[float]) -> list[float]:
    """Return the relative error against each measured value."""
    return [abs(predicted - own) / own for own in seen]


def main() -> None:
    """Measure, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=next(iter(NETWORKS)))
    name = parser.parse_args().network
    own = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        found = prepare(name, CPU, Path(folder))
        for seed in seeds_of(SEEDS):
            train_all(found.setup, found.arms, found.runs, seed)
    errors = Errors(found, seeds_of(SEEDS))
    profile = found.arms.profile
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
    held_out = found.arms.choice.error
    if held_out is not None:
        count = len(profile.records)
        rows.append(
            row(f"median error that is reported, each of {count} measurements left out", held_out.median)
        )
    rows.append(row(f"measurements, of {profile.grid_size} combinations", float(len(profile.records))))
    publish(of_device(NAME, CPU), rows)


if __name__ == "__main__":
    main()
