"""What a search has found, as its status shows it: front, hypervolume, base network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nascale.api.architecture_search import (
    MAX_FRONT,
    ArchitectureSearchStatus,
    BaseNetwork,
    FrontPoint,
    MetricValue,
    ParameterSetting,
)
from nascale.reconcile.conditions import shortened
from nascale.reconcile.decimals import decimal_text, short
from nascale.reconcile.search_context import SearchContext, selection_rule
from nascale.reconcile.snapshot import TrialView
from nascale.search import engine, spaces
from nascale.search.domination import violation
from nascale.search.engine import Summary
from nascale.search.history import TrialRecord, TrialState

LONGEST_BEST = 256
MOST_BASE_METRICS = 16


@dataclass(frozen=True)
class Results:
    """The part of a search's status that only a trial's end can change."""

    front: tuple[FrontPoint, ...] = ()
    front_size: int = 0
    hypervolume: str | None = None
    best: str | None = None


def observed_results(status: ArchitectureSearchStatus) -> Results:
    """Return what the status shows already."""
    return Results(status.front, status.front_size, status.hypervolume, status.best)


def results(context: SearchContext, views: Iterable[TrialView], summary: Summary) -> Results:
    """Write down a summary."""
    if not summary.front:
        return Results()
    by_index = {view.index: view for view in views}
    shown = engine.trim_front(context.problem, summary.front, MAX_FRONT)
    best = " ".join(f"{metric}={short(value)}" for metric, value in summary.best.items())
    return Results(
        front=tuple(_point(context, by_index[record.index], record) for record in shown),
        front_size=len(summary.front),
        hypervolume=decimal_text(summary.hypervolume),
        best=shortened(best, LONGEST_BEST),
    )


def base_network(
    context: SearchContext, views: Iterable[TrialView], records: Sequence[TrialRecord]
) -> BaseNetwork | None:
    """Choose the base network; ``None`` where no trial keeps the hard bounds."""
    spec = context.search.spec
    choice = engine.choose_base(context.problem, records, selection_rule(spec.selection))
    if choice is None:
        return None
    view = next(view for view in views if view.index == choice.trial.index)
    return BaseNetwork(
        trial=view.name,
        selection=spec.selection.method,
        reason=shortened(choice.reason, 512),
        metrics=_metrics(view, _objectives_first(context, view))[:MOST_BASE_METRICS],
        parameters=tuple(ParameterSetting(name=name, value=value) for name, value in view.parameters),
        architecture=spaces.architecture(spec.space, choice.trial.parameters),
    )


def nearest_to_feasible(
    context: SearchContext, views: Iterable[TrialView], records: Sequence[TrialRecord]
) -> str:
    """Say which infeasible trial came nearest to the bounds, with its values."""
    broken = [
        (violation(context.problem, record), record.index)
        for record in records
        if record.state is TrialState.INFEASIBLE and violation(context.problem, record) > 0
    ]
    if not broken:
        return "no trial has a value for every objective"
    index = min(broken)[1]
    view = next(view for view in views if view.index == index)
    said = next((entry.message for entry in view.status.conditions if entry.type == "Ended"), "")
    return f"no trial keeps every hard constraint; the nearest one is {view.name}: {said}"


def best_values(context: SearchContext, front: Sequence[FrontPoint]) -> Mapping[str, float]:
    """Return the best value of each objective on the front, which keeps them when it is trimmed."""
    best: dict[str, float] = {}
    for objective in context.problem.objectives:
        values = [
            float(entry.value) for point in front for entry in point.metrics if entry.name == objective.metric
        ]
        if values:
            best[objective.metric] = min(values, key=objective.loss)
    return best


def latest_values(context: SearchContext, views: Iterable[TrialView]) -> Mapping[str, float]:
    """Return the objectives' values of that trial which was the last to end with any."""
    wanted = {objective.metric for objective in context.problem.objectives}
    ended = [
        (view.status.completion_time, view.index, view)
        for view in views
        if view.status.completion_time is not None
        and any(entry.name in wanted for entry in view.status.metrics)
    ]
    if not ended:
        return {}
    last = max(ended, key=lambda found: found[:2])[2]
    return {entry.name: float(entry.value) for entry in last.status.metrics if entry.name in wanted}


def _point(context: SearchContext, view: TrialView, record: TrialRecord) -> FrontPoint:
    names = [objective.metric for objective in context.problem.objectives]
    return FrontPoint(
        trial=view.name,
        metrics=_metrics(view, names),
        feasible=violation(context.problem, record) == 0,
    )


def _metrics(view: TrialView, names: Sequence[str]) -> tuple[MetricValue, ...]:
    by_name = {entry.name: entry for entry in view.status.metrics}
    return tuple(by_name[name] for name in names if name in by_name)


def _objectives_first(context: SearchContext, view: TrialView) -> list[str]:
    objectives = [objective.metric for objective in context.problem.objectives]
    others = sorted(entry.name for entry in view.status.metrics if entry.name not in objectives)
    return objectives + others
