"""``spec.checkpoints.retention``: after the end, a Job drops what shall not stay on the volume.

The operator has no access to volumes; the Job runs the trainer's image, whatever image the trials had.
"""

from __future__ import annotations

from typing import Any, Final

from nascale.api import names
from nascale.api.training import CheckpointRetention, Checkpoints
from nascale.contract import environment
from nascale.reconcile.actions import CreateJob
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion, find
from nascale.reconcile.draft import Draft
from nascale.reconcile.job_manifest import child_labels, owner_reference
from nascale.reconcile.owner_context import OwnerContext
from nascale.reconcile.pod_parts import container_security, pod_security
from nascale.reconcile.snapshot import Children
from nascale.reconcile.work_order import CHECKPOINT_MOUNT, checkpoint_folder

COMMAND: Final = "keep-checkpoints"
"""Argument of the trainer; the trials whose folders stay follow."""
_LONGEST_RUN_SECONDS: Final = 600
_VOLUME: Final = "nascale-checkpoints"


def is_settled(context: OwnerContext) -> bool:
    """Say whether nothing is left to drop from the volume after the end."""
    checkpoints = context.owner.spec.checkpoints
    if checkpoints is None or checkpoints.retention is CheckpointRetention.ALL:
        return True
    return find(context.owner.status.conditions, OwnerCondition.CHECKPOINTS_PRUNED) is not None


def prune(context: OwnerContext, children: Children, draft: Draft) -> Assertion | None:
    """Start the Job, or say what has become of it; ``None`` while it has not ended."""
    checkpoints = context.owner.spec.checkpoints
    if checkpoints is None:
        return None
    job = children.jobs.get(retention_job_name(context))
    if job is None:
        draft.act(CreateJob(retention_job(context, checkpoints)))
        return None
    kind = OwnerCondition.CHECKPOINTS_PRUNED
    if job.complete:
        kept = len(kept_trials(context, checkpoints))
        return assertion(kind, True, "Pruned", f"checkpoints of {kept} trials stay on the volume")
    if job.failed is not None:
        message = f"Job {job.name} has failed ({job.failed}: {job.failure}): all checkpoints stay"
        draft.tell("PruningFailed", message, warning=True)
        return assertion(kind, False, "PruningFailed", message)
    return None


def retention_job_name(context: OwnerContext) -> str:
    """Return the name of the Job."""
    return f"{context.prefix}-checkpoints"


def kept_trials(context: OwnerContext, checkpoints: Checkpoints) -> tuple[str, ...]:
    """Return the trials whose checkpoints stay: those that the status points at."""
    if checkpoints.retention is CheckpointRetention.NONE:
        return ()
    return tuple(sorted(context.weighty_trials))


def retention_job(context: OwnerContext, checkpoints: Checkpoints) -> dict[str, Any]:
    """Make the Job."""
    owner, settings = context.owner, context.settings
    labels = {**child_labels(context), names.LABEL_COMPONENT: "checkpoints"}
    container: dict[str, Any] = {
        "name": names.TRIAL_CONTAINER,
        "image": settings.trainer_image,
        "command": [*settings.trainer_command],
        "args": [COMMAND, *kept_trials(context, checkpoints)],
        "env": [
            {"name": environment.CHECKPOINT_DIRECTORY, "value": checkpoint_folder(owner, checkpoints)},
        ],
        "volumeMounts": [{"name": _VOLUME, "mountPath": CHECKPOINT_MOUNT}],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if settings.image_pull_policy is not None:
        container["imagePullPolicy"] = settings.image_pull_policy
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": retention_job_name(context),
            "namespace": owner.metadata.namespace,
            "labels": {**labels, **context.queue_labels},
            "ownerReferences": [owner_reference(context)],
        },
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": _LONGEST_RUN_SECONDS,
            "ttlSecondsAfterFinished": settings.job_ttl_seconds,
            **({"suspend": True} if names.LABEL_QUEUE in context.queue_labels else {}),
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": pod_security(),
                    "tolerations": [toleration.to_dict() for toleration in owner.spec.target.tolerations],
                    "containers": [container],
                    "volumes": [
                        {"name": _VOLUME, "persistentVolumeClaim": {"claimName": checkpoints.claim_name}}
                    ],
                },
            },
        },
    }
