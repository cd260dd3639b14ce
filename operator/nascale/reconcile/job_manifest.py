"""The Job of one or more trials: a hardened pod around the user's narrow template.

It passes Pod Security's *restricted* profile. Nothing of the template can widen that: the security
context, the token, the restart policy and the ports are set here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nascale.api import names
from nascale.api.pod_template import TrialTemplate, Volume
from nascale.contract import environment
from nascale.contract.work_order import WorkOrder
from nascale.reconcile.naming import job_name
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.owner_context import Owner, OwnerContext
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.work_order import CHECKPOINT_MOUNT, DATA_MOUNT, checkpoint_folder, work_order

LARGEST_VARIABLE_BYTES: Final = 96 * 1024
"""Linux allows 128 KiB for one variable with its name; a longer order goes into a file."""
LARGEST_ORDER_BYTES: Final = 200 * 1024
"""An object's annotations hold at most 256 KiB."""
ANNOTATION_WORK_ORDER: Final = f"{names.GROUP}/work-order"
ORDER_MOUNT: Final = "/etc/nascale"
_THREADS: Final = "OMP_NUM_THREADS"
_ORDER_FILE: Final = "work-order.json"
_NON_ROOT: Final = 65_532
"""The uid that minimal images call nonroot; images whose user is root run under it as well."""


def pod_security() -> dict[str, Any]:
    """Return the security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _NON_ROOT,
        "runAsGroup": _NON_ROOT,
        "fsGroup": _NON_ROOT,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Return the security context of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        # Training code writes caches beside itself and into /tmp; the layer goes with the pod.
        "readOnlyRootFilesystem": False,
    }


def owner_reference(context: OwnerContext) -> dict[str, Any]:
    """Return the reference by which a child belongs to its owner, and goes with it."""
    metadata = context.owner.metadata
    return {
        "apiVersion": names.API_VERSION,
        "kind": context.kind,
        "name": metadata.name,
        "uid": metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


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
    """Make the Job that runs trials of one rung in one pod, one after the other.

    Args:
        context: The search or sweep.
        trials: By index; the first one gives the Job its name.
        attempt: Number of runs of these trials before.

    Raises:
        ValidationError: the work order is out of the contract's range.
        ValueError: the work order is too long for a pod's annotations.
    """
    owner = context.owner
    template, metadata = owner.spec.trial_template, owner.metadata
    own_labels = {
        **child_labels(context),
        names.LABEL_TRIAL: trials[0].name,
        names.LABEL_ATTEMPT: str(attempt),
    }
    own_annotations = {names.ANNOTATION_TRIALS: ",".join(trial.name for trial in trials)}
    order = work_order(context, trials, attempt)
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
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(environment.DEFAULT_METRICS_PORT),
                        **_order_annotation(order),
                    },
                },
                "spec": _pod_spec(owner, context.settings, order),
            },
        },
    }


def _pod_spec(owner: Owner, settings: OperatorSettings, order: WorkOrder) -> dict[str, Any]:
    template, target = owner.spec.trial_template, owner.spec.target
    optional: dict[str, Any] = {
        "serviceAccountName": template.service_account_name,
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "schedulerName": template.scheduler_name,
        "nodeSelector": dict(target.node_selector),
        "tolerations": [toleration.to_dict() for toleration in target.tolerations],
        "imagePullSecrets": [secret.to_dict() for secret in template.image_pull_secrets],
        "volumes": _volumes(owner, order),
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": template.termination_grace_period_seconds,
        "securityContext": pod_security(),
        "containers": [_container(owner, settings, order)],
        **{key: value for key, value in optional.items() if value},
    }


def _container(owner: Owner, settings: OperatorSettings, order: WorkOrder) -> dict[str, Any]:
    template = owner.spec.trial_template
    built_in_image = template.image is None
    command = template.command
    if command is None and built_in_image:
        command = settings.trainer_command
    policy = template.image_pull_policy or (settings.image_pull_policy if built_in_image else None)
    optional: dict[str, Any] = {
        "imagePullPolicy": policy,
        "command": list(command or ()),
        "args": list(template.args or ()),
        "resources": _resources(owner),
        "volumeMounts": _mounts(owner, order),
    }
    return {
        "name": names.TRIAL_CONTAINER,
        "image": template.image or settings.trainer_image,
        "env": _environment(owner, template, order),
        "ports": [{"name": names.METRICS_PORT_NAME, "containerPort": environment.DEFAULT_METRICS_PORT}],
        "securityContext": container_security(),
        "terminationMessagePath": environment.DEFAULT_TERMINATION_LOG,
        # Without a report, the end of the log says why the container failed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **{key: value for key, value in optional.items() if value},
    }


def _environment(owner: Owner, template: TrialTemplate, order: WorkOrder) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"name": entry.name, "value": entry.value} for entry in template.env]
    text = order.to_json()
    if _in_file(text):
        path = f"{ORDER_MOUNT}/{_ORDER_FILE}"
        entries.append({"name": environment.WORK_ORDER_FILE, "value": path})
    else:
        # Kubernetes replaces $(NAME) in values; doubling the dollar keeps the text as it is.
        entries.append({"name": environment.WORK_ORDER, "value": text.replace("$(", "$$(")})
    entries += [
        {"name": environment.TERMINATION_LOG, "value": environment.DEFAULT_TERMINATION_LOG},
        {"name": environment.METRICS_PORT, "value": str(environment.DEFAULT_METRICS_PORT)},
        _field(environment.BIND_ADDRESS, "status.podIP"),
        _field(environment.POD_NAME, "metadata.name"),
        _field(environment.POD_NAMESPACE, "metadata.namespace"),
    ]
    if _needs_thread_count(owner, template):
        source = {"containerName": names.TRIAL_CONTAINER, "resource": "requests.cpu", "divisor": "1"}
        entries.append({"name": _THREADS, "valueFrom": {"resourceFieldRef": source}})
    checkpoints = owner.spec.checkpoints
    if checkpoints is not None:
        folder = checkpoint_folder(owner, checkpoints)
        entries.append({"name": environment.CHECKPOINT_DIRECTORY, "value": folder})
    return entries


def _needs_thread_count(owner: Owner, template: TrialTemplate) -> bool:
    """Say whether the processors that a pod asked for are known to nobody inside it.

    A limit shows in the control group; a request alone does not, and a program that starts a thread for
    each of the node's processors measures nothing but its own crowd.
    """
    resources = _resources(owner)
    asked = "cpu" in resources.get("requests", {}) and "cpu" not in resources.get("limits", {})
    return asked and all(entry.name != _THREADS for entry in template.env)


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _resources(owner: Owner) -> dict[str, dict[str, str]]:
    template, target = owner.spec.trial_template.resources, owner.spec.target.resources
    requests = {**template.requests, **target.requests}
    limits = {**template.limits, **target.limits}
    # Devices can't be overcommitted: Kubernetes wants request and limit to be equal.
    for key in {key for key in (*requests, *limits) if is_device(key)}:
        requests[key] = limits[key] = limits.get(key, requests.get(key, "0"))
    merged = {"requests": dict(sorted(requests.items())), "limits": dict(sorted(limits.items()))}
    return {key: value for key, value in merged.items() if value}


def is_device(resource: str) -> bool:
    """Say whether a resource is an extended one (``nvidia.com/gpu``) or huge pages."""
    domain, slash, _ = resource.partition("/")
    return (bool(slash) and not domain.endswith("kubernetes.io")) or resource.startswith("hugepages-")


def devices_per_pod(owner: Owner) -> int:
    """Return how many GPUs a trial's pod holds, at least 1: a CPU counts as one device."""
    limits = _resources(owner).get("limits", {})
    counts = [int(value) for key, value in limits.items() if key.endswith("/gpu") and value.isdecimal()]
    return max(1, sum(counts))


def _volumes(owner: Owner, order: WorkOrder) -> list[dict[str, Any]]:
    spec = owner.spec
    volumes = [_volume(volume) for volume in spec.trial_template.volumes]
    if spec.training_data is not None and spec.training_data.volume_claim is not None:
        claim = {"claimName": spec.training_data.volume_claim.claim_name, "readOnly": True}
        volumes.append({"name": "nascale-data", "persistentVolumeClaim": claim})
    if spec.checkpoints is not None:
        claim = {"claimName": spec.checkpoints.claim_name}
        volumes.append({"name": "nascale-checkpoints", "persistentVolumeClaim": claim})
    if _in_file(order.to_json()):
        source = {"fieldPath": f"metadata.annotations['{ANNOTATION_WORK_ORDER}']"}
        items = [{"path": _ORDER_FILE, "fieldRef": source}]
        volumes.append({"name": "nascale-work-order", "downwardAPI": {"items": items}})
    return volumes


def _volume(volume: Volume) -> dict[str, Any]:
    if volume.config_map is not None:
        return {"name": volume.name, "configMap": {"name": volume.config_map.name}}
    if volume.persistent_volume_claim is not None:
        claim = {"claimName": volume.persistent_volume_claim.claim_name, "readOnly": volume.read_only}
        return {"name": volume.name, "persistentVolumeClaim": claim}
    limit = None if volume.empty_dir is None else volume.empty_dir.size_limit
    return {"name": volume.name, "emptyDir": {} if limit is None else {"sizeLimit": limit}}


def _mounts(owner: Owner, order: WorkOrder) -> list[dict[str, Any]]:
    spec = owner.spec
    mounts: list[dict[str, Any]] = [
        {"name": volume.name, "mountPath": volume.mount_path, "readOnly": volume.read_only}
        for volume in spec.trial_template.volumes
    ]
    if spec.training_data is not None and spec.training_data.volume_claim is not None:
        mounts.append({"name": "nascale-data", "mountPath": DATA_MOUNT, "readOnly": True})
    if spec.checkpoints is not None:
        mounts.append({"name": "nascale-checkpoints", "mountPath": CHECKPOINT_MOUNT})
    if _in_file(order.to_json()):
        mounts.append({"name": "nascale-work-order", "mountPath": ORDER_MOUNT, "readOnly": True})
    return mounts


def _order_annotation(order: WorkOrder) -> dict[str, str]:
    text = order.to_json()
    if not _in_file(text):
        return {}
    size = len(text.encode())
    if size > LARGEST_ORDER_BYTES:
        raise ValueError(
            f"spec.budget.trialsPerPod: must be lower: a work order of {len(order.candidates)} candidates "
            f"takes {size} bytes, and {LARGEST_ORDER_BYTES} are the most"
        )
    return {ANNOTATION_WORK_ORDER: text}


def _in_file(text: str) -> bool:
    return len(text.encode()) > LARGEST_VARIABLE_BYTES
