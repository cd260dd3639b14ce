"""The Job of one or more trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nascale.api import names
from nascale.api.training import Isolation
from nascale.contract import environment
from nascale.reconcile import pod_parts
from nascale.reconcile.naming import job_name
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.owner_context import Owner, OwnerContext, PodGroup
from nascale.reconcile.pod_parts import ANNOTATION_WORK_ORDER, LARGEST_ORDER_BYTES
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.work_order import CHECKPOINT_MOUNT, DATA_MOUNT, checkpoint_folder

_GROUP_VOLUME: Final = "nascale-run"


def owner_reference(context: OwnerContext) -> dict[str, Any]:
    """Return the reference by which a child belongs to its owner, and goes with it."""
    return pod_parts.owner_reference(context.kind, context.owner.metadata)


def child_labels(context: OwnerContext) -> dict[str, str]:
    """Return the labels of every child."""
    metadata = context.owner.metadata
    return {
        names.LABEL_APP_NAME: "nascale",
        names.LABEL_COMPONENT: "trial",
        names.LABEL_MANAGED_BY: "nascale",
        context.label: metadata.name,
        names.LABEL_OWNER_UID: metadata.uid,
    }


def job_manifest(context: OwnerContext, trials: Sequence[TrialView], attempt: int) -> dict[str, Any]:
    """Make the Job that runs trials of one rung, one after the other: in one pod, or in several together.

    Args:
        context: The search or sweep.
        trials: By index; the first one gives the Job its name.
        attempt: Number of runs of these trials before.

    Raises:
        ValidationError: the order is out of the contract's range.
        ValueError: the order is too long for a pod's annotations.
    """
    owner = context.owner
    template, metadata = owner.spec.trial_template, owner.metadata
    own_labels = {
        **child_labels(context),
        names.LABEL_TRIAL: trials[0].name,
        names.LABEL_ATTEMPT: str(attempt),
    }
    own_annotations = {names.ANNOTATION_TRIALS: ",".join(trial.name for trial in trials)}
    order = context.order(trials, attempt).to_json()
    group = context.group_of(trials, attempt)
    queued = bool(context.queue_labels.get(names.LABEL_QUEUE))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(context.prefix, trials[0].index, attempt),
            "namespace": metadata.namespace,
            "labels": {**template.labels, **own_labels, **context.queue_labels},
            "annotations": {**template.annotations, **own_annotations},
            "ownerReferences": [owner_reference(context)],
        },
        "spec": {
            **({} if group is None else pod_parts.indexed(group.workers)),
            # A trial's own failures are repeated by the operator, which counts them; disruptions are the
            # Job controller's.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    }
                ]
            },
            "activeDeadlineSeconds": owner.spec.budget.trial_deadline_seconds,
            "ttlSecondsAfterFinished": context.settings.job_ttl_seconds,
            # Kueue starts what it admits.
            **({"suspend": True} if queued else {}),
            "template": {
                "metadata": {
                    "labels": {**template.labels, **own_labels},
                    "annotations": {
                        **template.annotations,
                        **own_annotations,
                        **pod_parts.scrape_annotations(),
                        **_order_annotation(order, len(trials)),
                    },
                },
                "spec": _pod_spec(owner, context.settings, order, group),
            },
        },
    }


def _pod_spec(owner: Owner, settings: OperatorSettings, text: str, group: PodGroup | None) -> dict[str, Any]:
    template, target = owner.spec.trial_template, owner.spec.target
    resources = trial_resources(owner)
    container = pod_parts.container(
        names.TRIAL_CONTAINER,
        template,
        settings,
        variables=_variables(owner, text, group),
        resources=resources,
        mounts=_mounts(owner, text, group),
    )
    return pod_parts.pod_spec(
        template,
        container,
        node_selector=target.node_selector,
        tolerations=target.tolerations,
        volumes=_volumes(owner, text, group),
        exclusive=target.isolation is Isolation.EXCLUSIVE_NODE,
    )


def _variables(owner: Owner, order: str, group: PodGroup | None) -> list[dict[str, Any]]:
    template, checkpoints = owner.spec.trial_template, owner.spec.checkpoints
    entries = pod_parts.variables(names.TRIAL_CONTAINER, template, order, trial_resources(owner))
    if checkpoints is not None:
        folder = checkpoint_folder(owner, checkpoints)
        entries.append({"name": environment.CHECKPOINT_DIRECTORY, "value": folder})
    if group is not None:
        entries.append({"name": environment.RUN_DIRECTORY, "value": group.folder})
    return entries


def trial_resources(owner: Owner) -> pod_parts.ResourceLists:
    """Return requests and limits of a trial's pod."""
    return pod_parts.merged_resources(owner.spec.trial_template.resources, owner.spec.target.resources)


def devices_per_pod(owner: Owner) -> int:
    """Return how many GPUs a trial's pod holds, at least 1: a CPU counts as one device."""
    return pod_parts.devices(trial_resources(owner))


def _volumes(owner: Owner, order: str, group: PodGroup | None) -> list[dict[str, Any]]:
    spec = owner.spec
    volumes = pod_parts.template_volumes(spec.trial_template)
    if spec.training_data is not None and spec.training_data.volume_claim is not None:
        claim = spec.training_data.volume_claim.claim_name
        volumes.append(pod_parts.claim_volume("nascale-data", claim, read_only=True))
    if spec.checkpoints is not None:
        volumes.append(pod_parts.claim_volume("nascale-checkpoints", spec.checkpoints.claim_name))
    if group is not None:
        volumes.append(pod_parts.claim_volume(_GROUP_VOLUME, group.claim))
    return volumes + pod_parts.order_volumes(order)


def _mounts(owner: Owner, order: str, group: PodGroup | None) -> list[dict[str, Any]]:
    spec = owner.spec
    mounts = pod_parts.template_mounts(spec.trial_template)
    if spec.training_data is not None and spec.training_data.volume_claim is not None:
        mounts.append({"name": "nascale-data", "mountPath": DATA_MOUNT, "readOnly": True})
    if spec.checkpoints is not None:
        mounts.append({"name": "nascale-checkpoints", "mountPath": CHECKPOINT_MOUNT})
    if group is not None:
        mounts.append({"name": _GROUP_VOLUME, "mountPath": group.mount})
    return mounts + pod_parts.order_mounts(order)


def _order_annotation(text: str, candidates: int) -> dict[str, str]:
    if not pod_parts.in_file(text):
        return {}
    size = len(text.encode())
    if size > LARGEST_ORDER_BYTES:
        raise ValueError(
            f"spec.budget.trialsPerPod: must be lower: an order of {candidates} candidates takes {size} "
            f"bytes, and {LARGEST_ORDER_BYTES} are the most"
        )
    return {ANNOTATION_WORK_ORDER: text}
