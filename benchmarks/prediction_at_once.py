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
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import torch

from nascale.contract.run_order import StageOrder
from nascale.progressive.generation.prediction import Predictor
from rows import RESULTS, Aim, Row, environment, measured, rows_of_others, show, write_rows
from schedule_arms import CONSTANT, OURS, RECIPE, generate
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
from schedule_runs import Run, add_device, chosen_device, named_device, of_device, say, train, worker
from schedule_speedup import NETWORKS, RECIPES, problem, seeds_of, setup_of

NAME = "prediction-at-once"
COMMAND: Final = "python benchmarks/prediction_at_once.py"
SEEDS: Final = 5
ARMS: Final = (OURS, RECIPE, CONSTANT)


@dataclass(frozen=True)
class Pair:
    """A profile, and the training that followed it at once.

    Attributes:
        profile: Measured first.
        run: Of one of the schedules that follow from it.
    """

    profile: Profile
    run: Run


class Pairs:
    """Profiles and their trainings, by seed and arm; what has ended is kept.

    Args:
        network: Name of it.
        device: Trains.
        folder: For the images.
    """

    def __init__(self, network: str, device: torch.device, folder: Path) -> None:
        own = NETWORKS[network]
        self._setup = replace(setup_of(own, device, folder), judge=lambda *_: 0.0)
        self.asked = problem(own.shares[device.type], device)
        self._path = RESULTS / f"{NAME}.runs.jsonl"
        self._key = profile_key(self._setup, self.asked)

    def stages(self, arm: str, seed: int, profile: Profile) -> tuple[StageOrder, ...]:
        """Return the schedule of an arm, from its own profile."""
        asked = replace(self.asked, seed=seed)
        return generate(asked, asked, profile, "efficientnetv2").stages[arm]

    def pair(self, arm: str, seed: int) -> Pair:
        """Return what was measured: kept, or now, and again where other programs have disturbed it."""
        for document in kept_lines(self._path):
            if (document["key"], document["arm"], document["seed"]) == (self._key, arm, seed):
                return Pair(profile_of(document["profile"]), run_of(document["run"]))
        for _ in range(MOST_ATTEMPTS):
            found = self._measure(arm, seed)
            if not found.run.disturbed:
                break
        else:
            raise SystemExit(f"seed {seed}, {arm}: other programs have disturbed {MOST_ATTEMPTS} runs")
        document = {"profile": written_profile(found.profile), "run": asdict(found.run)}
        append(self._path, {"key": self._key, "arm": arm, "seed": seed, **document})
        return found

    def _measure(self, arm: str, seed: int) -> Pair:
        profile = run_profile(self._setup, replace(self.asked, seed=seed))
        run = train(self._setup, self.stages(arm, seed, profile), self.asked.whole, seed)
        say(f"seed {seed}, {arm}: {run.training_seconds:.1f} s")
        return Pair(profile, run)


class Errors:
    """Relative errors of predictions.

    Args:
        pairs: Makes schedules from profiles.
        found: Profiles and trainings, by arm and seed.
    """

    def __init__(self, pairs: Pairs, found: Mapping[tuple[str, int], Pair]) -> None:
        self.steps: list[float] = []
        """Of the mean step of each stage, without signs."""
        self.wholes: dict[str, list[float]] = {arm: [] for arm in ARMS}
        """Of the time of each training, with signs, by arm."""
        self.known: list[float] = []
        """Of the time, without signs, where the median over the seeds is what was predicted."""
        alike: dict[str, list[float]] = {}
        for (arm, seed), own in found.items():
            stages = pairs.stages(arm, seed, own.profile)
            predicted = Predictor(pairs.asked, own.profile.records).predict(stages)
            trained = trained_in(own.run, stages)
            whole, steps = signed_errors(predicted, trained)
            self.steps += [abs(step) for step in steps]
            self.wholes[arm].append(whole)
            alike.setdefault(described(stages), []).append(trained.seconds)
        for same in alike.values():
            if len(same) >= FEWEST_ALIKE:
                self.known += [abs(off(median(same), seconds)) for seconds in same]


def rows_of(network: str, device: torch.device, pairs: Pairs, count: int) -> Iterator[Row]:
    """Measure so many seeds, and give the rows of a network."""
    own, seeds = NETWORKS[network], seeds_of(count)
    errors = Errors(pairs, {(arm, seed): pairs.pair(arm, seed) for seed in seeds for arm in ARMS})
    where = environment("torch", "timm", "numpy", extra=f"{worker(device)}, {RECIPES[device.type].what}")
    sizes = [abs(whole) for wholes in errors.wholes.values() for whole in wholes]
    aim = Aim("at most", MEDIAN_ERROR)

    def row(
        figure: str, value: float | list[float], aim: Aim | None = None, known: float | None = None
    ) -> Row:
        command = f"{COMMAND} --network {network} --seeds {count}{named_device(device)}"
        return measured(
            f"{own.what}: {figure}",
            value,
            unit="1",
            aim=aim,
            baseline=known,
            command=command,
            environment=where,
        )

    yield row(f"median error of the time, {len(sizes)} trainings", median(sizes), aim, middle(errors.known))
    yield row(f"largest error of the time, {len(sizes)} trainings", max(sizes))
    yield row(f"median error of the step, {len(errors.steps)} stages", median(errors.steps), aim)
    yield row(f"largest error of the step, {len(errors.steps)} stages", max(errors.steps))
    for arm, wholes in errors.wholes.items():
        yield row(f"median error of the time, {arm}", median([abs(whole) for whole in wholes]))
        yield row(f"error of the time, {arm}, with its sign", wholes)


def main() -> None:
    """Measure, write rows as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default {SEEDS}")
    add_device(parser)
    given = parser.parse_args()
    device = chosen_device(given)
    name = of_device(NAME, device)
    for network in given.network or NETWORKS:
        others = rows_of_others(name, {NETWORKS[network].what})
        with tempfile.TemporaryDirectory() as folder:
            pairs = Pairs(network, device, Path(folder))
            for count in range(1, given.seeds + 1):
                write_rows(name, [*others, *rows_of(network, device, pairs, count)])
    show(name)


if __name__ == "__main__":
    main()
