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

from nascale.api.architecture_search import ArchitectureSearch, Direction, Objective, SelectionMethod
from nascale.contract.document import describe
from nascale.contract.errors import ContractError
from nascale.contract.metric_names import BUILT_IN, MEASURED_BEFORE_TRAINING
from nascale.contract.report import max_candidates
from nascale.contract.work_order import MetricSource
from nascale.reconcile.job_manifest import job_manifest
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.prometheus_queries import placeholders
from nascale.reconcile.recent import Recent
from nascale.reconcile.search_context import SearchContext, selection_rule
from nascale.reconcile.snapshot import TrialView, sample_trial
from nascale.reconcile.work_order import reported_metrics, runs_built_in_trainer
from nascale.search import engine, spaces
from nascale.search.errors import SearchError
from nascale.search.problem import SearchProblem
from nascale.search.selection import selection_faults

LONGEST_NAME: Final = 63
LARGEST_LEARNING_RATE: Final = 100
LARGEST_WEIGHT_DECAY: Final = 10
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
    name = search.metadata.name
    if len(name) > LONGEST_NAME:
        yield f"metadata.name: must be at most {LONGEST_NAME} characters, not {len(name)}"
    yield from _data_faults(search)
    for position, objective in enumerate(search.spec.objectives):
        field = f"spec.objectives[{position}]"
        yield from _objective_faults(field, objective, search)
        yield from _source_faults(field, objective, search, settings)
    yield from _scalarisation_faults(search)
    yield from _fidelity_faults(search)
    yield from _budget_faults(search)
    yield from _recipe_faults(search)
    account = search.spec.trial_template.service_account_name
    if account is not None and account != "default" and account not in settings.service_accounts:
        allowed = ", ".join(sorted({"default", *settings.service_accounts}))
        yield f"spec.trialTemplate.serviceAccountName: must be one of {allowed}, not {account}"


def _data_faults(search: ArchitectureSearch) -> Iterator[str]:
    spec = search.spec
    data = spec.training_data
    if data is not None:
        given = [kind for kind in (data.embedded, data.folder, data.volume_claim) if kind is not None]
        if len(given) != 1:
            yield (
                f"spec.trainingData: must have exactly one of embedded, folder, volumeClaim, not {len(given)}"
            )
        if not 0 < float(data.validation_fraction) < 1:
            yield (
                "spec.trainingData.validationFraction: must be above 0 and below 1, "
                f"not {data.validation_fraction}"
            )
    if not runs_built_in_trainer(spec.trial_template):
        return
    if data is None:
        yield "spec.trainingData: must be set, unless trialTemplate has an image or a command of its own"
    if spec.space.parameters is not None:
        yield (
            "spec.space: must be mbconv, unless trialTemplate has an image or a command of its own: the "
            "built-in trainer does not know the user's parameters"
        )


def _objective_faults(field: str, objective: Objective, search: ArchitectureSearch) -> Iterator[str]:
    built_in = runs_built_in_trainer(search.spec.trial_template)
    if built_in and objective.metric not in BUILT_IN and objective.query is None:
        yield (
            f"{field}.metric: must be one that the built-in trainer reports ({', '.join(sorted(BUILT_IN))}), "
            f"or have a query, not {objective.metric}"
        )
    untrained = any(level.epochs == 0 for level in search.spec.fidelities.levels)
    trained = objective.metric in BUILT_IN - MEASURED_BEFORE_TRAINING
    if built_in and untrained and trained and objective.query is None:
        yield (
            f"{field}.metric: must be known without training where a fidelity has 0 epochs, "
            f"not {objective.metric}"
        )
    constraint = objective.constraint
    if constraint is not None:
        minimised = objective.direction is Direction.MINIMIZE
        right, wrong = ("atMost", "atLeast") if minimised else ("atLeast", "atMost")
        bound = constraint.at_most if minimised else constraint.at_least
        against = constraint.at_least if minimised else constraint.at_most
        if bound is None or against is not None:
            yield f"{field}.constraint: must have {right}, not {wrong}, with {objective.direction.value}"
        elif objective.goal is not None and (
            float(objective.goal) > float(bound) if minimised else float(objective.goal) < float(bound)
        ):
            words = "at most" if minimised else "at least"
            yield f"{field}.goal: must be {words} constraint.{right} ({bound}), not {objective.goal}"
    if objective.metric in BUILT_IN and objective.goal is not None and float(objective.goal) < 0:
        yield f"{field}.goal: must be 0 or greater for {objective.metric}, not {objective.goal}"


def _source_faults(
    field: str, objective: Objective, search: ArchitectureSearch, settings: OperatorSettings
) -> Iterator[str]:
    if objective.source is MetricSource.PROMETHEUS and not settings.prometheus:
        yield (
            f"{field}.source: must be Report, not Prometheus: the operator of this cluster knows no "
            "Prometheus (chart value prometheus.url)"
        )
    if objective.query is None:
        return
    if objective.source is not MetricSource.PROMETHEUS:
        yield f"{field}.source: must be Prometheus where query is set, not {objective.source.value}"
    named = placeholders(objective.query)
    if not named & {"trial", "pod"}:
        yield f"{field}.query: must name $trial or $pod, so that each trial has a value of its own"
    elif search.spec.budget.trials_per_pod > 1 and "trial" not in named:
        yield f"{field}.query: must name $trial where trialsPerPod is above 1: those trials share a pod"


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


def _recipe_faults(search: ArchitectureSearch) -> Iterator[str]:
    training, spread = search.spec.training, search.spec.measurement.max_spread_ratio
    if not 0 < float(training.learning_rate) <= LARGEST_LEARNING_RATE:
        yield (
            f"spec.training.learningRate: must be above 0 and at most {LARGEST_LEARNING_RATE}, "
            f"not {training.learning_rate}"
        )
    if not 0 <= float(training.weight_decay) <= LARGEST_WEIGHT_DECAY:
        yield (
            f"spec.training.weightDecay: must be from 0 to {LARGEST_WEIGHT_DECAY}, "
            f"not {training.weight_decay}"
        )
    if not float(training.label_smoothing) < 1:
        yield f"spec.training.labelSmoothing: must be below 1, not {training.label_smoothing}"
    if not float(spread) > 0:
        yield f"spec.measurement.maxSpreadRatio: must be above 0, not {spread}"


def _budget_faults(search: ArchitectureSearch) -> Iterator[str]:
    spec, budget = search.spec, search.spec.budget
    if budget.parallel_trials > budget.max_trials:
        yield (
            f"spec.budget.parallelTrials: must be at most maxTrials ({budget.max_trials}), "
            f"not {budget.parallel_trials}"
        )
    metrics = reported_metrics(spec.objectives, spec.trial_template)
    try:
        most = max_candidates(metrics)
    except ContractError as error:
        yield f"spec.objectives: {error}"
        return
    if budget.trials_per_pod > most:
        yield (
            f"spec.budget.trialsPerPod: must be at most {most} with {len(metrics)} metrics, so that the "
            f"report fits 4,096 bytes, not {budget.trials_per_pod}"
        )


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
