"""A container's environment, command and arguments, as the process gets them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nascale.api.quantity import in_units, parse_quantity
from nascale.local.node.errors import ConfigurationMissingError, StartRefusedError
from nascale.local.node.expansion import expand
from nascale.local.node.fields import Placement, read_field, read_resource
from nascale.local.node.paths import PathRewriter

SERVICE_ACCOUNT_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
SERVICE_ACCOUNT_VARIABLE: Final = "NASCALE_SERVICE_ACCOUNT_DIRECTORY"
"""Where the projected token, certificate and namespace really are: client libraries know the usual path."""
THREADS_VARIABLE: Final = "OMP_NUM_THREADS"
GPU_RESOURCE: Final = "nvidia.com/gpu"
GPU_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"

Lookup = Callable[[str, str], Mapping[str, Any] | None]
"""From kind (``configmaps`` or ``secrets``) and name to the object of the pod's namespace, if it exists."""


@dataclass(frozen=True)
class Invocation:
    """What is started: everything here is in terms of this machine."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: str


def declared_environment(
    pod: Mapping[str, Any], container: Mapping[str, Any], placement: Placement, lookup: Lookup
) -> dict[str, str]:
    """Return what the pod declares (``envFrom``, then ``env``), expanded, in the container's own terms.

    Raises:
        ConfigurationMissingError: a ConfigMap, Secret or key is missing and not optional.
        StartRefusedError: a reference is not supported.
    """
    values: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for kind, field in (("configmaps", "configMapRef"), ("secrets", "secretRef")):
            if field in source:
                data = _data(kind, source[field], lookup)
                values.update({source.get("prefix", "") + key: value for key, value in data.items()})
    for entry in container.get("env") or []:
        value: str | None = expand(entry.get("value") or "", values)
        if entry.get("valueFrom"):
            value = _value(pod, container, entry, placement, lookup)
        if value is not None:
            values[entry["name"]] = value
    return values


def invocation(
    container: Mapping[str, Any],
    *,
    declared: Mapping[str, str],
    given: Mapping[str, str],
    rewriter: PathRewriter,
    default_directory: str,
) -> Invocation:
    """Put command, arguments and environment together.

    Args:
        container: The container of the pod's spec.
        declared: What :func:`declared_environment` returned.
        given: What the node itself sets; what the pod declares comes before it.
        rewriter: From container paths to real ones.
        default_directory: The working directory of a container that names none.

    Raises:
        StartRefusedError: there is no command.
    """
    command = list(container.get("command") or [])
    if not command:
        raise StartRefusedError(
            f"containers[{container['name']}].command: must be given: this node runs programs of its "
            "machine and pulls no image, so it knows no entry point"
        )
    arguments = [*command, *(container.get("args") or [])]
    # Expansion comes first, on the values as the pod declares them; every text is then rewritten once.
    texts = [rewriter.rewrite(expand(argument, declared)) for argument in arguments]
    environment = {
        **given,
        **{name: rewriter.rewrite(value) for name, value in declared.items()},
    }
    directory = container.get("workingDir") or ""
    return Invocation(
        arguments=tuple(texts),
        environment=environment,
        working_directory=(rewriter.rewrite_path(directory) or directory) if directory else default_directory,
    )


def thread_limit(container: Mapping[str, Any]) -> str | None:
    """Return the number of threads that the container's CPU limit, or else its request, stands for."""
    resources = container.get("resources") or {}
    for kind in ("limits", "requests"):
        quantity = (resources.get(kind) or {}).get("cpu")
        if quantity is not None:
            return str(max(1, in_units(parse_quantity(quantity), parse_quantity("1"))))
    return None


def _value(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    entry: Mapping[str, Any],
    placement: Placement,
    lookup: Lookup,
) -> str | None:
    source = entry["valueFrom"]
    if "fieldRef" in source:
        return read_field(pod, source["fieldRef"]["fieldPath"], placement)
    if "resourceFieldRef" in source:
        return read_resource(pod, container, source["resourceFieldRef"], placement)
    for kind, field in (("configmaps", "configMapKeyRef"), ("secrets", "secretKeyRef")):
        if field in source:
            reference = source[field]
            data = _data(kind, reference, lookup)
            if reference["key"] not in data and not reference.get("optional"):
                raise ConfigurationMissingError(
                    f"couldn't find key {reference['key']} in {kind[:-1]} {reference['name']}"
                )
            return data.get(reference["key"])
    raise StartRefusedError(f"env[{entry['name']}].valueFrom: {', '.join(source)} is not supported here")


def _data(kind: str, reference: Mapping[str, Any], lookup: Lookup) -> dict[str, str]:
    found = lookup(kind, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise ConfigurationMissingError(f'{kind[:-1]} "{reference["name"]}" not found')
    data = found.get("data") or {}
    if kind == "secrets":
        return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}
    return dict(data)
