"""What an owner's objectives ask of trials: metrics to report, values to scrape, bounds to keep."""

from __future__ import annotations

from collections.abc import Sequence

from nascale.api.objectives import Objective
from nascale.api.pod_template import TrialTemplate
from nascale.contract.metric_names import BUILT_IN
from nascale.contract.work_order import MetricSource
from nascale.reconcile.decimals import number
from nascale.search.problem import Direction
from nascale.search.problem import Objective as SearchObjective


def search_objective(objective: Objective) -> SearchObjective:
    """Translate an objective."""
    constraint = objective.constraint
    bound = None if constraint is None else number(constraint.at_most or constraint.at_least)
    return SearchObjective(
        metric=objective.metric,
        direction=Direction(objective.direction.value),
        goal=number(objective.goal),
        bound=bound,
        hard=constraint is not None and constraint.enforcement == "Hard",
    )


def runs_built_in_trainer(template: TrialTemplate) -> bool:
    """Say whether trials run the trainer that comes with nascale."""
    return template.image is None and template.command is None


def reported_metrics(objectives: Sequence[Objective], template: TrialTemplate) -> tuple[str, ...]:
    """Return what the report must hold.

    A metric with a query of its own is measured by somebody else (energy, say), so that a report need
    not know it, unless the built-in trainer does. Where that leaves nothing, the report may hold all.
    """
    known = BUILT_IN if runs_built_in_trainer(template) else frozenset()
    reported = tuple(entry.metric for entry in objectives if entry.query is None or entry.metric in known)
    return reported or tuple(entry.metric for entry in objectives)


def scraped_metrics(objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Return the metrics that are read from the trial's own series: the trial waits for their scrape."""
    return tuple(
        entry.metric
        for entry in objectives
        if entry.source is MetricSource.PROMETHEUS and entry.query is None
    )


def constraint_text(objective: Objective) -> str:
    """Say a bound in words (``must be at most 0.01``)."""
    constraint = objective.constraint
    if constraint is None:
        return ""
    if constraint.at_most is not None:
        return f"must be at most {constraint.at_most}"
    return f"must be at least {constraint.at_least}"
