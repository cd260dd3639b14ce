"""From the spec of a search and its Trials to the work order of one pod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nascale.api.architecture_search import (
    ArchitectureSearch,
    Checkpoints,
    Constraint,
    Enforcement,
    Objective,
    TrainingData,
)
from nascale.api.pod_template import TrialTemplate
from nascale.contract.metric_names import BUILT_IN
from nascale.contract.work_order import (
    CandidateOrder,
    ConstraintOrder,
    DataOrder,
    ExporterOrder,
    Fidelity,
    MeasurementOrder,
    MetricSource,
    RunIdentity,
    TargetOrder,
    Task,
    TrainingOrder,
    WorkOrder,
)
from nascale.reconcile.decimals import number
from nascale.reconcile.naming import candidate_seed, child_prefix
from nascale.reconcile.search_context import SearchContext
from nascale.reconcile.snapshot import TrialView
from nascale.search import spaces

DATA_MOUNT: Final = "/nascale/data"
CHECKPOINT_MOUNT: Final = "/nascale/checkpoints"


def runs_built_in_trainer(template: TrialTemplate) -> bool:
    """Say whether trials run the trainer that comes with nascale."""
    return template.image is None and template.command is None


def checkpoint_folder(search: ArchitectureSearch, checkpoints: Checkpoints) -> str:
    """Return the folder of a search's checkpoints in a container: one folder for each trial lies in it."""
    prefix = child_prefix(search.metadata.name, search.metadata.uid)
    return f"{CHECKPOINT_MOUNT}/{checkpoints.path}/{prefix}"


def reported_metrics(objectives: Sequence[Objective], template: TrialTemplate) -> tuple[str, ...]:
    """Return what the report must hold.

    A metric with a query of its own is measured by somebody else (energy, say), so that a report need
    not know it, unless the built-in trainer does. Where that leaves nothing, the report may hold all.
    """
    known = BUILT_IN if runs_built_in_trainer(template) else frozenset()
    reported = tuple(entry.metric for entry in objectives if entry.query is None or entry.metric in known)
    return reported or tuple(entry.metric for entry in objectives)


def work_order(context: SearchContext, trials: Sequence[TrialView], attempt: int) -> WorkOrder:
    """Make the work order of one pod.

    Args:
        context: The search.
        trials: One or more of its trials, all of the same rung.
        attempt: Runs before this one.

    Raises:
        ValidationError: a field is out of the contract's range.
        SearchError: a trial's parameters are not of the search's space.
    """
    search = context.search
    spec, metadata = search.spec, search.metadata
    level = trials[0].fidelity
    return WorkOrder(
        run=RunIdentity(
            kind="ArchitectureSearch", name=metadata.name, namespace=metadata.namespace, uid=metadata.uid
        ),
        attempt=attempt,
        task=Task.TRAIN_AND_MEASURE if level.epochs else Task.MEASURE,
        candidates=tuple(_candidate(context, trial) for trial in trials),
        metrics=reported_metrics(spec.objectives, spec.trial_template),
        constraints=tuple(
            _constraint(entry.metric, entry.constraint)
            for entry in spec.objectives
            if entry.constraint is not None and entry.constraint.enforcement is Enforcement.HARD
        ),
        data=None if spec.training_data is None else _data(spec.training_data),
        fidelity=Fidelity(
            epochs=level.epochs, data_fraction=float(level.data_fraction), resolution=level.resolution
        ),
        target=TargetOrder(batch_size=spec.target.batch_size, precision=spec.target.precision),
        measurement=MeasurementOrder(
            min_calls=spec.measurement.min_calls,
            min_seconds=spec.measurement.min_milliseconds / 1000,
            max_spread_ratio=float(spec.measurement.max_spread_ratio),
        ),
        training=TrainingOrder(
            batch_size=spec.training.batch_size,
            learning_rate=float(spec.training.learning_rate),
            weight_decay=float(spec.training.weight_decay),
            label_smoothing=float(spec.training.label_smoothing),
        ),
        exporter=ExporterOrder(
            wait_for=scraped_metrics(spec.objectives) if context.settings.prometheus else (),
            max_linger_seconds=spec.metrics_collection.max_linger_seconds,
        ),
    )


def scraped_metrics(objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Return the metrics that are read from the trial's own series: the trial waits for their scrape."""
    return tuple(
        entry.metric
        for entry in objectives
        if entry.source is MetricSource.PROMETHEUS and entry.query is None
    )


def _candidate(context: SearchContext, trial: TrialView) -> CandidateOrder:
    spec = context.search.spec
    parameters = spaces.decode(context.problem.space, dict(trial.parameters))
    return CandidateOrder(
        trial=trial.name,
        index=trial.index,
        parameters=dict(parameters),
        architecture=spaces.architecture(spec.space, parameters),
        seed=candidate_seed(spec.algorithm.seed, trial.candidate),
    )


def _constraint(metric: str, constraint: Constraint) -> ConstraintOrder:
    return ConstraintOrder(
        metric=metric, at_most=number(constraint.at_most), at_least=number(constraint.at_least)
    )


def _data(data: TrainingData) -> DataOrder:
    share = float(data.validation_fraction)
    if data.embedded is not None:
        return DataOrder(name=data.embedded.value, validation_fraction=share)
    if data.folder is not None:
        return DataOrder(path=data.folder.path, format=data.folder.format, validation_fraction=share)
    if data.volume_claim is not None:
        path = f"{DATA_MOUNT}/{data.volume_claim.path}".rstrip("/")
        return DataOrder(path=path, format=data.volume_claim.format, validation_fraction=share)
    raise ValueError("spec.trainingData: must have exactly one of embedded, folder, volumeClaim")


def constraint_text(objective: Objective) -> str:
    """Say a bound in words (``must be at most 0.01``)."""
    constraint = objective.constraint
    if constraint is None:
        return ""
    if constraint.at_most is not None:
        return f"must be at most {constraint.at_most}"
    return f"must be at least {constraint.at_least}"
