"""Arms of a comparison of schedules: what they are, their trainings, the rows that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nascale.contract.run_order import StageOrder
from nascale.progressive.generation.choice import Choice, candidates, choose
from nascale.progressive.generation.problem import GenerationProblem
from rows import Aim, Row, mean_with_ci95, measured
from schedule_profiles import KeptRuns, Profile, described, run_profile
from schedule_runs import Run, Setup, say, train

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
ARMS: Final = (OURS, RECIPE, CONSTANT, SHORT_RECIPE, SHORT_CONSTANT, MODEL, HARDWARE)
"""In the order of training: the generated schedule's follows the profile, as it would for users; the
shortened ones take as long as it did."""


@dataclass(frozen=True)
class Arms:
    """Schedules of all arms for one seed.

    Attributes:
        profile: What they come from.
        choice: The generator's choice.
        stages: By arm; the shortened ones have those of the arm that they shorten.
    """

    profile: Profile
    choice: Choice
    stages: dict[str, tuple[StageOrder, ...]]


class Comparison:
    """Profiles, schedules and trainings of one network, by seed.

    Args:
        setup: Network, data, device.
        runs: Profiles and trainings so far.
        asked: What the generated schedule is asked for: length, ranges.
        recipe: The same with the constant recipe's length, which all other arms have.
        ramp: Name of the published schedule that stands for the model level alone.
    """

    def __init__(
        self, setup: Setup, runs: KeptRuns, asked: GenerationProblem, recipe: GenerationProblem, ramp: str
    ) -> None:
        self.asked, self.recipe = asked, recipe
        self._setup, self._runs, self._ramp = setup, runs, ramp
        self._arms: dict[int, Arms] = {}

    def problem(self, arm: str) -> GenerationProblem:
        """Return what an arm's schedule was made for."""
        return self.asked if arm == OURS else self.recipe

    def run(self, arm: str, seed: int) -> Run:
        """Return a training that has been made."""
        return self._runs.found[arm, seed]

    def arms(self, seed: int) -> Arms:
        """Return the schedules of a seed, from its own profile: kept, or measured now."""
        if seed not in self._arms:
            own = replace(self.asked, seed=seed)
            profile = self._runs.profile(seed, lambda: run_profile(self._setup, own))
            self._arms[seed] = generate(own, replace(self.recipe, seed=seed), profile, self._ramp)
        return self._arms[seed]

    def train(self, seed: int) -> None:
        """Train all arms with one seed, one after the other; equal schedules once."""
        arms = self.arms(seed)
        for arm in ARMS:
            count = self.problem(arm).whole
            if arm in (SHORT_RECIPE, SHORT_CONSTANT):
                shortened = RECIPE if arm == SHORT_RECIPE else CONSTANT
                ratio = self.run(OURS, seed).seconds / self.run(shortened, seed).seconds
                count = round(count * min(1.0, ratio))
            stages = arms.stages[arm]
            self._runs.get(arm, stages, count, seed, lambda s=stages, c=count: train(self._setup, s, c, seed))


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
    return Arms(found, choice, stages)


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
        found: Schedules and trainings.
        seeds: Those of which all trainings are there.
        about: Circumstances.
    """

    def __init__(self, what: str, found: Comparison, seeds: Sequence[int], about: About) -> None:
        self._what, self._found, self._seeds, self._about = what, found, seeds, about
        self._arms = [found.arms(seed) for seed in seeds]

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
        ours = self._seconds(OURS)
        included = [own + arms.profile.seconds for own, arms in zip(ours, self._arms, strict=True)]
        for arm, aim in ((RECIPE, TIMES_RECIPE), (CONSTANT, TIMES_CONSTANT), (MODEL, None), (HARDWARE, None)):
            theirs = self._seconds(arm)
            ratios = [other / own for other, own in zip(theirs, ours, strict=True)]
            wanted = None if aim is None else Aim("at least", aim)
            yield self._row(f"times faster than {arm}", ratios, aim=wanted)
        for arm in (RECIPE, CONSTANT):
            ratios = [other / own for other, own in zip(self._seconds(arm), included, strict=True)]
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
        profiles = [arms.profile for arms in self._arms]
        predicted = [arms.choice.candidate.prediction.seconds for arms in self._arms]
        switches = [self._found.run(OURS, seed).switch_seconds for seed in self._seeds]
        share = self._found.asked.whole / self._found.recipe.whole
        yield self._row("samples of the generated schedule over the recipe's", share)
        yield self._row("seconds of switches within the generated schedule", switches, "s")
        yield self._row("predicted seconds of the generated schedule", predicted, "s")
        yield self._row("seconds of the profile", [own.seconds for own in profiles], "s")
        yield self._row(
            f"measurements of the profile, of {profiles[0].grid_size} combinations",
            [float(len(own.records)) for own in profiles],
        )
        for arm in (CONSTANT, OURS, MODEL, HARDWARE):
            found = Counter((described(own.stages[arm]), len(own.stages[arm])) for own in self._arms)
            for (text, stages), count in found.most_common():
                seeds = f", {count} of {len(self._arms)} seeds" if len(found) > 1 else ""
                yield self._row(f"stages of {arm}{seeds} ({text})", float(stages))

    def _quality(self, arm: str) -> list[float]:
        return [self._found.run(arm, seed).quality for seed in self._seeds]

    def _seconds(self, arm: str) -> list[float]:
        return [self._found.run(arm, seed).seconds for seed in self._seeds]

    def _row(self, figure: str, samples: float | list[float], unit: str = "1", aim: Aim | None = None) -> Row:
        return measured(
            f"{self._what}: {figure}",
            samples,
            unit=unit,
            aim=aim,
            command=self._about.command,
            environment=self._about.where,
        )
