"""Faults of a spec that searches and sweeps can have alike, each with field, value and allowed range.

The API server refuses most of them already (structural schema and CEL); here they are found once more, in
case somebody's older CRD let them through, beside those that only the operator can see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from nascale.api.objectives import Direction, Objective
from nascale.api.pod_template import TrialTemplate
from nascale.api.training import Isolation
from nascale.contract.errors import ContractError
from nascale.contract.metric_names import BUILT_IN
from nascale.contract.report import max_candidates
from nascale.contract.work_order import MetricSource
from nascale.reconcile.job_manifest import trial_resources
from nascale.reconcile.objectives import runs_built_in_trainer
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.owner_context import SearchOrSweep
from nascale.reconcile.pod_parts import guarantee_faults
from nascale.reconcile.prometheus_queries import placeholders

LONGEST_NAME: Final = 63
LARGEST_LEARNING_RATE: Final = 100
LARGEST_WEIGHT_DECAY: Final = 10


def name_faults(owner: SearchOrSweep) -> Iterator[str]:
    """Say whether the name is too long for a label."""
    name = owner.metadata.name
    if len(name) > LONGEST_NAME:
        yield f"metadata.name: must be at most {LONGEST_NAME} characters, not {len(name)}"


def data_faults(owner: SearchOrSweep) -> Iterator[str]:
    """Say what is wrong with the training data."""
    spec = owner.spec
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
    elif runs_built_in_trainer(spec.trial_template):
        yield "spec.trainingData: must be set, unless trialTemplate has an image or a command of its own"


def objectives_faults(owner: SearchOrSweep, settings: OperatorSettings) -> Iterator[str]:
    """Say what is wrong with the objectives, one by one."""
    for position, objective in enumerate(owner.spec.objectives):
        field = f"spec.objectives[{position}]"
        yield from _objective_faults(field, objective, owner)
        yield from _source_faults(field, objective, owner, settings)


def _objective_faults(field: str, objective: Objective, owner: SearchOrSweep) -> Iterator[str]:
    built_in = runs_built_in_trainer(owner.spec.trial_template)
    if built_in and objective.metric not in BUILT_IN and objective.query is None:
        yield (
            f"{field}.metric: must be one that the built-in trainer reports ({', '.join(sorted(BUILT_IN))}), "
            f"or have a query, not {objective.metric}"
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
    field: str, objective: Objective, owner: SearchOrSweep, settings: OperatorSettings
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
    elif owner.spec.budget.trials_per_pod > 1 and "trial" not in named:
        yield f"{field}.query: must name $trial where trialsPerPod is above 1: those trials share a pod"


def recipe_faults(owner: SearchOrSweep) -> Iterator[str]:
    """Say what is wrong with the training recipe and the measurement."""
    training, spread = owner.spec.training, owner.spec.measurement.max_spread_ratio
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


def account_faults(owner: SearchOrSweep, settings: OperatorSettings) -> Iterator[str]:
    """Say whether the template names a service account that the installation does not allow."""
    yield from account_faults_of("spec.trialTemplate", owner.spec.trial_template, settings)


def account_faults_of(field: str, template: TrialTemplate, settings: OperatorSettings) -> Iterator[str]:
    """Say whether a template names a service account that the installation does not allow.

    Args:
        field: Field that holds the template.
        template: The template.
        settings: The installation's settings.
    """
    account = template.service_account_name
    if account is not None and account != "default" and account not in settings.service_accounts:
        allowed = ", ".join(sorted({"default", *settings.service_accounts}))
        yield f"{field}.serviceAccountName: must be one of {allowed}, not {account}"


def exclusive_faults(owner: SearchOrSweep) -> Iterator[str]:
    """Say whether a pod that wants a node of its own would be squeezed by what else runs there."""
    if owner.spec.target.isolation is Isolation.EXCLUSIVE_NODE:
        for fault in guarantee_faults(trial_resources(owner)):
            yield f"spec.target.isolation: ExclusiveNode needs equal requests and limits: {fault}"


def parallel_faults(owner: SearchOrSweep) -> Iterator[str]:
    """Say whether more pods are wanted at once than trials in all."""
    budget = owner.spec.budget
    if budget.parallel_trials > budget.max_trials:
        yield (
            f"spec.budget.parallelTrials: must be at most maxTrials ({budget.max_trials}), "
            f"not {budget.parallel_trials}"
        )


def report_faults(owner: SearchOrSweep, metrics: Sequence[str]) -> Iterator[str]:
    """Say whether the report of a full pod would be too long.

    Args:
        owner: The search or sweep.
        metrics: What the report holds for each candidate of a shared pod.
    """
    try:
        most = max_candidates(metrics)
    except ContractError as error:
        yield f"spec.objectives: {error}"
        return
    if owner.spec.budget.trials_per_pod > most:
        yield (
            f"spec.budget.trialsPerPod: must be at most {most} with {len(metrics)} metrics, so that the "
            f"report fits 4,096 bytes, not {owner.spec.budget.trials_per_pod}"
        )
