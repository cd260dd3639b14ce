"""A search that can be carried out: its spec, as what the search functions, work orders and Jobs need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from nascale.api import names
from nascale.api.architecture_search import KIND, ArchitectureSearch, Selection
from nascale.contract.work_order import CandidateOrder, WorkOrder
from nascale.reconcile.naming import candidate_seed
from nascale.reconcile.objectives import search_objective
from nascale.reconcile.owner_context import STATES, CandidateContext
from nascale.reconcile.recent import Recent
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.work_order import work_order
from nascale.search import spaces
from nascale.search.engine import Method, SelectionRule
from nascale.search.errors import SearchError
from nascale.search.history import TrialRecord
from nascale.search.problem import SearchProblem

_RECORDS: Final[Recent[TrialRecord | None]] = Recent(100_000)


@dataclass(frozen=True)
class SearchContext(CandidateContext):
    """What every decision about one search needs to know.

    Attributes:
        search: The custom resource.
        problem: What is searched.
    """

    kind: ClassVar[str] = KIND
    noun: ClassVar[str] = "search"
    label: ClassVar[str] = names.LABEL_SEARCH

    search: ArchitectureSearch
    problem: SearchProblem

    @property
    def owner(self) -> ArchitectureSearch:
        """The custom resource."""
        return self.search

    def candidate(self, trial: TrialView) -> CandidateOrder:
        """Return what a trial's container is told of its candidate.

        Raises:
            SearchError: the trial's parameters are not of the search's space.
        """
        spec = self.search.spec
        parameters = spaces.decode(self.problem.space, dict(trial.parameters))
        return CandidateOrder(
            trial=trial.name,
            index=trial.index,
            parameters=dict(parameters),
            architecture=spaces.architecture(spec.space, parameters),
            seed=candidate_seed(spec.algorithm.seed, trial.candidate),
        )

    def order(self, trials: Sequence[TrialView], attempt: int) -> WorkOrder:
        """Make the work order of one pod."""
        return work_order(self, trials, attempt)

    def knows(self, trial: TrialView) -> bool:
        """Say whether a trial's parameters are a candidate of the space."""
        return is_of_space(self.problem, trial)

    @property
    def weighty_trials(self) -> frozenset[str]:
        """Names of the trials of the front in status, and of the base network's."""
        status = self.search.status
        base = () if status.base_network is None else (status.base_network.trial,)
        return frozenset((*(point.trial for point in status.front), *base))


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
        state=STATES[view.outcome],
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
