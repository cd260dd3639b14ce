"""Choosing the base network from a front, with a reason that shows its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nascale.search.domination import Matrix, losses, scaled, violation
from nascale.search.errors import SearchError
from nascale.search.history import TrialRecord
from nascale.search.problem import Direction, Objective, SearchProblem


class Method(StrEnum):
    """How the base network is chosen; see ``api.SelectionMethod``."""

    KNEE = "Knee"
    BEST_UNDER_CONSTRAINTS = "BestUnderConstraints"
    MNASNET = "MnasNet"
    TUNAS = "TuNAS"


@dataclass(frozen=True)
class SelectionRule:
    """How to choose one trial from the front; all but the method only for MnasNet and TuNAS.

    Attributes:
        method: The way to choose.
        quality_metric: Objective of the reward that is maximised.
        cost_metric: Objective of the reward that is minimised.
        target: The cost that is aimed at, above 0.
        weight: Exponent (MnasNet) or factor (TuNAS), at most 0.
        weight_within_target: MnasNet's exponent where the cost is within the target; ``None``: ``weight``
            (the soft form). 0 with a weight of -1 is the hard form.
    """

    method: Method = Method.KNEE
    quality_metric: str = ""
    cost_metric: str = ""
    target: float = 1.0
    weight: float = -0.07
    weight_within_target: float | None = None


MAX_REASON = 512
"""Longest reason, characters: what ``status.baseNetwork.reason`` takes."""


@dataclass(frozen=True)
class Choice:
    """The chosen trial and, in a sentence with its figures, why (cut at ``MAX_REASON``)."""

    trial: TrialRecord
    reason: str

    def __post_init__(self) -> None:
        """Cut a reason whose metric names are very long."""
        if len(self.reason) > MAX_REASON:
            object.__setattr__(self, "reason", f"{self.reason[: MAX_REASON - 3]}...")


def selection_faults(problem: SearchProblem, rule: SelectionRule) -> Iterator[str]:
    """Say every fault of a rule: field, value, allowed range."""
    if rule.method not in (Method.MNASNET, Method.TUNAS):
        return
    by_metric = {objective.metric: objective for objective in problem.objectives}
    for name, metric, direction in (
        ("qualityMetric", rule.quality_metric, Direction.MAXIMIZE),
        ("costMetric", rule.cost_metric, Direction.MINIMIZE),
    ):
        fitting = [found.metric for found in problem.objectives if found.direction is direction]
        objective = by_metric.get(metric)
        if objective is None or objective.direction is not direction:
            yield (
                f"selection.scalarisation.{name}: must be an objective of direction {direction} "
                f"({', '.join(fitting) or 'there is none'}), not {metric!r}"
            )
    if not rule.target > 0:
        yield f"selection.scalarisation.target: must be above 0, not {rule.target:g}"
    if not rule.weight <= 0:
        yield f"selection.scalarisation.weight: must be at most 0, not {rule.weight:g}"


def choose(problem: SearchProblem, front: Sequence[TrialRecord], rule: SelectionRule) -> Choice | None:
    """Choose one trial of a front; ties go to the lower index; ``None`` where the front is empty.

    Raises:
        SearchError: the rule does not fit the objectives.
    """
    found = list(selection_faults(problem, rule))
    if found:
        raise SearchError("; ".join(found))
    if not front:
        return None
    by_index = sorted(front, key=lambda record: record.index)
    if rule.method is Method.KNEE:
        return _knee(problem, by_index)
    if rule.method is Method.BEST_UNDER_CONSTRAINTS:
        return _best_under_constraints(problem, by_index)
    return _highest_reward(problem, by_index, rule)


def _knee(problem: SearchProblem, front: Sequence[TrialRecord]) -> Choice:
    first = problem.objectives[0]
    if len(front) == 1:
        return Choice(front[0], f"the only trial on the front: {_figures(problem, front[0])}")
    shape = "line" if len(problem.objectives) == 2 else "plane"  # noqa: PLR2004 - two objectives
    heights = knee_heights(losses(problem, front))
    best = int(np.argmax(heights))
    if heights[best] <= 0:
        chosen = min(front, key=lambda record: first.loss(record.values[first.metric]))
        return Choice(
            chosen,
            f"no knee: none of the {len(front)} trials on the front lies beyond the {shape} through its "
            f"extremes; the best {first.metric}: {_figures(problem, chosen)}",
        )
    extremes = ", ".join(_extreme(objective, front) for objective in problem.objectives)
    return Choice(
        front[best],
        f"the knee of {len(front)} trials on the front, {heights[best]:.3g} beyond the {shape} through its "
        f"extremes ({extremes}), objectives scaled to the front: {_figures(problem, front[best])}",
    )


def knee_heights(matrix: Matrix) -> Matrix:
    """Return how far each row lies beyond the plane through the front's extremes, towards the ideal.

    Losses are scaled to 0..1 over the front. The plane goes through the best row of each objective
    (Das, Structural Optimization 18, 1999); where these rows don't span one that faces the ideal point,
    it is the plane on which the scaled losses sum to 1.
    """
    unit = scaled(matrix)
    columns = unit.shape[1]
    extremes = np.array(
        [unit[np.lexsort((unit.sum(axis=1), unit[:, column]))[0]] for column in range(columns)]
    )
    normal = np.ones(columns)
    if np.linalg.matrix_rank(extremes) == columns:
        spanned = np.linalg.solve(extremes, np.ones(columns))
        if bool(np.all(spanned > 0)):
            normal = spanned
    return np.asarray((1.0 - unit @ normal) / np.linalg.norm(normal), dtype=np.float64)


def _best_under_constraints(problem: SearchProblem, front: Sequence[TrialRecord]) -> Choice:
    first = problem.objectives[0]

    def loss(record: TrialRecord) -> float:
        return first.loss(record.values[first.metric])

    keeping = [record for record in front if violation(problem, record) == 0]
    if not keeping:
        least = min(front, key=lambda record: (violation(problem, record), loss(record)))
        return Choice(
            least,
            f"no trial keeps every bound ({_bounds(problem)}); the smallest violation, "
            f"{violation(problem, least):.3g} of the bound: {_figures(problem, least)}",
        )
    chosen = min(keeping, key=loss)
    bounds = _bounds(problem)
    under = f"that keep {bounds}" if bounds else "(there are no bounds)"
    return Choice(
        chosen, f"the best {first.metric} of the {len(keeping)} trials {under}: {_figures(problem, chosen)}"
    )


def _highest_reward(problem: SearchProblem, front: Sequence[TrialRecord], rule: SelectionRule) -> Choice:
    rewards = [
        reward(rule, record.values[rule.quality_metric], record.values[rule.cost_metric]) for record in front
    ]
    best = int(np.argmax(rewards))
    quality, cost = rule.quality_metric, rule.cost_metric
    within = rule.weight if rule.weight_within_target is None else rule.weight_within_target
    if rule.method is Method.TUNAS:
        form = f"{quality} + ({rule.weight:g}) * |{cost} / {rule.target:g} - 1|"
    elif within == rule.weight:
        form = f"{quality} * ({cost} / {rule.target:g}) ^ {rule.weight:g}"
    else:
        exponent = f"w = {within:g} within the target, else {rule.weight:g}"
        form = f"{quality} * ({cost} / {rule.target:g}) ^ w, {exponent}"
    return Choice(
        front[best],
        f"the largest {rule.method} reward of {len(front)} trials on the front, "
        f"{form} = {rewards[best]:.4g}: {_figures(problem, front[best])}",
    )


def reward(rule: SelectionRule, quality: float, cost: float) -> float:
    """Return MnasNet's reward (Tan et al., CVPR 2019, eq. 2 and 3) or TuNAS's (Bender et al., CVPR 2020)."""
    ratio = cost / rule.target
    if rule.method is Method.TUNAS:
        return quality + rule.weight * abs(ratio - 1.0)
    within = rule.weight if rule.weight_within_target is None else rule.weight_within_target
    exponent = within if ratio <= 1.0 else rule.weight
    # A cost of 0 with a negative exponent would be infinite: the smallest positive number stands in.
    return float(quality * max(ratio, np.finfo(np.float64).tiny) ** exponent)


def _extreme(objective: Objective, front: Sequence[TrialRecord]) -> str:
    best = min((record.values[objective.metric] for record in front), key=objective.loss)
    return f"{objective.metric}={best:.4g}"


def _figures(problem: SearchProblem, record: TrialRecord) -> str:
    return ", ".join(
        f"{objective.metric}={record.values[objective.metric]:.4g}" for objective in problem.objectives
    )


def _bounds(problem: SearchProblem) -> str:
    signs = {Direction.MINIMIZE: "<=", Direction.MAXIMIZE: ">="}
    return " and ".join(
        f"{objective.metric} {signs[objective.direction]} {objective.bound:g}"
        for objective in problem.objectives
        if objective.bound is not None
    )
