"""A search that can be carried out: its spec, as what the search functions, work orders and Jobs need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from nascale.api import names
from nascale.api.architecture_search import ArchitectureSearch, Objective, Selection
from nascale.api.trial import TrialOutcome
from nascale.reconcile.decimals import number
from nascale.reconcile.naming import child_prefix
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.recent import Recent
from nascale.reconcile.snapshot import TrialView
from nascale.search import spaces
from nascale.search.engine import Method, SelectionRule
from nascale.search.errors import SearchError
from nascale.search.history import TrialRecord, TrialState
from nascale.search.problem import Direction, SearchProblem
from nascale.search.problem import Objective as SearchObjective

_STATES: Mapping[TrialOutcome | None, TrialState] = {
    None: TrialState.PENDING,
    TrialOutcome.SUCCEEDED: TrialState.SUCCEEDED,
    TrialOutcome.INFEASIBLE: TrialState.INFEASIBLE,
    TrialOutcome.EARLY_STOPPED: TrialState.EARLY_STOPPED,
    TrialOutcome.FAILED: TrialState.FAILED,
    TrialOutcome.METRICS_UNAVAILABLE: TrialState.METRICS_UNAVAILABLE,
}

_RECORDS: Final[Recent[TrialRecord | None]] = Recent(100_000)


@dataclass(frozen=True)
class SearchContext:
    """What every decision about one search needs to know.

    Attributes:
        search: The custom resource.
        problem: What is searched.
        settings: The installation's settings.
        now: The clock, whole seconds: the API server's timestamps hold no more.
    """

    search: ArchitectureSearch
    problem: SearchProblem
    settings: OperatorSettings
    now: datetime

    @property
    def prefix(self) -> str:
        """What the names of all children begin with."""
        return child_prefix(self.search.metadata.name, self.search.metadata.uid)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is traded off."""
        return self.search.spec.objectives

    @property
    def queue_labels(self) -> dict[str, str]:
        """Kueue's labels, which Jobs take over from the search."""
        labels = self.search.metadata.labels
        return {key: labels[key] for key in (names.LABEL_QUEUE, names.LABEL_PRIORITY_CLASS) if key in labels}


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


def search_problem(search: ArchitectureSearch) -> SearchProblem:
    """Translate a spec.

    Raises:
        InvalidSpaceError: the space contradicts itself.
    """
    spec = search.spec
    return SearchProblem(
        space=spaces.build_space(spec.space),
        objectives=tuple(search_objective(objective) for objective in spec.objectives),
        algorithm=spec.algorithm.name.value,
        seed=spec.algorithm.seed,
        settings={setting.name: setting.value for setting in spec.algorithm.settings},
        rungs=len(spec.fidelities.levels),
        reduction_factor=spec.fidelities.reduction_factor,
    )


def search_record(problem: SearchProblem, view: TrialView) -> TrialRecord:
    """Return a trial as a sampler sees it.

    Raises:
        SearchError: its parameters are not of this space.
    """
    metrics = {objective.metric for objective in problem.objectives}
    return TrialRecord(
        index=view.index,
        candidate=view.candidate,
        rung=view.rung,
        parameters=spaces.decode(problem.space, dict(view.parameters)),
        state=_STATES[view.outcome],
        values={metric.name: float(metric.value) for metric in view.status.metrics if metric.name in metrics},
    )


def is_of_space(problem: SearchProblem, view: TrialView) -> bool:
    """Say whether a trial's parameters are a candidate of the space."""
    try:
        spaces.decode(problem.space, dict(view.parameters))
    except SearchError:
        return False
    return True


def history(problem: SearchProblem, views: Iterable[TrialView], generation: str) -> list[TrialRecord]:
    """Return what has been measured; trials of other spaces are left out.

    Args:
        problem: The search.
        views: All its trials.
        generation: Says which version of the spec the problem was made from: records of ended trials are
            remembered under it.
    """

    def compute(view: TrialView) -> TrialRecord | None:
        return search_record(problem, view) if is_of_space(problem, view) else None

    def record(view: TrialView) -> TrialRecord | None:
        if view.outcome is None or not view.resource_version:
            return compute(view)
        key = (view.uid, view.resource_version, generation)
        return _RECORDS.get(key, lambda: compute(view))

    return [found for view in views if (found := record(view)) is not None]


def selection_rule(selection: Selection) -> SelectionRule:
    """Translate how the base network is chosen."""
    method = Method(selection.method.value)
    if selection.scalarisation is None:
        return SelectionRule(method=method)
    scalarisation = selection.scalarisation
    return SelectionRule(
        method=method,
        quality_metric=scalarisation.quality_metric,
        cost_metric=scalarisation.cost_metric,
        target=float(scalarisation.target),
        weight=float(scalarisation.weight),
    )
