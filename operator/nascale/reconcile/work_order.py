"""From the spec of a search or sweep and its Trials to the work order of one pod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nascale.api.objectives import Constraint, Enforcement
from nascale.api.training import Checkpoints, TrainingData
from nascale.contract.work_order import (
    ConstraintOrder,
    DataOrder,
    ExporterOrder,
    Fidelity,
    RunIdentity,
    TargetOrder,
    Task,
    TrainingOrder,
    WorkOrder,
)
from nascale.reconcile.decimals import number
from nascale.reconcile.naming import child_prefix
from nascale.reconcile.objectives import scraped_metrics
from nascale.reconcile.owner_context import CandidateContext, Owner
from nascale.reconcile.snapshot import TrialView

DATA_MOUNT: Final = "/nascale/data"
CHECKPOINT_MOUNT: Final = "/nascale/checkpoints"


def checkpoint_folder(owner: Owner, checkpoints: Checkpoints) -> str:
    """Return the folder of an owner's checkpoints in a container: one folder for each trial lies in it."""
    prefix = child_prefix(owner.metadata.name, owner.metadata.uid)
    return f"{CHECKPOINT_MOUNT}/{checkpoints.path}/{prefix}"


def work_order(context: CandidateContext, trials: Sequence[TrialView], attempt: int) -> WorkOrder:
    """Make the work order of one pod.

    Args:
        context: The search or sweep.
        trials: One or more of its trials, all of the same rung.
        attempt: Runs before this one.

    Raises:
        ValidationError: a field is out of the contract's range.
        SearchError: a trial's parameters are not ones that the owner gives out.
    """
    spec, metadata = context.owner.spec, context.owner.metadata
    level, objectives = trials[0].fidelity, context.objectives_of(trials[0])
    return WorkOrder(
        run=RunIdentity(
            kind=context.kind, name=metadata.name, namespace=metadata.namespace, uid=metadata.uid
        ),
        attempt=attempt,
        task=Task.TRAIN_AND_MEASURE if level.epochs else Task.MEASURE,
        candidates=tuple(context.candidate(trial) for trial in trials),
        metrics=context.metrics_of(trials[0]),
        constraints=tuple(
            _constraint(entry.metric, entry.constraint)
            for entry in objectives
            if entry.constraint is not None and entry.constraint.enforcement is Enforcement.HARD
        ),
        data=None if spec.training_data is None else data_order(spec.training_data),
        fidelity=Fidelity(
            epochs=level.epochs, data_fraction=float(level.data_fraction), resolution=level.resolution
        ),
        target=TargetOrder(batch_size=spec.target.batch_size, precision=spec.target.precision),
        measurement=context.measurement_of(trials[0]),
        training=TrainingOrder(
            batch_size=spec.training.batch_size,
            learning_rate=float(spec.training.learning_rate),
            weight_decay=float(spec.training.weight_decay),
            label_smoothing=float(spec.training.label_smoothing),
        ),
        exporter=ExporterOrder(
            wait_for=scraped_metrics(objectives) if context.settings.prometheus else (),
            max_linger_seconds=spec.metrics_collection.max_linger_seconds,
        ),
    )


def _constraint(metric: str, constraint: Constraint) -> ConstraintOrder:
    return ConstraintOrder(
        metric=metric, at_most=number(constraint.at_most), at_least=number(constraint.at_least)
    )


def data_order(data: TrainingData) -> DataOrder:
    """Return what a network is trained on."""
    share = float(data.validation_fraction)
    if data.embedded is not None:
        return DataOrder(name=data.embedded.value, validation_fraction=share)
    if data.folder is not None:
        return DataOrder(path=data.folder.path, format=data.folder.format, validation_fraction=share)
    if data.volume_claim is not None:
        path = f"{DATA_MOUNT}/{data.volume_claim.path}".rstrip("/")
        return DataOrder(path=path, format=data.volume_claim.format, validation_fraction=share)
    raise ValueError("spec.trainingData: must have exactly one of embedded, folder, volumeClaim")
