"""What is wrong with a spec: every fault at once, with field, value and allowed range.

The API server refuses most faults already (structural schema and CEL). Here is what CEL can't see: the
search space as a whole, the installation's settings, the contract's bounds; and, once more, those faults
that would end in a wrong result if somebody's older CRD let them through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from pydantic import ValidationError

from nascale.api.architecture_search import ArchitectureSearch, SelectionMethod
from nascale.contract.document import describe
from nascale.contract.errors import ContractError
from nascale.contract.metric_names import BUILT_IN, MEASURED_BEFORE_TRAINING
from nascale.reconcile.job_manifest import job_manifest
from nascale.reconcile.objectives import reported_metrics, runs_built_in_trainer
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.owner_validation import (
    account_faults,
    data_faults,
    exclusive_faults,
    name_faults,
    objectives_faults,
    parallel_faults,
    recipe_faults,
    report_faults,
)
from nascale.reconcile.recent import Recent
from nascale.reconcile.search_context import SearchContext, selection_rule
from nascale.reconcile.snapshot import TrialView, sample_trial
from nascale.search import engine, spaces
from nascale.search.errors import SearchError
from nascale.search.problem import SearchProblem
from nascale.search.selection import selection_faults

_SAMPLES: Final = 3
_KNOWN: Final[Recent[tuple[str, ...]]] = Recent(1000)


def faults(context: SearchContext) -> tuple[str, ...]:
    """Return every fault of a search whose space can be built; none: it can be carried out."""
    search = context.search
    key = (search.metadata.name, search.spec.model_dump_json(), context.settings)
    return _KNOWN.get(key, lambda: _faults(context))


def _faults(context: SearchContext) -> tuple[str, ...]:
    found = list(_faults_without_space(context.search, context.settings))
    found += _search_faults(context.problem, context.search)
    return tuple(found) or tuple(_order_faults(context))


def faults_of_unbuildable(
    search: ArchitectureSearch, settings: OperatorSettings, error: SearchError
) -> tuple[str, ...]:
    """Return every fault of a search whose space can't be built."""
    return (*_faults_without_space(search, settings), _in_spec(str(error)))


def _faults_without_space(search: ArchitectureSearch, settings: OperatorSettings) -> Iterator[str]:
    yield from name_faults(search)
    yield from data_faults(search)
    yield from _trainer_faults(search)
    yield from objectives_faults(search, settings)
    yield from _untrained_faults(search)
    yield from _scalarisation_faults(search)
    yield from _fidelity_faults(search)
    yield from _budget_faults(search)
    yield from recipe_faults(search)
    yield from account_faults(search, settings)
    yield from exclusive_faults(search)


def _trainer_faults(search: ArchitectureSearch) -> Iterator[str]:
    if runs_built_in_trainer(search.spec.trial_template) and search.spec.space.parameters is not None:
        yield (
            "spec.space: must be mbconv, unless trialTemplate has an image or a command of its own: the "
            "built-in trainer does not know the user's parameters"
        )


def _untrained_faults(search: ArchitectureSearch) -> Iterator[str]:
    built_in = runs_built_in_trainer(search.spec.trial_template)
    untrained = any(level.epochs == 0 for level in search.spec.fidelities.levels)
    if not (built_in and untrained):
        return
    for position, objective in enumerate(search.spec.objectives):
        if objective.metric in BUILT_IN - MEASURED_BEFORE_TRAINING and objective.query is None:
            yield (
                f"spec.objectives[{position}].metric: must be known without training where a fidelity has "
                f"0 epochs, not {objective.metric}"
            )


def _budget_faults(search: ArchitectureSearch) -> Iterator[str]:
    spec = search.spec
    yield from parallel_faults(search)
    yield from report_faults(search, reported_metrics(spec.objectives, spec.trial_template))


def _scalarisation_faults(search: ArchitectureSearch) -> Iterator[str]:
    selection = search.spec.selection
    scalarised = selection.method in (SelectionMethod.MNASNET, SelectionMethod.TUNAS)
    if scalarised and selection.scalarisation is None:
        yield f"spec.selection.scalarisation: must be set with method {selection.method.value}"


def _fidelity_faults(search: ArchitectureSearch) -> Iterator[str]:
    levels = search.spec.fidelities.levels
    before: tuple[float, int] | None = None
    for position, level in enumerate(levels):
        field = f"spec.fidelities.levels[{position}]"
        if float(level.data_fraction) <= 0:
            yield f"{field}.dataFraction: must be above 0, not {level.data_fraction}"
        try:
            spaces.check_resolution(search.spec.space, f"{field}.resolution", level.resolution)
        except SearchError as error:
            yield str(error)
        cost = (level.epochs * float(level.data_fraction), level.resolution or 0)
        if before is not None and (
            cost[0] < before[0] or (level.resolution is not None and cost[1] < before[1])
        ):
            yield f"{field}: must not be cheaper than the level before it"
        before = cost


def _search_faults(problem: SearchProblem, search: ArchitectureSearch) -> list[str]:
    found: list[str] = []
    try:
        engine.validate(problem)
    except SearchError as error:
        found += [_in_spec(fault) for fault in str(error).split("; ")]
    if search.spec.selection.scalarisation is not None:
        rule = selection_rule(search.spec.selection)
        found += [_in_spec(fault) for fault in selection_faults(problem, rule)]
    return found


def _order_faults(context: SearchContext) -> Iterator[str]:
    """Make Jobs of a few candidates and see whether the contract takes them."""
    random = np.random.default_rng(0)
    per_pod = context.search.spec.budget.trials_per_pod
    for rung, level in enumerate(context.search.spec.fidelities.levels):
        trials: list[TrialView] = []
        for index in range(max(_SAMPLES, per_pod)):
            parameters = spaces.encode(context.problem.space.draw(random))
            trials.append(sample_trial(context.prefix, index, rung, level, parameters))
        try:
            for trial in trials[:_SAMPLES]:
                job_manifest(context, [trial], 0)
            if per_pod > 1:
                job_manifest(context, [replace(trial, lead=0) for trial in trials[:per_pod]], 0)
        except ValidationError as error:
            yield f"spec: the work order of a trial would be refused: {describe(error)}"
            return
        except (ContractError, SearchError, ValueError) as error:
            yield str(error) if str(error).startswith("spec") else f"spec: {error}"
            return


def _in_spec(fault: str) -> str:
    known = ("space", "objectives", "fidelities", "selection", "algorithm", "budget")
    return f"spec.{fault}" if fault.startswith(known) else f"spec.space: {fault}"
