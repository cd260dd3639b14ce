"""Which schedule is chosen where no proxy has been trained, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nascale.contract.stage_settings import HardwareSettings
from nascale.progressive.generation.candidates import RECIPE, Candidate, Planner
from nascale.progressive.generation.courses import courses
from nascale.progressive.generation.errors import NothingFeasibleError
from nascale.progressive.generation.feasibility import Feasibility, LeftOut
from nascale.progressive.generation.floor import breaches
from nascale.progressive.generation.prediction import Predictor, SchedulePrediction
from nascale.progressive.generation.problem import GenerationProblem, Optimize, ProfileRecord, known
from nascale.progressive.generation.step_time import PredictionError

_SHOWN_REFUSALS = 6


@dataclass(frozen=True)
class Choice:
    """A chosen schedule.

    Attributes:
        candidate: The schedule with its table.
        reason: Why, in a sentence with figures.
        alternatives: All other candidates, the cheapest first, each with why it was not chosen.
        recipe: What the constant recipe would take; ``None``: it can't be run on this device.
        best_constant: The cheapest constant schedule with safe settings.
        error: Error of the prediction over measurements that were left out in turn; ``None``: too few.
        left_out: Settings of the ranges that no candidate has, with why.
    """

    candidate: Candidate
    reason: str
    alternatives: tuple[tuple[Candidate, str], ...]
    recipe: SchedulePrediction | None
    best_constant: Candidate
    error: PredictionError | None
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Field:
    """All candidates there are.

    Attributes:
        problem: What is asked for, its length known.
        predictor: Costs.
        planner: Makes further candidates.
        constants: Constant schedules, the cheapest first; at least one.
        courses: Candidates of courses, each with what speaks against it without a proxy.
        left_out: Settings of the ranges that none of them has, with why.
    """

    problem: GenerationProblem
    predictor: Predictor
    planner: Planner
    constants: tuple[Candidate, ...]
    courses: tuple[tuple[Candidate, tuple[str, ...]], ...]
    left_out: tuple[LeftOut, ...] = ()

    def cost(self, candidate: Candidate) -> float:
        """Return what a candidate takes of what is optimised."""
        return candidate.prediction.cost(self.problem.optimize)

    def best(self) -> Candidate:
        """Return the cheapest candidate that may go without a proxy; fewer stages where costs are equal."""
        vouched = [own for own, against in self.courses if not against]
        return min((*self.constants, *vouched), key=self._order)

    def everyone(self) -> list[Candidate]:
        """Return all candidates, the cheapest first."""
        return sorted((*self.constants, *(own for own, _ in self.courses)), key=self._order)

    def _order(self, own: Candidate) -> tuple[float, int, str]:
        return self.cost(own), len(own.stages), own.name


def candidates(
    problem: GenerationProblem, records: Sequence[ProfileRecord], *, evaluation_seconds: float | None = None
) -> Field:
    """Make all candidates.

    Args:
        problem: What is asked for; its length, or that in epochs, is stated.
        records: The profile, in any order.
        evaluation_seconds: Of one evaluation; ``None``: not known.

    Raises:
        NothingFeasibleError: no safe settings with the full model-level values can be run.
        ValueError: the length is not known.
    """
    problem = known(problem, records)
    feasibility = Feasibility(problem, records)
    if not any(own.measured for own in records):
        raise _nothing_feasible(feasibility)
    predictor = Predictor(problem, records, evaluation_seconds=evaluation_seconds)
    planner = Planner(predictor, feasibility)
    constants = planner.constants()
    if not constants:
        raise _nothing_feasible(feasibility)
    planned: dict[str, tuple[Candidate, tuple[str, ...]]] = {}
    for course in courses(problem):
        own = planner.plan(course)
        if own is not None and len(own.stages) > 1:
            key = repr([(stage.length, stage.model, stage.hardware) for stage in own.stages])
            planned.setdefault(key, (own, breaches(problem, own.course)))
    return Field(problem, predictor, planner, tuple(constants), tuple(planned.values()), feasibility.left_out)


def choose(
    problem: GenerationProblem, records: Sequence[ProfileRecord], *, evaluation_seconds: float | None = None
) -> Choice:
    """Choose without proxies: the cheapest schedule among the constant ones and those vouched for.

    What a schedule does to the quality can't be known without training. So only courses that keep to what
    published schedules do (``rules.CONSERVATIVE``) are chosen from.

    Raises:
        NothingFeasibleError, ValueError: as ``candidates``.
    """
    field = candidates(problem, records, evaluation_seconds=evaluation_seconds)
    best = field.best()
    vouched = sum(not against for _, against in field.courses) + len(field.constants)
    reason = f"the {_superlative(field, best)} of {vouched} schedules that keep to published rules"
    against = {id(own): texts for own, texts in field.courses}
    others = [
        (own, "; ".join(against.get(id(own), ())) or compared(field, own, best))
        for own in field.everyone()
        if own is not best
    ]
    return as_choice(field, best, reason, others)


def as_choice(field: Field, best: Candidate, reason: str, others: Sequence[tuple[Candidate, str]]) -> Choice:
    """Add the figures to a choice."""
    recipe = next((own for own in field.constants if own.name == RECIPE), None)
    error = field.predictor.model.held_out_error()
    parts = [f"{best.name} ({best.source}): {best.prediction.seconds:.4g} s, {reason}"]
    if recipe is not None and best is not recipe:
        ratio = recipe.prediction.seconds / best.prediction.seconds
        parts.append(f"{ratio:.3g} times as fast as the constant recipe ({recipe.prediction.seconds:.4g} s)")
    constant = field.constants[0]
    if constant is not best and constant is not recipe:
        ratio = constant.prediction.seconds / best.prediction.seconds
        differs = differing(field.problem.base.hardware, constant.stages[-1].hardware)
        parts.append(f"{ratio:.3g} times as fast as the best constant settings ({differs})")
    if error is not None:
        parts.append(f"predictions are {100 * error.median:.2g} % off in the median")
    return Choice(
        candidate=best,
        reason="; ".join(parts),
        alternatives=tuple(others),
        recipe=None if recipe is None else recipe.prediction,
        best_constant=constant,
        error=error,
        left_out=field.left_out,
    )


def compared(field: Field, own: Candidate, best: Candidate) -> str:
    """Say how much more a candidate takes than the chosen one."""
    ratio = field.cost(own) / field.cost(best) if field.cost(best) else 1.0
    return f"takes {100 * (ratio - 1):.3g} % more" if ratio > 1 else "takes as much"


def differing(base: HardwareSettings, other: HardwareSettings) -> str:
    """Return what some hardware-level settings have other than the base, for people."""
    before, after = base.model_dump(mode="json"), other.model_dump(mode="json")
    found = [f"{name} {value}" for name, value in after.items() if before[name] != value]
    return ", ".join(found) or "the recipe's own"


def _superlative(field: Field, best: Candidate) -> str:
    if field.problem.optimize is Optimize.DEVICE_SECONDS:
        return "one with the fewest device-seconds"
    if field.problem.optimize is Optimize.TIME:
        return "fastest"
    joules = best.prediction.joules
    if joules is None:
        return "fastest (no energy has been measured)"
    return f"one with the least energy ({joules:.4g} J)"


def _nothing_feasible(feasibility: Feasibility) -> NothingFeasibleError:
    reasons = feasibility.reasons
    shown = "; ".join(reasons[:_SHOWN_REFUSALS]) or "nothing has been measured"
    more = f" (and {len(reasons) - _SHOWN_REFUSALS} more)" if len(reasons) > _SHOWN_REFUSALS else ""
    return NothingFeasibleError(
        "schedule.generate: the full model-level values must run with at least one quality-safe combination "
        f"of the ranges' hardware-level settings, but the device refused: {shown}{more}"
    )
