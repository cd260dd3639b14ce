"""Arms of a comparison of schedules: what they are, their trainings, the rows that follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nascale.contract.run_order import StageOrder
from nascale.progressive.generation.choice import Choice, candidates, choose
from nascale.progressive.generation.problem import GenerationProblem
from rows import Aim, Row, mean_with_ci95, measured
from schedule_profiles import KeptRuns, Profile, described
from schedule_runs import Setup, say, train

FEWEST_SEEDS: Final = 2
"""From which on an interval can be told."""
TIMES_RECIPE: Final = 3.0
TIMES_CONSTANT: Final = 1.3
NON_INFERIOR: Final = 0.001
"""Accuracy that may be lost against the constant recipe."""

RECIPE: Final = "constant recipe"
CONSTANT: Final = "best constant settings"
SHORT_RECIPE: Final = "constant recipe, fewer epochs"
SHORT_CONSTANT: Final = "best constant settings, fewer epochs"
MODEL: Final = "model-level only"
HARDWARE: Final = "hardware-level only"
OURS: Final = "generated"
ARMS: Final = (RECIPE, CONSTANT, OURS, SHORT_RECIPE, SHORT_CONSTANT, MODEL, HARDWARE)
"""In the order of training: the shortened ones take as long as the generated schedule of the same seed."""


@dataclass(frozen=True)
class Arms:
    """Schedules of all arms.

    Attributes:
        asked: What the generated schedule is asked for: length, ranges.
        recipe: The same with the constant recipe's length, which all other arms have.
        profile: What they come from.
        choice: The generator's choice.
        stages: By arm; the shortened ones have those of the arm that they shorten.
    """

    asked: GenerationProblem
    recipe: GenerationProblem
    profile: Profile
    choice: Choice
    stages: dict[str, tuple[StageOrder, ...]]

    def problem(self, arm: str) -> GenerationProblem:
        """Return what an arm's schedule was made for."""
        return self.asked if arm == OURS else self.recipe


def generate(asked: GenerationProblem, recipe: GenerationProblem, found: Profile, ramp: str) -> Arms:
    """Choose from a profile.

    Args:
        asked: What is asked for.
        recipe: The same with the constant recipe's length.
        found: The profile.
        ramp: Name of the published schedule that stands for the model level alone.
    """
    choice = choose(asked, found.records)
    fixed = candidates(replace(recipe, fixed_hardware=True), found.records)
    published = next(own for own, _ in fixed.courses if own.name == ramp)
    stages = {
        RECIPE: (asked.base,),
        CONSTANT: choice.best_constant.stages,
        OURS: choice.candidate.stages,
        MODEL: published.stages,
        HARDWARE: choose(replace(recipe, fixed_model=True), found.records).candidate.stages,
    }
    for name, own in stages.items():
        say(f"{name}: {described(own)}")
    say(choice.reason)
    stages |= {SHORT_RECIPE: stages[RECIPE], SHORT_CONSTANT: stages[CONSTANT]}
    return Arms(asked, recipe, found, choice, stages)


def train_all(setup: Setup, arms: Arms, runs: KeptRuns, seed: int) -> None:
    """Train all arms with one seed, one after the other; equal schedules once."""
    for arm in ARMS:
        count = arms.problem(arm).whole
        if arm in (SHORT_RECIPE, SHORT_CONSTANT):
            shortened = RECIPE if arm == SHORT_RECIPE else CONSTANT
            ratio = runs.found[OURS, seed].seconds / runs.found[shortened, seed].seconds
            count = round(count * min(1.0, ratio))
        stages = arms.stages[arm]
        runs.get(arm, stages, count, seed, lambda s=stages, c=count: train(setup, s, c, seed))


@dataclass(frozen=True)
class About:
    """Circumstances of rows.

    Attributes:
        where: Machine and versions.
        command: How to measure again.
    """

    where: str
    command: str


class Table:
    """Rows of one network.

    Args:
        what: The network, for people.
        arms: Their schedules.
        runs: Their runs.
        seeds: Those of which all runs are there.
        about: Circumstances.
    """

    def __init__(self, what: str, arms: Arms, runs: KeptRuns, seeds: Sequence[int], about: About) -> None:
        self._what, self._arms, self._runs, self._seeds = what, arms, runs, seeds
        self._about = about

    def rows(self) -> Iterator[Row]:
        """Give all rows."""
        yield from self._times()
        for arm in ARMS:
            yield self._row(f"accuracy, {arm}", self._quality(arm))
        yield from self._differences()
        for arm in ARMS:
            yield self._row(f"seconds, {arm}", self._seconds(arm), "s")
        yield from self._costs()

    def _times(self) -> Iterator[Row]:
        ours, profile = self._seconds(OURS), self._arms.profile.seconds
        for arm, aim in ((RECIPE, TIMES_RECIPE), (CONSTANT, TIMES_CONSTANT), (MODEL, None), (HARDWARE, None)):
            theirs = self._seconds(arm)
            ratios = [other / own for other, own in zip(theirs, ours, strict=True)]
            wanted = None if aim is None else Aim("at least", aim)
            yield self._row(f"times faster than {arm}", ratios, aim=wanted)
        for arm in (RECIPE, CONSTANT):
            ratios = [other / (own + profile) for other, own in zip(self._seconds(arm), ours, strict=True)]
            yield self._row(f"times faster than {arm}, profile included in a single run", ratios)

    def _differences(self) -> Iterator[Row]:
        ours = self._quality(OURS)
        for arm in ARMS:
            if arm == OURS:
                continue
            gains = [own - other for own, other in zip(ours, self._quality(arm), strict=True)]
            wanted = Aim("at least", -NON_INFERIOR) if arm == RECIPE else None
            yield self._row(f"accuracy, generated less {arm}", gains, aim=wanted)
            if arm in (SHORT_RECIPE, SHORT_CONSTANT):
                _, interval = mean_with_ci95(gains)
                if interval is not None:
                    yield self._row(
                        f"lower end of the 95 % interval, accuracy, generated less {arm}",
                        interval[0],
                        aim=Aim("at least", 0.0),
                    )

    def _costs(self) -> Iterator[Row]:
        profile, chosen = self._arms.profile, self._arms.choice.candidate
        switches = [self._runs.found[OURS, seed].switch_seconds for seed in self._seeds]
        share = self._arms.asked.whole / self._arms.recipe.whole
        yield self._row("samples of the generated schedule over the recipe's", share)
        yield self._row("seconds of switches within the generated schedule", switches, "s")
        yield self._row("predicted seconds of the generated schedule", chosen.prediction.seconds, "s")
        yield self._row("seconds of the profile", profile.seconds, "s")
        yield self._row(
            f"measurements of the profile, of {profile.grid_size} combinations",
            float(len(profile.records)),
        )
        for arm in (CONSTANT, OURS, MODEL, HARDWARE):
            stages = self._arms.stages[arm]
            yield self._row(f"stages of {arm} ({described(stages)})", float(len(stages)))

    def _quality(self, arm: str) -> list[float]:
        return [self._runs.found[arm, seed].quality for seed in self._seeds]

    def _seconds(self, arm: str) -> list[float]:
        return [self._runs.found[arm, seed].seconds for seed in self._seeds]

    def _row(self, figure: str, samples: float | list[float], unit: str = "1", aim: Aim | None = None) -> Row:
        return measured(
            f"{self._what}: {figure}",
            samples,
            unit=unit,
            aim=aim,
            command=self._about.command,
            environment=self._about.where,
        )
