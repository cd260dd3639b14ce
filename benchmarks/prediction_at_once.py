"""How well times are predicted of a training that follows its profile at once, as it does in a cluster.

``schedule-prediction`` compares all trainings of a seed with one profile: the first one follows it at once,
the last one a quarter of an hour later, when a host that others use too is faster or slower. A generated
training begins when its profile has ended. Here each training has a profile of its own and follows it at
once: the generated schedule, the constant recipe and the best constant settings, which are the three whose
times the generator states when it says what it has chosen. All have as many samples as are asked of the
generated schedule, because so they are stated.

Networks, images, ranges and measurements are those of ``schedule-speedup``. What remains to one who knows
the median over the seeds stands beside the errors, of schedules that at least three seeds have. Nobody
judges the networks.

Those trainings take a minute or two, and their profiles, fifteen measurements at most, hardly less.
``--times 4`` trains on four times the images. As in a cluster, the profile then measures again, while its
prediction is in doubt, for as long as it has taken less than a quarter of what the constant recipe takes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import torch

from nascale.progressive.generation import rules
from nascale.progressive.generation.choice import choose
from nascale.progressive.generation.prediction import SchedulePrediction
from rows import RESULTS, Aim, Row, environment, measured, show, write_rows_about
from schedule_arms import CONSTANT, OURS, RECIPE
from schedule_prediction import FEWEST_ALIKE, MEDIAN_ERROR, middle, off, signed_errors, trained_in
from schedule_profiles import (
    MOST_ATTEMPTS,
    Profile,
    append,
    described,
    kept_lines,
    profile_key,
    profile_of,
    run_of,
    run_profile,
    written_profile,
)
from schedule_runs import Run, chosen_device, named_device, of_device, say, train, worker
from schedule_speedup import NETWORKS, RECIPES, Recipe, given_arguments, problem, seeds_of, setup_of

NAME = "prediction-at-once"
COMMAND: Final = "python benchmarks/prediction_at_once.py"
ARMS: Final = (OURS, RECIPE, CONSTANT)


@dataclass(frozen=True)
class Pair:
    """What a profile has predicted, and the training that followed it at once.

    Attributes:
        predicted: Of one of the three schedules, by its own profile.
        run: Of this schedule.
    """

    predicted: SchedulePrediction
    run: Run


class Pairs:
    """Profiles and their trainings, by seed and arm; what has ended is kept.

    Args:
        network: Name of it.
        device: Trains.
        folder: For the images.
        times: Of the recipe's images.
    """

    def __init__(self, network: str, device: torch.device, folder: Path, times: int = 1) -> None:
        own, trained = NETWORKS[network], recipe_of(device, times)
        self._setup = replace(setup_of(own, device, folder, trained), judge=lambda *_: 0.0)
        self._asked = problem(own.shares[device.type], device, trained)
        self._again = rules.AGAIN if times > 1 else None
        self._path = RESULTS / f"{NAME}.runs.jsonl"
        self._key = profile_key(self._setup, self._asked)

    def pair(self, arm: str, seed: int) -> Pair:
        """Return what was measured: kept, or now, and again where other programs have disturbed it.

        What is kept of a schedule that the generator would not make any more is left alone.
        """
        for document in kept_lines(self._path):
            if (document["key"], document["arm"], document["seed"]) == (self._key, arm, seed):
                predicted = self._predicted(arm, seed, profile_of(document["profile"]))
                if document["schedule"] == schedule_of(predicted):
                    return Pair(predicted, run_of(document["run"]))
        for _ in range(MOST_ATTEMPTS):
            profile = run_profile(self._setup, replace(self._asked, seed=seed), again=self._again)
            predicted = self._predicted(arm, seed, profile)
            stages = [own.stage for own in predicted.stages]
            run = train(self._setup, stages, self._asked.whole, seed)
            say(f"seed {seed}, {arm}: {run.training_seconds:.1f} s")
            if not run.disturbed:
                break
        else:
            raise SystemExit(f"seed {seed}, {arm}: other programs have disturbed {MOST_ATTEMPTS} runs")
        document = {
            "schedule": schedule_of(predicted),
            "profile": written_profile(profile),
            "run": asdict(run),
        }
        append(self._path, {"key": self._key, "arm": arm, "seed": seed, **document})
        return Pair(predicted, run)

    def _predicted(self, arm: str, seed: int, profile: Profile) -> SchedulePrediction:
        """Return what the generator states of an arm's schedule."""
        choice = choose(replace(self._asked, seed=seed), profile.records)
        say(choice.reason)
        if choice.recipe is None:
            raise SystemExit(f"seed {seed}: the constant recipe can't be run on this device")
        stated = {
            OURS: choice.candidate.prediction,
            RECIPE: choice.recipe,
            CONSTANT: choice.best_constant.prediction,
        }
        return stated[arm]


def schedule_of(predicted: SchedulePrediction) -> str:
    """Write the schedule of a prediction."""
    return described(own.stage for own in predicted.stages)


class Errors:
    """Relative errors of predictions."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        """Of the mean step of each stage, without signs."""
        self.wholes: dict[str, list[float]] = {arm: [] for arm in ARMS}
        """Of the time of each training, with signs, by arm."""
        self._alike: dict[str, list[float]] = {}

    def add(self, arm: str, own: Pair) -> None:
        """Compare a training with what was predicted."""
        stages = [predicted.stage for predicted in own.predicted.stages]
        trained = trained_in(own.run, stages)
        whole, steps = signed_errors(own.predicted, trained)
        self.steps += [abs(step) for step in steps]
        self.wholes[arm].append(whole)
        self._alike.setdefault(schedule_of(own.predicted), []).append(trained.seconds)

    def known(self) -> list[float]:
        """Return errors of the time, where the median over the seeds is what was predicted."""
        alike = [same for same in self._alike.values() if len(same) >= FEWEST_ALIKE]
        return [abs(off(median(same), seconds)) for same in alike for seconds in same]


def recipe_of(device: torch.device, times: int) -> Recipe:
    """Return what a kind of device trains, with so many times the images."""
    return RECIPES[device.type].longer(times)


def what_of(network: str, times: int) -> str:
    """Name what is trained, for people."""
    longer = f", {times} times the images" if times > 1 else ""
    return f"{NETWORKS[network].what}{longer}"


def rows_of(network: str, device: torch.device, times: int, errors: Errors, count: int) -> Iterator[Row]:
    """Give the rows of a network, of so many seeds."""
    where = environment("torch", "timm", "numpy", extra=f"{worker(device)}, {recipe_of(device, times).what}")
    sizes = [abs(whole) for wholes in errors.wholes.values() for whole in wholes]
    aim = Aim("at most", MEDIAN_ERROR)

    def row(
        figure: str, value: float | list[float], aim: Aim | None = None, known: float | None = None
    ) -> Row:
        longer = f" --times {times}" if times > 1 else ""
        command = f"{COMMAND} --network {network}{longer} --seeds {count}{named_device(device)}"
        return measured(
            f"{what_of(network, times)}: {figure}",
            value,
            unit="1",
            aim=aim,
            baseline=known,
            command=command,
            environment=where,
        )

    yield row(f"median error of the time, {len(sizes)} trainings", median(sizes), aim, middle(errors.known()))
    yield row(f"largest error of the time, {len(sizes)} trainings", max(sizes))
    yield row(f"median error of the step, {len(errors.steps)} stages", median(errors.steps), aim)
    yield row(f"largest error of the step, {len(errors.steps)} stages", max(errors.steps))
    for arm, wholes in errors.wholes.items():
        yield row(f"median error of the time, {arm}", median([abs(whole) for whole in wholes]))
        yield row(f"error of the time, {arm}, with its sign", wholes)


def main() -> None:
    """Measure, write rows as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="of the recipe's images; default 1")
    given = given_arguments(parser)
    device = chosen_device(given)
    name = of_device(NAME, device)
    for network in given.network or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            pairs, errors = Pairs(network, device, Path(folder), given.times), Errors()
            for count, seed in enumerate(seeds_of(given.seeds), start=1):
                for arm in ARMS:
                    errors.add(arm, pairs.pair(arm, seed))
                rows = list(rows_of(network, device, given.times, errors, count))
                write_rows_about(name, what_of(network, given.times), rows)
    show(name)


if __name__ == "__main__":
    main()
