"""The Job of one generation: as many pods as workers, each with the whole schedule."""

from __future__ import annotations

from typing import Any, Final

from nascale.api import names
from nascale.api.progressive_training import KIND, ProgressiveTraining
from nascale.api.training import TrainingData
from nascale.contract import environment
from nascale.contract import training_series as series
from nascale.contract.run_order import (
    CheckpointOrder,
    DesiredState,
    DivergenceOrder,
    EvaluationOrder,
    OptimizerOrder,
    RunOrder,
    StageOrder,
)
from nascale.contract.work_order import ExporterOrder, RunIdentity
from nascale.progressive.settings import parameter_values
from nascale.reconcile import pod_parts
from nascale.reconcile.decimals import number
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_progress import REFUSED_EXIT_CODE
from nascale.reconcile.work_order import DATA_MOUNT, data_order

RUN_MOUNT: Final = "/nascale/run"
STATE_MOUNT: Final = "/nascale/state"
_STATE_FILE: Final = "desired-state.json"
_RUN_VOLUME: Final = "nascale-run"
_DATA_VOLUME: Final = "nascale-data"
_STATE_VOLUME: Final = "nascale-state"
_UID_CHARACTERS: Final = 8


def generation_job_name(prefix: str, generation: int) -> str:
    """Return the name of a generation's Job."""
    return f"{prefix}-g{generation}"


def run_folder(training: ProgressiveTraining) -> str:
    """Return the run's folder, relative to the root of its volume."""
    metadata = training.metadata
    return f"{training.spec.volume.path}/{metadata.name}-{metadata.uid[:_UID_CHARACTERS]}"


def run_order(
    context: TrainingContext,
    generation: int,
    revision: int,
    stages: tuple[StageOrder, ...],
    stage: StageOrder,
) -> RunOrder:
    """Make the run order of a generation.

    Args:
        context: The training; its model is known.
        generation: Number of the generation.
        revision: Revision of the desired state that the stages include.
        stages: The whole schedule.
        stage: The stage that it begins with, whose workers it gets.

    Raises:
        ValidationError: a field is out of the contract's range.
    """
    spec, metadata, pinned = context.training.spec, context.training.metadata, context.model.pinned
    return RunOrder(
        run=RunIdentity(kind=KIND, name=metadata.name, namespace=metadata.namespace, uid=metadata.uid),
        generation=generation,
        revision=revision,
        seed=spec.seed,
        architecture=None if pinned is None else pinned.architecture,
        parameters=parameter_values(spec.model.parameters or ()),
        data=None if spec.training_data is None else data_order(spec.training_data),
        length=spec.length,
        stages=stages,
        workers=stage.hardware.workers,
        processes_per_worker=stage.hardware.processes_per_worker,
        optimizer=optimizer_order(context.training),
        evaluation=EvaluationOrder(every=spec.evaluation.every),
        checkpoints=CheckpointOrder(
            every_seconds=spec.checkpoints.every_seconds,
            every_steps=spec.checkpoints.every_steps,
            keep=spec.checkpoints.keep,
        ),
        divergence=DivergenceOrder(
            action=spec.divergence.action, most_roll_backs=spec.divergence.most_roll_backs
        ),
        # The report holds the exact final values, but only Prometheus shows their course: short runs too.
        exporter=ExporterOrder(
            wait_for=(series.STEPS,) if context.settings.prometheus else (),
            max_linger_seconds=spec.metrics_collection.max_linger_seconds,
        ),
    )


def optimizer_order(training: ProgressiveTraining) -> OptimizerOrder:
    """Return the optimizer and the course of its learning rate."""
    optimizer = training.spec.optimizer
    return OptimizerOrder(
        name=optimizer.name,
        learning_rate=float(optimizer.learning_rate),
        course=optimizer.course,
        warm_up=float(optimizer.warm_up),
        batch_rule=optimizer.batch_rule,
        base_batch=optimizer.base_batch,
        gradient_clip=number(optimizer.gradient_clip),
        average_decay=float(optimizer.average_decay),
    )


def generation_job(
    context: TrainingContext, order: RunOrder, stage: StageOrder, *, fell_back: bool = False
) -> dict[str, Any]:
    """Make the Job of a generation.

    Args:
        context: The training.
        order: What its pods are given.
        stage: The stage that it begins with, whose resources its pods get.
        fell_back: Whether that stage has the workers of an earlier generation.

    Raises:
        ValueError: the order is too long for a pod's annotations.
    """
    training = context.training
    template, metadata = training.spec.pod_template, training.metadata
    labels = _labels(context, order.generation)
    note = {names.ANNOTATION_STAGE: stage.name}
    if fell_back:
        note[names.ANNOTATION_FELL_BACK] = stage.name
    queued = bool(context.queue_labels.get(names.LABEL_QUEUE))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": generation_job_name(context.prefix, order.generation),
            "namespace": metadata.namespace,
            "labels": {**template.labels, **labels, **context.queue_labels},
            "annotations": {**template.annotations, **note},
            "ownerReferences": [pod_parts.owner_reference(KIND, training.metadata)],
        },
        "spec": {
            **pod_parts.indexed(order.workers),
            "backoffLimit": training.spec.restarts.max_restarts,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            # Without a TTL: the operator may be away for any time, and reads the report afterwards.
            # Kueue starts what it admits.
            **({"suspend": True} if queued else {}),
            "template": {
                "metadata": {
                    "labels": {**template.labels, **labels},
                    "annotations": {
                        **template.annotations,
                        **pod_parts.scrape_annotations(),
                        **_order_annotation(order),
                        names.ANNOTATION_DESIRED_STATE: DesiredState(revision=order.revision).to_json(),
                    },
                },
                "spec": _pod_spec(context, order.to_json(), stage),
            },
        },
    }


def _labels(context: TrainingContext, generation: int) -> dict[str, str]:
    metadata = context.training.metadata
    return {
        names.LABEL_APP_NAME: "nascale",
        names.LABEL_COMPONENT: "training",
        names.LABEL_MANAGED_BY: "nascale",
        names.LABEL_TRAINING: metadata.name,
        names.LABEL_OWNER_UID: metadata.uid,
        names.LABEL_GENERATION: str(generation),
    }


def _failure_rules() -> list[dict[str, Any]]:
    return [
        # Eviction, preemption, drained nodes: the pod is replaced, and nothing is counted.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        # The order can't be used: the same again would end the same.
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": names.TRAINING_CONTAINER,
                "operator": "In",
                "values": [REFUSED_EXIT_CODE],
            },
        },
    ]


def _order_annotation(order: RunOrder) -> dict[str, str]:
    text = order.to_json()
    if not pod_parts.in_file(text):
        return {}
    size = len(text.encode())
    if size > pod_parts.LARGEST_ORDER_BYTES:
        raise ValueError(
            f"spec.stages: must be shorter: the run order takes {size} bytes, and "
            f"{pod_parts.LARGEST_ORDER_BYTES} are the most"
        )
    return {pod_parts.ANNOTATION_WORK_ORDER: text}


def _pod_spec(context: TrainingContext, order: str, stage: StageOrder) -> dict[str, Any]:
    training = context.training
    template, placement = training.spec.pod_template, training.spec.placement
    resources = pod_parts.stage_resources(training.spec, stage)
    variables = pod_parts.variables(names.TRAINING_CONTAINER, template, order, resources)
    variables += [
        {"name": environment.RUN_DIRECTORY, "value": f"{RUN_MOUNT}/{run_folder(training)}"},
        {"name": environment.DESIRED_STATE_FILE, "value": f"{STATE_MOUNT}/{_STATE_FILE}"},
    ]
    container = pod_parts.container(
        names.TRAINING_CONTAINER,
        template,
        context.settings,
        variables=variables,
        resources=resources,
        mounts=_mounts(training, order),
    )
    return pod_parts.pod_spec(
        template,
        container,
        node_selector=placement.node_selector,
        tolerations=placement.tolerations,
        volumes=_volumes(training, order),
    )


def _data_claim(data: TrainingData | None) -> str | None:
    return None if data is None or data.volume_claim is None else data.volume_claim.claim_name


def _volumes(training: ProgressiveTraining, order: str) -> list[dict[str, Any]]:
    spec = training.spec
    volumes = pod_parts.template_volumes(spec.pod_template)
    claim = _data_claim(spec.training_data)
    if claim is not None:
        volumes.append(pod_parts.claim_volume(_DATA_VOLUME, claim, read_only=True))
    volumes += [
        pod_parts.claim_volume(_RUN_VOLUME, spec.volume.claim_name),
        pod_parts.annotation_volume(_STATE_VOLUME, names.ANNOTATION_DESIRED_STATE, _STATE_FILE),
    ]
    return volumes + pod_parts.order_volumes(order)


def _mounts(training: ProgressiveTraining, order: str) -> list[dict[str, Any]]:
    mounts = pod_parts.template_mounts(training.spec.pod_template)
    if _data_claim(training.spec.training_data) is not None:
        mounts.append({"name": _DATA_VOLUME, "mountPath": DATA_MOUNT, "readOnly": True})
    mounts += [
        {"name": _RUN_VOLUME, "mountPath": RUN_MOUNT},
        {"name": _STATE_VOLUME, "mountPath": STATE_MOUNT, "readOnly": True},
    ]
    return mounts + pod_parts.order_mounts(order)
