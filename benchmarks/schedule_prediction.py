"""How well the generator predicts times: against whole trainings, and against measurements left out.

The profiles and the trainings are those of ``schedule-speedup`` and ``schedule-second-task``, of their seeds;
what is not kept there is measured now. Each training is compared with what the profile of its own seed says,
which was measured before it. Each stage of the constant recipe, the best constant settings, the generated
schedule and the published ramp is one figure: the mean step of the training against the predicted one. Some
of these settings were measured by the profile and some were not; both are told apart. Whole trainings are
compared by the time of all steps and switches. The error is the absolute deviation over the measured value.

A host that is not always as fast sets a bound: one and the same stage takes more time with one seed than with
another. The value to compare with is the error that remains to one who knows the median over the seeds of
these very trainings, and predicts it (of schedules that at least three seeds have). What remains of the
generator's own error shows in the mean over the seeds of the error with its sign. ``prediction-at-one-speed``
measures it alone; ``prediction-at-once`` measures trainings that follow their profile at once, where most of
these begin minutes after it.

On a GPU (``--device cuda``) that is busy, steps repeat within a thousandth, and the bound is low. When its
rows were measured, nothing waited for a stage's last step, so that all stages look shorter by one step than
they were; since then it counts. The published ramp stays in FP32 with contiguous images, which the profiles
have measured at the full size alone: nobody asked for more of what is five times as slow.

The rows of fused blocks on a processor with instructions for BF16 are older: one profile served all seeds,
and steps were predicted and compared by their medians. On a processor without, the kept profiles of the
inverted residuals hold medians too; what follows from them is compared with means all the same.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Final

import torch

import schedule_second_task
from nascale.contract.run_order import StageOrder
from nascale.progressive.generation.prediction import Predictor, SchedulePrediction
from rows import Aim, Row, environment, measured, show, write_rows_about
from schedule_arms import CONSTANT, MODEL, OURS, RECIPE, Comparison
from schedule_profiles import described
from schedule_runs import CPU, Run, add_device, chosen_device, named_device, of_device, worker
from schedule_speedup import NETWORKS, RECIPES, prepare, seeds_of

NAME = "schedule-prediction"
COMMAND: Final = "python benchmarks/schedule_prediction.py"
SEEDS: Final = 5
ARMS: Final = (RECIPE, CONSTANT, OURS, MODEL)
MEDIAN_ERROR: Final = 0.05
FEWEST_ALIKE: Final = 3
"""Trainings of one schedule of which a median is known."""


@dataclass(frozen=True)
class Task:
    """A task of which profiles and trainings are kept.

    Attributes:
        what: For people.
        seeds: Of its trainings.
        prepare: Makes its comparison; images are written to a folder.
        describe: Writes what is trained, for people.
    """

    what: str
    seeds: Sequence[int]
    prepare: Callable[[Path], Comparison]
    describe: Callable[[Comparison], str]


def tasks(device: torch.device, seeds: int = SEEDS) -> dict[str, Task]:
    """Return all tasks with so many seeds, by the name that the command line has for them."""
    networks = {
        name: Task(
            own.what,
            seeds_of(seeds),
            partial(prepare, name, device),
            lambda _: RECIPES[device.type].what,
        )
        for name, own in NETWORKS.items()
    }
    second = Task(
        schedule_second_task.WHAT,
        range(seeds),
        lambda _: schedule_second_task.prepare(device),
        schedule_second_task.described_task,
    )
    return networks | {"characters": second}


@dataclass(frozen=True)
class Trained:
    """What a training took.

    Attributes:
        seconds: Of all steps and switches.
        steps: Mean step of each stage, seconds.
    """

    seconds: float
    steps: Sequence[float]


class Errors:
    """Relative errors of predictions, each from the profile that its training's seed has.

    Args:
        found: Schedules, profiles and trainings of one task.
        seeds: Of the trainings of each schedule.
    """

    def __init__(self, found: Comparison, seeds: Sequence[int]) -> None:
        self.measured: list[float] = []
        """Of steps with settings that the profile has measured."""
        self.others: list[float] = []
        """Of steps with other settings."""
        self.wholes: list[float] = []
        """Of the time of whole trainings."""
        self.signed: dict[str, list[float]] = {}
        """The same by schedule, with its sign: below 0 where too little was predicted."""
        self.known_steps: list[float] = []
        """Of steps, where each stage's median over the seeds is what was predicted."""
        self.known_wholes: list[float] = []
        """Of whole trainings, where the median over the seeds is what was predicted."""
        for arm in ARMS:
            alike: dict[str, list[Trained]] = {}
            for seed in seeds:
                stages = found.arms(seed).stages[arm]
                run = found.run(arm, seed)
                trained = trained_in(run, stages)
                records = found.arms(seed).profile.records
                self._add(arm, Predictor(found.problem(arm), records).predict(stages), trained)
                alike.setdefault(described(stages), []).append(trained)
            for same in alike.values():
                if len(same) >= FEWEST_ALIKE:
                    self._add_known(same)

    def _add(self, arm: str, predicted: SchedulePrediction, trained: Trained) -> None:
        whole, steps = signed_errors(predicted, trained)
        for own, step in zip(predicted.stages, steps, strict=True):
            (self.measured if own.measured else self.others).append(abs(step))
        self.wholes.append(abs(whole))
        self.signed.setdefault(arm, []).append(whole)

    def _add_known(self, same: Sequence[Trained]) -> None:
        for steps in zip(*(own.steps for own in same), strict=True):
            self.known_steps += [abs(off(median(steps), step)) for step in steps]
        wholes = [own.seconds for own in same]
        self.known_wholes += [abs(off(median(wholes), whole)) for whole in wholes]


def trained_in(run: Run, stages: Sequence[StageOrder]) -> Trained:
    """Return what a run's training took."""
    steps = [
        seconds / math.ceil(samples / stage.model.global_batch)
        for (_, samples, seconds, _), stage in zip(run.stages, stages, strict=True)
    ]
    return Trained(run.training_seconds, steps)


def signed_errors(predicted: SchedulePrediction, trained: Trained) -> tuple[float, list[float]]:
    """Return the error of the time, and of each stage's step."""
    start = predicted.stages[0].switch_seconds  # of a process: no part of a run's own time
    steps = [off(own.step_seconds, step) for own, step in zip(predicted.stages, trained.steps, strict=True)]
    return off(predicted.seconds - start, trained.seconds), steps


def off(predicted: float, seen: float) -> float:
    """Return the relative error against a measured value; below 0 where too little was predicted."""
    return (predicted - seen) / seen


def train(task: Task) -> Comparison:
    """Return a task's comparison with all its trainings."""
    with tempfile.TemporaryDirectory() as folder:
        found = task.prepare(Path(folder))
        for seed in task.seeds:
            found.train(seed)
    return found


def rows_of(name: str, task: Task, device: torch.device) -> Iterator[Row]:
    """Give the rows of one task."""
    found = train(task)
    errors, arms = Errors(found, task.seeds), [found.arms(seed) for seed in task.seeds]
    where = environment("torch", "timm", "numpy", extra=f"{worker(device)}, {task.describe(found)}")

    def row(
        figure: str, value: float | list[float], aim: Aim | None = None, known: float | None = None
    ) -> Row:
        return measured(
            f"{task.what}: {figure}",
            value,
            unit="1",
            aim=aim,
            baseline=known,
            command=f"{COMMAND} --task {name} --seeds {len(task.seeds)}{named_device(device)}",
            environment=where,
        )

    aim = Aim("at most", MEDIAN_ERROR)
    steps = errors.measured + errors.others
    yield row(
        f"median error of the step, {len(steps)} stages", median(steps), aim, middle(errors.known_steps)
    )
    yield row(f"largest error of the step, {len(steps)} stages", max(steps))
    count = len(errors.wholes)
    yield row(
        f"median error of the time, {count} whole trainings",
        median(errors.wholes),
        aim,
        middle(errors.known_wholes),
    )
    yield row(f"largest error of the time, {count} whole trainings", max(errors.wholes))
    for arm, signed in errors.signed.items():
        yield row(f"error of the time, {arm}, with its sign", signed)
    for what, part in (("measured", errors.measured), ("not measured", errors.others)):
        if part:
            yield row(f"median error of the step, {len(part)} stages with settings {what}", median(part))
    held_out = [own.choice.error.median for own in arms if own.choice.error is not None]
    if held_out:
        figure = f"median error that is reported, each measurement left out, mean of {len(held_out)} profiles"
        yield row(figure, fmean(held_out))
    counts = [len(own.profile.records) for own in arms]
    grid = arms[0].profile.grid_size
    yield row(f"measurements, of {grid} combinations, mean of {len(counts)} profiles", fmean(counts))


def middle(values: Sequence[float]) -> float | None:
    """Return the median, where there is one."""
    return median(values) if values else None


def main() -> None:
    """Measure the tasks that are asked for, write the rows of each as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=tasks(CPU), action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of each; default {SEEDS}")
    add_device(parser)
    given = parser.parse_args()
    device = chosen_device(given)
    known = tasks(device, given.seeds)
    own_name = of_device(NAME, device)
    for name in given.task or known:
        write_rows_about(own_name, known[name].what, list(rows_of(name, known[name], device)))
    show(own_name)


if __name__ == "__main__":
    main()
