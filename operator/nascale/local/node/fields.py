"""The downward API: what a pod may read about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nascale.api.quantity import in_units, parse_quantity
from nascale.local.node.errors import StartRefusedError

_KEYED = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")
_RESOURCE = re.compile(r"^(limits|requests)\.(.+)$")
_METADATA: Final = {"metadata.name": "name", "metadata.namespace": "namespace", "metadata.uid": "uid"}


@dataclass(frozen=True)
class Placement:
    """Where a pod runs."""

    node_name: str
    host_address: str
    pod_address: str
    allocatable: Mapping[str, str]
    """The node's allocatable quantities: the limit of a container without one."""


def read_field(pod: Mapping[str, Any], path: str, placement: Placement) -> str:
    """Return the value of a ``fieldRef``.

    Raises:
        StartRefusedError: the field is none of the downward API's.
    """
    metadata = pod["metadata"]
    if path in _METADATA:
        return str(metadata.get(_METADATA[path], ""))
    keyed = _KEYED.match(path)
    if keyed:
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        return format_map(metadata.get(path.removeprefix("metadata.")) or {})
    places = {
        "spec.nodeName": placement.node_name,
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.hostIP": placement.host_address,
        "status.hostIPs": placement.host_address,
        "status.podIP": placement.pod_address,
        "status.podIPs": placement.pod_address,
    }
    if path not in places:
        raise StartRefusedError(f"fieldPath: must be a field of the downward API, not {path!r}")
    return str(places[path])


def format_map(values: Mapping[str, str]) -> str:
    """Return labels or annotations as the kubelet writes them to a file: ``key="value"`` lines, sorted."""
    return "\n".join(f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in sorted(values))


def read_resource(
    pod: Mapping[str, Any], container: Mapping[str, Any], reference: Mapping[str, Any], placement: Placement
) -> str:
    """Return the value of a ``resourceFieldRef``, in multiples of its divisor.

    A limit that is not set is what the node can give; a request that is not set is 0.

    Raises:
        StartRefusedError: the resource or the container that it names does not exist.
    """
    name = reference.get("containerName") or container["name"]
    spec = pod["spec"]
    owner = next(
        (c for c in [*spec["containers"], *(spec.get("initContainers") or [])] if c["name"] == name), None
    )
    match = _RESOURCE.match(reference["resource"])
    if owner is None or match is None:
        raise StartRefusedError(
            f"resourceFieldRef: must name a container of the pod and limits.X or requests.X, "
            f"not {name!r} and {reference['resource']!r}"
        )
    quantity = ((owner.get("resources") or {}).get(match[1]) or {}).get(match[2])
    if quantity is None:
        quantity = placement.allocatable.get(match[2], "0") if match[1] == "limits" else "0"
    divisor = parse_quantity(reference.get("divisor") or "1")
    # The API server fills in "0" for a divisor that is not given.
    return str(in_units(parse_quantity(quantity), divisor or parse_quantity("1")))
