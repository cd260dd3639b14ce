"""Parts of a pod that trials and trainings share: hardened, around the user's narrow template.

It passes Pod Security's *restricted* profile. Nothing of the template can widen that: the security
context, the token, the restart policy and the ports are set here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from nascale.api import names
from nascale.api.pod_template import Resources, Toleration, TrialTemplate, Volume
from nascale.api.progressive_training import ProgressiveTrainingSpec
from nascale.api.quantity import parse_quantity
from nascale.api.resource import ObjectMeta
from nascale.contract import environment
from nascale.contract.run_order import StageOrder
from nascale.reconcile.observed import OperatorSettings

LARGEST_VARIABLE_BYTES: Final = 96 * 1024
"""Linux allows 128 KiB for one variable with its name; a longer order goes into a file."""
LARGEST_ORDER_BYTES: Final = 200 * 1024
"""An object's annotations hold at most 256 KiB."""
ANNOTATION_WORK_ORDER: Final = f"{names.GROUP}/work-order"
ORDER_MOUNT: Final = "/etc/nascale"
_ORDER_FILE: Final = "work-order.json"
_ORDER_VOLUME: Final = "nascale-work-order"
_THREADS: Final = "OMP_NUM_THREADS"
_NON_ROOT: Final = 65_532
"""The uid that minimal images call nonroot; images whose user is root run under it as well."""

ResourceLists = dict[str, dict[str, str]]


def owner_reference(kind: str, metadata: ObjectMeta) -> dict[str, Any]:
    """Return the reference by which a child belongs to its owner, and goes with it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "name": metadata.name,
        "uid": metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def indexed(workers: int) -> dict[str, Any]:
    """Return what makes a Job's pods workers with places."""
    return {"completionMode": "Indexed", "completions": workers, "parallelism": workers}


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


def pod_spec(
    template: TrialTemplate,
    container: Mapping[str, Any],
    *,
    node_selector: Mapping[str, str],
    tolerations: Iterable[Toleration],
    volumes: list[dict[str, Any]],
    exclusive: bool = False,
) -> dict[str, Any]:
    """Return the spec of a pod with one container.

    Args:
        template: The user's.
        container: From ``container``.
        node_selector: Labels of the node.
        tolerations: Of the node's taints.
        volumes: What the container mounts.
        exclusive: Whether no other pod of ours may be on the node, before and after.
    """
    optional: dict[str, Any] = {
        "serviceAccountName": template.service_account_name,
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "schedulerName": template.scheduler_name,
        "nodeSelector": dict(node_selector),
        "affinity": _apart_from_all() if exclusive else None,
        "tolerations": [toleration.to_dict() for toleration in tolerations],
        "imagePullSecrets": [secret.to_dict() for secret in template.image_pull_secrets],
        "volumes": volumes,
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": template.termination_grace_period_seconds,
        "securityContext": pod_security(),
        "containers": [dict(container)],
        **{key: value for key, value in optional.items() if value},
    }


def _apart_from_all() -> dict[str, Any]:
    """Return the affinity of a pod that wants a node without others of ours.

    The scheduler keeps to it in both directions: no such pod comes to this one's node later.
    """
    others = {
        "labelSelector": {"matchLabels": {names.LABEL_MANAGED_BY: "nascale"}},
        "namespaceSelector": {},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [others]}}


def guarantee_faults(resources: ResourceLists) -> Iterator[str]:
    """Say for which resources the kubelet guarantees a container nothing (its class is not Guaranteed)."""
    for resource in ("cpu", "memory"):
        limit = resources.get("limits", {}).get(resource)
        request = resources.get("requests", {}).get(resource, limit)
        if limit is None:
            yield f"limits.{resource} must be set"
        elif request is None or parse_quantity(request) != parse_quantity(limit):
            yield f"requests.{resource} must be {limit}, not {request}"


def container(
    name: str,
    template: TrialTemplate,
    settings: OperatorSettings,
    *,
    variables: list[dict[str, Any]],
    resources: ResourceLists,
    mounts: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the container: the template's, or the built-in trainer."""
    built_in_image = template.image is None
    command = template.command
    if command is None and built_in_image:
        command = settings.trainer_command
    policy = template.image_pull_policy or (settings.image_pull_policy if built_in_image else None)
    optional: dict[str, Any] = {
        "imagePullPolicy": policy,
        "command": list(command or ()),
        "args": list(template.args or ()),
        "resources": resources,
        "volumeMounts": mounts,
    }
    return {
        "name": name,
        "image": template.image or settings.trainer_image,
        "env": variables,
        "ports": [{"name": names.METRICS_PORT_NAME, "containerPort": environment.DEFAULT_METRICS_PORT}],
        "securityContext": container_security(),
        "terminationMessagePath": environment.DEFAULT_TERMINATION_LOG,
        # Without a report, the end of the log says why the container failed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **{key: value for key, value in optional.items() if value},
    }


def variables(
    name: str, template: TrialTemplate, order: str, resources: ResourceLists
) -> list[dict[str, Any]]:
    """Return the environment of a container: the template's own variables, then ours.

    Args:
        name: Name of the container.
        template: The user's part.
        order: The work order or run order, as JSON text.
        resources: What the container asks for.
    """
    entries: list[dict[str, Any]] = [{"name": entry.name, "value": entry.value} for entry in template.env]
    if in_file(order):
        path = f"{ORDER_MOUNT}/{_ORDER_FILE}"
        entries.append({"name": environment.WORK_ORDER_FILE, "value": path})
    else:
        # Kubernetes replaces $(NAME) in values; doubling the dollar keeps the text as it is.
        entries.append({"name": environment.WORK_ORDER, "value": order.replace("$(", "$$(")})
    entries += [
        {"name": environment.TERMINATION_LOG, "value": environment.DEFAULT_TERMINATION_LOG},
        {"name": environment.METRICS_PORT, "value": str(environment.DEFAULT_METRICS_PORT)},
        _field(environment.BIND_ADDRESS, "status.podIP"),
        _field(environment.POD_NAME, "metadata.name"),
        _field(environment.POD_NAMESPACE, "metadata.namespace"),
    ]
    if _needs_thread_count(template, resources):
        source = {"containerName": name, "resource": "requests.cpu", "divisor": "1"}
        entries.append({"name": _THREADS, "valueFrom": {"resourceFieldRef": source}})
    return entries


def _needs_thread_count(template: TrialTemplate, resources: ResourceLists) -> bool:
    """Say whether the processors that a pod asked for are known to nobody inside it.

    A limit shows in the control group; a request alone does not, and a program that starts a thread for
    each of the node's processors measures nothing but its own crowd.
    """
    asked = "cpu" in resources.get("requests", {}) and "cpu" not in resources.get("limits", {})
    return asked and all(entry.name != _THREADS for entry in template.env)


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def merged_resources(*parts: Resources) -> ResourceLists:
    """Return requests and limits of several sources, later ones over earlier ones."""
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for part in parts:
        requests |= part.requests
        limits |= part.limits
    # Devices can't be overcommitted: Kubernetes wants request and limit to be equal.
    for key in {key for key in (*requests, *limits) if is_device(key)}:
        requests[key] = limits[key] = limits.get(key, requests.get(key, "0"))
    merged = {"requests": dict(sorted(requests.items())), "limits": dict(sorted(limits.items()))}
    return {key: value for key, value in merged.items() if value}


def stage_resources(spec: ProgressiveTrainingSpec, stage: StageOrder) -> ResourceLists:
    """Return what each pod of a training asks for in a stage: template, placement, then the stage's own."""
    own = dict(stage.hardware.resources)
    return merged_resources(
        spec.pod_template.resources, spec.placement.resources, Resources(requests=own, limits=own)
    )


def is_device(resource: str) -> bool:
    """Say whether a resource is an extended one (``nvidia.com/gpu``) or huge pages."""
    domain, slash, _ = resource.partition("/")
    return (bool(slash) and not domain.endswith("kubernetes.io")) or resource.startswith("hugepages-")


def devices(resources: ResourceLists) -> int:
    """Return how many GPUs a pod with these resources holds, at least 1: a CPU counts as one device."""
    return max(1, gpus(resources))


def gpus(resources: ResourceLists) -> int:
    """Return how many GPUs a pod with these resources holds."""
    limits = resources.get("limits", {})
    return sum(int(value) for key, value in limits.items() if key.endswith("/gpu") and value.isdecimal())


def template_volumes(template: TrialTemplate) -> list[dict[str, Any]]:
    """Return the volumes of the template."""
    return [_volume(volume) for volume in template.volumes]


def _volume(volume: Volume) -> dict[str, Any]:
    if volume.config_map is not None:
        return {"name": volume.name, "configMap": {"name": volume.config_map.name}}
    if volume.persistent_volume_claim is not None:
        claim = {"claimName": volume.persistent_volume_claim.claim_name, "readOnly": volume.read_only}
        return {"name": volume.name, "persistentVolumeClaim": claim}
    limit = None if volume.empty_dir is None else volume.empty_dir.size_limit
    return {"name": volume.name, "emptyDir": {} if limit is None else {"sizeLimit": limit}}


def claim_volume(name: str, claim: str, *, read_only: bool = False) -> dict[str, Any]:
    """Return a volume of our own that is a PersistentVolumeClaim."""
    source: dict[str, Any] = {"claimName": claim, **({"readOnly": True} if read_only else {})}
    return {"name": name, "persistentVolumeClaim": source}


def template_mounts(template: TrialTemplate) -> list[dict[str, Any]]:
    """Return where the template's volumes are mounted."""
    return [
        {"name": volume.name, "mountPath": volume.mount_path, "readOnly": volume.read_only}
        for volume in template.volumes
    ]


def in_file(order: str) -> bool:
    """Say whether an order is too long for a variable."""
    return len(order.encode()) > LARGEST_VARIABLE_BYTES


def order_volumes(order: str) -> list[dict[str, Any]]:
    """Return the volume of an order that is too long for a variable: the pod's own annotation."""
    return [annotation_volume(_ORDER_VOLUME, ANNOTATION_WORK_ORDER, _ORDER_FILE)] if in_file(order) else []


def order_mounts(order: str) -> list[dict[str, Any]]:
    """Return where that volume is mounted."""
    return [{"name": _ORDER_VOLUME, "mountPath": ORDER_MOUNT, "readOnly": True}] if in_file(order) else []


def annotation_volume(name: str, annotation: str, file: str) -> dict[str, Any]:
    """Return a volume with one file that shows an annotation of the pod (downward API)."""
    source = {"fieldPath": f"metadata.annotations['{annotation}']"}
    return {"name": name, "downwardAPI": {"items": [{"path": file, "fieldRef": source}]}}


def scrape_annotations() -> dict[str, str]:
    """Return the annotations by which Prometheus finds a pod."""
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(environment.DEFAULT_METRICS_PORT),
    }
