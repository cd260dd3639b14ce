"""How well times are predicted, apart from what the host does to its own speed.

``schedule-prediction`` compares a profile's predictions with trainings of the minutes after it; a host that
others use too is faster or slower by then. Here the same profiles and trainings of inverted residuals are
measured with a yardstick between their forward passes: forward and backward pass of the same network on eight
images of 14 pixels, about 8 ms. Its work is always the same, so the time that it takes tells how fast the
host is; its own time is taken out of all figures. Times at the profile's mean speed are times over the mean
yardstick of the stage, or of the measurement, times the mean yardstick of the seed's profile. Four figures
follow: times as they were measured; measurements at one speed, which a profile could have that takes a
yardstick with it (the schedules that are trained are those of the plain profile); trainings at the profile's
speed, which nobody can know in advance; and both, which leaves the generator's own error. Of slow steps a
measurement holds hardly more than ten yardsticks.

Of what was tried between steps for two or three minutes (a matrix product, memory, a convolution, Python's
own arithmetic, small training steps), such a step followed the measured ones best, whichever came before it:
over half a minute, means of steps varied by 2.9 to 4.2 %, over those of the yardstick by 0.8 to 1.1 %.

Each seed has a profile of its own, and four trainings that follow it: the generated schedule, the constant
recipe, the best constant settings, the published ramp. Nobody judges the networks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import torch
from torch import nn

from nascale.contract.architecture import Architecture
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.problem import ProfileRecord
from nascale_trainer.build import build_network
from nascale_trainer.progressive.image_task import ImageBatch, ImageTask
from nascale_trainer.progressive.profile_bench import Unwatched
from nascale_trainer.progressive.task import MicroBatchPlace
from rows import RESULTS, Aim, Row, environment, measured, show, write_rows
from schedule_arms import CONSTANT, MODEL, OURS, RECIPE, generate
from schedule_prediction import MEDIAN_ERROR, off, signed_errors, trained_in
from schedule_profiles import (
    MEASURED,
    Profile,
    append,
    kept_lines,
    profile_key,
    profile_of,
    run_of,
    run_profile,
    trial_name,
    written_profile,
)
from schedule_runs import CLASSES, CPU, Run, Setup, of_device, say, train, worker
from schedule_speedup import NETWORKS, RECIPES, problem, seeds_of, setup_of

NAME = "prediction-at-one-speed"
COMMAND: Final = "python benchmarks/prediction_at_one_speed.py"
NETWORK: Final = "inverted"
SEEDS: Final = 5
ARMS: Final = (OURS, RECIPE, CONSTANT, MODEL)
"""In the order of training."""
IMAGES: Final = 8
PIXELS: Final = 14
EVERY: Final = 2
"""Forward passes for one yardstick."""
WARM_UP: Final = 100


class Yardstick(Unwatched):
    """Work that is always the same; keeps what it took with the trial and the stage that it was done in.

    Args:
        architecture: Of the network.
    """

    def __init__(self, architecture: Architecture) -> None:
        layout = torch.channels_last
        self._network = build_network(architecture, 1, CLASSES, seed=0).to(memory_format=layout)
        self._weights = list(self._network.parameters())
        self._images = torch.ones(IMAGES, 1, PIXELS, PIXELS).contiguous(memory_format=layout)
        self._labels = torch.zeros(IMAGES, dtype=torch.long)
        self._trial, self._passes = "", 0
        self.taken: dict[tuple[str, str], list[float]] = {}

    def progress(self, trial: str, ratio: float) -> None:  # noqa: ARG002 - an observer is told
        """Note what the next ones belong to; a trial that is made again has none yet."""
        if trial != self._trial:
            self._trial = trial
            for key in [own for own in self.taken if own[0] == trial]:
                del self.taken[key]

    def before_pass(self, stage: StageOrder) -> None:
        """Do the work before every second forward pass."""
        self._passes += 1
        if self._passes % EVERY == 0:
            self.taken.setdefault((self._trial, stage.name), []).append(self._work())

    def warm_up(self) -> None:
        """Do the work some times that don't count."""
        for _ in range(WARM_UP):
            self._work()

    def _work(self) -> float:
        begin = time.perf_counter()
        loss = nn.functional.cross_entropy(self._network(self._images), self._labels)
        torch.autograd.grad(loss, self._weights)
        return time.perf_counter() - begin


class MeasuringTask(ImageTask):
    """The built-in trainer's task, with a yardstick between its forward passes."""

    def __init__(self, order: RunOrder, setup: Setup, yardstick: Yardstick) -> None:
        super().__init__(order, setup.environ, setup.device)
        self._yardstick = yardstick

    def batch(self, place: MicroBatchPlace, stage: StageOrder) -> ImageBatch:
        """Return the samples; what was done before counts for the step."""
        self._yardstick.before_pass(stage)
        return super().batch(place, stage)


@dataclass(frozen=True)
class MeasuredRun:
    """A training that has ended.

    Attributes:
        run: Its times, yardsticks included.
        yardsticks: Mean yardstick of each stage, seconds.
        counts: Yardsticks of each stage.
    """

    run: Run
    yardsticks: tuple[float, ...]
    counts: tuple[int, ...]

    def alone(self, usual: float | None = None) -> Run:
        """Return the run without yardsticks, its steps at the speed of a usual one if given."""
        stages = tuple(
            (name, samples, (seconds - count * own) * _factor(usual, own), p50)
            for (name, samples, seconds, p50), own, count in zip(
                self.run.stages, self.yardsticks, self.counts, strict=True
            )
        )
        saved = sum(before[2] - after[2] for before, after in zip(self.run.stages, stages, strict=True))
        return replace(self.run, stages=stages, training_seconds=self.run.training_seconds - saved)

    @property
    def yardstick(self) -> float:
        """Mean of all its yardsticks, seconds."""
        return sum(
            yardstick * count for yardstick, count in zip(self.yardsticks, self.counts, strict=True)
        ) / sum(self.counts)


@dataclass(frozen=True)
class Seed:
    """Everything that was measured with one seed.

    Attributes:
        profile: Its profile, yardsticks included.
        yardsticks: Mean yardstick of each of its measurements, seconds.
        usual: Mean of all yardsticks of the profile, seconds.
        trained: By arm.
    """

    profile: Profile
    yardsticks: tuple[float, ...]
    usual: float
    trained: Mapping[str, MeasuredRun]

    def records(self, usual: float | None = None) -> list[ProfileRecord]:
        """Return the profile's measurements alone, at the speed of a usual yardstick if given."""
        return without_yardsticks(self.profile.records, self.yardsticks, usual)


def without_yardsticks(
    records: Sequence[ProfileRecord], yardsticks: Sequence[float], usual: float | None
) -> list[ProfileRecord]:
    """Return measurements alone, at the speed of a usual yardstick if given."""
    return [
        replace(
            own,
            step_seconds=(own.step_seconds - own.hardware.accumulation * yardstick / EVERY)
            * _factor(usual, yardstick),
        )
        if own.measured
        else own
        for own, yardstick in zip(records, yardsticks, strict=True)
    ]


def _factor(usual: float | None, yardstick: float) -> float:
    """Return what brings times with such a yardstick to the speed of a usual one."""
    return 1.0 if usual is None else usual / yardstick


class Comparison:
    """Profiles and trainings with yardsticks, by seed; a seed that has ended is kept.

    Args:
        folder: For the images.
    """

    def __init__(self, folder: Path) -> None:
        own = NETWORKS[NETWORK]
        plain = setup_of(own, CPU, folder)
        self._yardstick = Yardstick(own.architecture(CPU))
        self._setup = replace(
            plain,
            make_task=lambda order, _: MeasuringTask(order, plain, self._yardstick),
            judge=lambda *_: 0.0,
            observer=self._yardstick,
        )
        self.asked, self.recipe = problem(own.shares[CPU.type], CPU), problem(1, CPU)
        self._path = RESULTS / f"{NAME}.runs.jsonl"
        self._key = profile_key(plain, self.asked)
        self._stages: dict[int, dict[str, tuple[StageOrder, ...]]] = {}

    def stages(
        self, seed: int, profile: Profile, yardsticks: Sequence[float]
    ) -> dict[str, tuple[StageOrder, ...]]:
        """Return the schedule of each arm, from the profile as it was measured."""
        if seed not in self._stages:
            records = tuple(without_yardsticks(profile.records, yardsticks, None))
            asked, recipe = replace(self.asked, seed=seed), replace(self.recipe, seed=seed)
            plain = replace(profile, records=records)
            self._stages[seed] = generate(asked, recipe, plain, "efficientnetv2").stages
        return self._stages[seed]

    def seed(self, number: int) -> Seed:
        """Return what a seed has brought: kept, or measured now."""
        for document in kept_lines(self._path):
            if document["key"] == self._key and document["seed"] == number:
                return _seed_of(document)
        found = self._measure(number)
        append(self._path, {"key": self._key, "seed": number, **_written(found)})
        return found

    def _measure(self, number: int) -> Seed:
        self._yardstick.taken.clear()
        self._yardstick.warm_up()
        profile = run_profile(self._setup, replace(self.asked, seed=number))
        taken = [  # what was refused has none
            self._yardstick.taken.get((trial_name(place), MEASURED), [0.0])
            for place in range(len(profile.records))
        ]
        yardsticks = tuple(fmean(own) for own in taken)
        usual = fmean(own for same in taken for own in same if own)
        stages = self.stages(number, profile, yardsticks)
        return Seed(profile, yardsticks, usual, {arm: self._train(arm, stages[arm], number) for arm in ARMS})

    def _train(self, arm: str, stages: Sequence[StageOrder], seed: int) -> MeasuredRun:
        self._yardstick.taken.clear()
        samples = (self.asked if arm == OURS else self.recipe).whole
        run = train(self._setup, stages, samples, seed)
        taken = [
            [own for (_, stage), found in self._yardstick.taken.items() if stage == name for own in found]
            for name, *_ in run.stages
        ]
        say(f"seed {seed}, {arm}: {run.training_seconds:.1f} s")
        return MeasuredRun(run, tuple(fmean(own) for own in taken), tuple(len(own) for own in taken))


def _written(found: Seed) -> dict[str, Any]:
    return {**asdict(found), "profile": written_profile(found.profile)}


def _seed_of(document: dict[str, Any]) -> Seed:
    trained = {
        arm: MeasuredRun(run_of(own["run"]), tuple(own["yardsticks"]), tuple(own["counts"]))
        for arm, own in document["trained"].items()
    }
    profile = profile_of(document["profile"])
    return Seed(profile, tuple(document["yardsticks"]), document["usual"], trained)


@dataclass(frozen=True)
class Errors:
    """Relative errors of predictions, with their signs.

    Attributes:
        steps: Of the mean step of each stage.
        wholes: Of the time of each training.
    """

    steps: tuple[float, ...]
    wholes: tuple[float, ...]


class Speed(StrEnum):
    """The speed at which times are compared."""

    OWN = "as measured"
    MEASUREMENTS = "measurements at the profile's mean speed"
    TRAININGS = "trainings at the profile's mean speed"
    ALL = "both at the profile's mean speed"


def errors(found: Comparison, seeds: Mapping[int, Seed], speed: Speed) -> Errors:
    """Compare all trainings with what their seeds' profiles say."""
    steps: list[float] = []
    wholes: list[float] = []
    for number, own in seeds.items():
        usual = own.usual if speed in (Speed.TRAININGS, Speed.ALL) else None
        records = own.records(own.usual if speed in (Speed.MEASUREMENTS, Speed.ALL) else None)
        stages = found.stages(number, own.profile, own.yardsticks)
        for arm, trained in own.trained.items():
            asked = found.asked if arm == OURS else found.recipe
            predicted = Predictor(asked, records).predict(stages[arm])
            whole, parts = signed_errors(predicted, trained_in(trained.alone(usual), stages[arm]))
            wholes.append(whole)
            steps += parts
    return Errors(tuple(steps), tuple(wholes))


def rows(found: Comparison, seeds: Mapping[int, Seed]) -> Iterator[Row]:
    """Give all rows."""
    where = environment(
        "torch", "timm", "numpy", extra=f"{worker(CPU)}, {NETWORKS[NETWORK].what}, {RECIPES[CPU.type].what}"
    )

    def row(figure: str, value: float | list[float], unit: str = "1", aim: Aim | None = None) -> Row:
        command = f"{COMMAND} --seeds {len(seeds)}"
        return measured(figure, value, unit=unit, aim=aim, command=command, environment=where)

    yield row("yardstick in the profile", [own.usual for own in seeds.values()], "s")
    slower = [
        abs(off(trained.yardstick, own.usual)) for own in seeds.values() for trained in own.trained.values()
    ]
    yield row("yardstick in a training against its profile, median difference", median(slower))
    yield row("yardstick in a training against its profile, largest difference", max(slower))
    for speed in Speed:
        own = errors(found, seeds, speed)
        for part, values in (("step", own.steps), ("time", own.wholes)):
            count = f"{len(values)} {'stages' if part == 'step' else 'whole trainings'}"
            sizes = [abs(value) for value in values]
            aim = Aim("at most", MEDIAN_ERROR)
            yield row(f"median error of the {part}, {count}, {speed}", median(sizes), aim=aim)
            yield row(f"largest error of the {part}, {count}, {speed}", max(sizes))
        yield row(f"mean error of the time with its sign, {speed}", fmean(own.wholes))


def main() -> None:
    """Measure, write rows as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default {SEEDS}")
    given = parser.parse_args()
    name = of_device(NAME, CPU)
    with tempfile.TemporaryDirectory() as folder:
        found = Comparison(Path(folder))
        seeds: dict[int, Seed] = {}
        for number in seeds_of(given.seeds):
            seeds[number] = found.seed(number)
            write_rows(name, list(rows(found, seeds)))
    show(name)


if __name__ == "__main__":
    main()
