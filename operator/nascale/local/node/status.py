"""A pod's status, computed from what its containers do. Pure; the rules are the kubelet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

OWNED_CONDITIONS: Final = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")
RUNTIME: Final = "nascale-local"


@dataclass(frozen=True)
class ContainerView:
    """What is known of one container."""

    spec: Mapping[str, Any]
    state: Json
    """``waiting``, ``running`` or ``terminated``, as the API has it."""
    last: Json | None = None
    """The ``terminated`` state of the run before."""
    attempt: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""


@dataclass(frozen=True)
class PodView:
    """What is known of one pod."""

    pod: Mapping[str, Any]
    host_address: str
    address: str
    start_time: str
    init: Sequence[ContainerView] = ()
    containers: Sequence[ContainerView] = ()
    failure: Mapping[str, str] | None = None
    """Reason and message of a pod that failed as a whole."""
    ended: bool = False
    """Nothing of the pod will start again: it finished, failed, or is being deleted."""
    prepared: bool = False
    """Volumes and address are there."""
    previous: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """The conditions as they were published last, for their transition times."""
    now: str = ""


def build_status(view: PodView) -> Json:
    """Return the fields of ``status`` that the node owns."""
    phase = pod_phase(view)
    status: Json = {
        "phase": phase,
        "hostIP": view.host_address,
        "hostIPs": [{"ip": view.host_address}],
        "startTime": view.start_time,
        "conditions": _conditions(view, phase),
        "containerStatuses": [_container_status(container) for container in view.containers],
    }
    if view.address:
        status["podIP"] = view.address
        status["podIPs"] = [{"ip": view.address}]
    if view.init:
        status["initContainerStatuses"] = [_container_status(container) for container in view.init]
    generation = view.pod["metadata"].get("generation")
    if generation is not None:
        status["observedGeneration"] = generation
    if view.failure:
        status["reason"] = view.failure["reason"]
        status["message"] = view.failure["message"]
    return status


def pod_phase(view: PodView) -> str:
    """Return the pod's phase."""
    if view.failure and view.ended:
        return "Failed"
    if view.ended:
        everything = [*view.init, *view.containers]
        return "Succeeded" if everything and all(_succeeded(c) for c in everything) else "Failed"
    if not _initialized(view):
        return "Pending"
    # A container that waits for its next run has run: it counts as stopped, not as waiting.
    if any("waiting" in container.state and container.last is None for container in view.containers):
        return "Pending"
    return "Running"


def termination_reason(exit_code: int) -> str:
    """Return the reason of a container's end by its exit code."""
    return "Completed" if exit_code == 0 else "Error"


def restarts(policy: str, exit_code: int, *, init: bool) -> bool:
    """Whether a container that ended starts again. An init container that succeeded is done."""
    if policy == "Never":
        return False
    if policy == "Always" and not init:
        return True
    return exit_code != 0


def _succeeded(container: ContainerView) -> bool:
    return bool(container.state.get("terminated", {}).get("exitCode") == 0)


def _initialized(view: PodView) -> bool:
    return all(_succeeded(container) for container in view.init)


def _container_status(container: ContainerView) -> Json:
    image = container.spec.get("image", "")
    status: Json = {
        "name": container.spec["name"],
        "state": container.state,
        "lastState": {"terminated": container.last} if container.last else {},
        "ready": container.ready,
        "started": container.started,
        "restartCount": container.attempt,
        "image": image,
        "imageID": "",
    }
    if container.container_id:
        status["containerID"] = f"{RUNTIME}://{container.container_id}"
    return status


def _conditions(view: PodView, phase: str) -> list[Json]:
    over = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase)
    unready = [c.spec["name"] for c in view.containers if not c.ready]
    waiting_init = [c.spec["name"] for c in view.init if not _succeeded(c)]
    not_ready = (
        over or "ContainersNotReady",
        "" if over else _names("containers with unready status", unready),
    )
    ready = ("", "") if not unready and not over else not_ready
    gates = _open_gates(view.pod)
    wanted: dict[str, tuple[bool, str, str]] = {
        "PodReadyToStartContainers": (view.prepared and not over, "", ""),
        "Initialized": (
            (True, over if over == "PodCompleted" else "", "")
            if not waiting_init
            else (
                False,
                "ContainersNotInitialized",
                _names("containers with incomplete status", waiting_init),
            )
        ),
        "ContainersReady": (not unready and not over, *ready),
        "Ready": (
            (False, "ReadinessGatesNotReady", _names("readiness gates that are not True", gates))
            if gates and not unready and not over
            else (not unready and not over, *ready)
        ),
    }
    before = {condition["type"]: condition for condition in view.previous}
    generation = view.pod["metadata"].get("generation")
    conditions = [_condition(kind, wanted[kind], before.get(kind), view.now) for kind in OWNED_CONDITIONS]
    if generation is not None:
        for condition in conditions:
            condition["observedGeneration"] = generation
    return conditions


def _condition(kind: str, wanted: tuple[bool, str, str], before: Mapping[str, Any] | None, now: str) -> Json:
    holds, reason, message = wanted
    status = "True" if holds else "False"
    same = before is not None and before.get("status") == status
    return {
        "type": kind,
        "status": status,
        # null takes away what an earlier patch wrote: the API merges conditions by type.
        "reason": reason or None,
        "message": message or None,
        "lastTransitionTime": before["lastTransitionTime"] if same and before else now,
    }


def _open_gates(pod: Mapping[str, Any]) -> list[str]:
    present = {
        condition["type"]
        for condition in (pod.get("status") or {}).get("conditions") or []
        if condition.get("status") == "True"
    }
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    return [gate for gate in gates if gate not in present]


def _names(text: str, names: Sequence[str]) -> str:
    return f"{text}: [{' '.join(names)}]" if names else text


def same_status(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether publishing ``first`` over ``second`` would change anything; absent and null are the same."""
    return all(_plain(value) == _plain(second.get(key)) for key, value in first.items())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item not in (None, {}, "", False)}
    if isinstance(value, list):
        if value and all(isinstance(item, Mapping) and "lastTransitionTime" in item for item in value):
            owned = [item for item in value if item["type"] in OWNED_CONDITIONS]
            return {item["type"]: _plain(item) for item in owned}
        return [_plain(item) for item in value]
    return value
