"""How well the generator's times are predicted: against trainings, and against combinations it has not seen.

The generator profiles as it does for ``schedule-speedup`` (same network, ranges and measurements), and
predicts. Then its candidates are trained for real by the trainer's loop, TRAINED of them that differ most in
time, each shortened to EPOCHS epochs: the step of every stage (median) and the time of the whole run, steps
and switches, are compared with what was predicted for exactly this length. UNSEEN further combinations, drawn
at random from those that were not measured, are measured afterwards and compared too. The error is the
absolute deviation over the measured value.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from nascale.progressive.generation.candidates import Candidate
from nascale.progressive.generation.choice import candidates
from nascale.progressive.generation.grid import make_grid
from nascale.progressive.generation.prediction import SchedulePrediction
from nascale.progressive.generation.problem import GenerationProblem
from nascale.progressive.generation.profile import Proposal
from rows import Aim, environment, measured, publish
from schedule_profiles import Profile, measure_all, run_profile
from schedule_runs import CPU, Images, Setup, fused, image_setup, say, train
from schedule_speedup import IMAGES, NETWORKS, OPTIMIZER, problem

NAME = "schedule-prediction"
COMMAND: Final = "python benchmarks/schedule_prediction.py"
EPOCHS: Final = 2
TRAINED: Final = 6
UNSEEN: Final = 12
MEDIAN_ERROR: Final = 0.05


def spread(found: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return candidates from the cheapest to the dearest, evenly over their order; different ones."""
    places = {round(place * (len(found) - 1) / (count - 1)) for place in range(count)}
    return [found[place] for place in sorted(places)]


def off(predicted: float, seen: float) -> float:
    """Return the relative error."""
    return abs(predicted - seen) / seen


def errors_of_runs(
    setup: Setup, asked: GenerationProblem, profile: Profile
) -> tuple[list[float], list[float], list[float]]:
    """Train candidates; return the errors of their stages' steps, of their switches' sums, of the whole."""
    field = candidates(asked, profile.records)
    steps, switches, wholes = [], [], []
    for place, own in enumerate(spread(field.everyone(), TRAINED)):
        run = train(setup, own.stages, asked.whole, seed=place)
        predicted: SchedulePrediction = own.prediction
        pairs = zip(predicted.stages, run.stages, strict=True)
        steps += [off(one.step_seconds, seen) for one, (_, _, _, seen) in pairs]
        start = predicted.stages[0].switch_seconds  # a process that starts: not part of the run's own time
        within = predicted.seconds - start
        wholes.append(off(within, run.training_seconds))
        switches.append(run.switch_seconds - (predicted.switch_seconds - start))
        say(f"{own.name}: {within:.1f} s predicted, {run.training_seconds:.1f} s taken")
    return steps, switches, wholes


def errors_of_unseen(setup: Setup, asked: GenerationProblem, profile: Profile) -> list[float]:
    """Measure combinations that the profile has left out; return the errors of their steps."""
    seen = {own.combination.key for own in profile.records}
    rest = [own for own in make_grid(asked).combinations if own.key not in seen]
    chosen = random.Random(0).sample(rest, UNSEEN)
    proposals = [Proposal(own, guarded=False, origin="not measured by the profile") for own in chosen]
    predictor = candidates(asked, profile.records).predictor
    return [
        off(predictor.step_seconds(own.combination), own.step_seconds)
        for own in measure_all(setup, asked, proposals)
        if own.measured
    ]


def main() -> None:
    """Measure, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=next(iter(NETWORKS)))
    name = parser.parse_args().network
    own = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        images = Images(Path(folder), IMAGES)
        network = fused(own.channels, own.depths, expansion=own.expansion)
        setup = image_setup(network, images, OPTIMIZER, CPU)
        asked = problem(EPOCHS * IMAGES, CPU)
        profile = run_profile(setup, asked)
        steps, switches, wholes = errors_of_runs(setup, asked, profile)
        unseen = errors_of_unseen(setup, asked, profile)
    held_out = candidates(asked, profile.records).predictor.model.held_out_error()
    shared = {
        "command": COMMAND,
        "environment": environment(
            "torch", "timm", "numpy", extra=f"one thread, {own.what}, {IMAGES} images of Fashion-MNIST"
        ),
    }
    count = len(profile.records)
    rows = [
        measured(
            f"median error of the step of {len(steps)} stages of {len(wholes)} trainings",
            median(steps),
            unit="1",
            aim=Aim("at most", MEDIAN_ERROR),
            **shared,
        ),
        measured(f"largest error of the step of {len(steps)} stages", max(steps), unit="1", **shared),
        measured(
            f"median error of the time of {len(wholes)} whole trainings, switches included",
            median(wholes),
            unit="1",
            aim=Aim("at most", MEDIAN_ERROR),
            **shared,
        ),
        measured(f"largest error of the time of {len(wholes)} trainings", max(wholes), unit="1", **shared),
        measured("seconds of a training's switches beyond prediction", switches, unit="s", **shared),
        measured(
            f"median error of the step of {len(unseen)} combinations that were not measured",
            median(unseen),
            unit="1",
            aim=Aim("at most", MEDIAN_ERROR),
            **shared,
        ),
        measured(f"largest error of the step of {len(unseen)} combinations", max(unseen), unit="1", **shared),
        measured(
            f"measurements of the profile, of {profile.grid_size} combinations",
            float(count),
            unit="1",
            **shared,
        ),
    ]
    if held_out is not None:
        rows.append(
            measured(
                f"median error that the generator itself reports, each of {count} left out in turn",
                held_out.median,
                unit="1",
                **shared,
            )
        )
    publish(NAME, rows)


if __name__ == "__main__":
    main()
