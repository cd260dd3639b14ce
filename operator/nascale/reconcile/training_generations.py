"""A training's Jobs and pods, read: each Job is one generation of the run, and holds its own run order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from nascale.api import names
from nascale.contract import environment
from nascale.contract.errors import ContractError
from nascale.contract.run_order import DesiredState, RunOrder, parse_desired_state, parse_run_order
from nascale.reconcile.actions import Manifest
from nascale.reconcile.pod_parts import ANNOTATION_WORK_ORDER
from nascale.reconcile.recent import Recent
from nascale.reconcile.snapshot import JobView, PodView, controller_uid, read_job, read_pod

_ORDERS: Final[Recent[RunOrder | None]] = Recent(1000)
"""A Job's order never changes: it is read once."""


@dataclass(frozen=True)
class Generation:
    """One Job of a run.

    Attributes:
        number: Its number, from 1.
        job: The Job.
        order: What its pods were given; ``None``: somebody made it unreadable.
        begins: Stage that it begins with.
        fell_back: Stage that it trains with an earlier generation's workers.
        devices: GPUs of each pod, at least 1.
        pods: Its pods, oldest first.
    """

    number: int
    job: JobView
    order: RunOrder | None
    begins: str | None
    fell_back: str | None
    devices: int
    pods: tuple[PodView, ...]

    @property
    def leaders(self) -> tuple[PodView, ...]:
        """Pods that are or were rank 0's, newest first."""
        return tuple(pod for pod in reversed(self.pods) if pod.index == 0)

    @property
    def live(self) -> tuple[PodView, ...]:
        """Pods that have not ended and are not told to."""
        return tuple(pod for pod in self.pods if not pod.over and not pod.deleting)

    @property
    def leader(self) -> PodView | None:
        """Rank 0's pod, where it runs."""
        return next((pod for pod in self.leaders if pod.running and not pod.deleting), None)

    @property
    def sent(self) -> DesiredState | None:
        """The newest desired state that any of its pods has."""
        states = [state for pod in self.live if (state := desired_state(pod)) is not None]
        return max(states, key=lambda state: state.revision, default=None)


def read_generations(jobs: Iterable[Manifest], pods: Iterable[Manifest]) -> dict[int, Generation]:
    """Read the generations of a run, by number."""
    of_job: dict[str, list[PodView]] = {}
    for pod in pods:
        uid = controller_uid(pod)
        if uid is not None:
            of_job.setdefault(uid, []).append(read_pod(pod))
    found: dict[int, Generation] = {}
    for document in jobs:
        labels = document["metadata"].get("labels") or {}
        number = str(labels.get(names.LABEL_GENERATION, ""))
        if not number.isdecimal():
            continue
        job = read_job(document)
        annotations = document["metadata"].get("annotations") or {}
        group = sorted(of_job.get(job.uid, ()), key=lambda pod: (pod.created, pod.name))
        found[int(number)] = Generation(
            number=int(number),
            job=job,
            order=_order_of(document),
            begins=annotations.get(names.ANNOTATION_STAGE),
            fell_back=annotations.get(names.ANNOTATION_FELL_BACK),
            devices=_devices(document),
            pods=tuple(group),
        )
    return dict(sorted(found.items()))


def desired_state(pod: PodView) -> DesiredState | None:
    """Return what a pod was told last; ``None`` where that can't be read."""
    return _state(pod.annotations.get(names.ANNOTATION_DESIRED_STATE, ""))


def former_states(pod: PodView) -> tuple[DesiredState, ...]:
    """Return what a pod was told before, oldest first, as far as that is kept."""
    try:
        texts = json.loads(pod.annotations.get(names.ANNOTATION_FORMER_STATES, "[]"))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(texts, list):
        return ()
    found = (_state(text) for text in texts if isinstance(text, str))
    return tuple(state for state in found if state is not None)


@lru_cache(maxsize=1024)
def _state(text: str) -> DesiredState | None:
    try:
        return parse_desired_state(text)
    except ContractError:
        return None


def _order_of(job: Manifest) -> RunOrder | None:
    metadata = job["metadata"]
    key = (str(metadata.get("uid") or ""), "order")
    return _ORDERS.get(key, lambda: _read_order(job)) if key[0] else _read_order(job)


def _read_order(job: Manifest) -> RunOrder | None:
    try:
        template = job["spec"]["template"]
        annotations = template["metadata"].get("annotations") or {}
        text = annotations.get(ANNOTATION_WORK_ORDER) or _variable(_container(template))
        return parse_run_order(text)
    except (KeyError, TypeError, ContractError):
        return None


def _container(template: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = template["spec"]["containers"]
    found: Mapping[str, Any] = next(
        (entry for entry in containers if entry.get("name") == names.TRAINING_CONTAINER), {}
    )
    return found


def _variable(container: Mapping[str, Any]) -> str:
    for entry in container.get("env") or ():
        if entry.get("name") == environment.WORK_ORDER:
            return str(entry.get("value") or "").replace("$$(", "$(")
    return ""


def _devices(job: Manifest) -> int:
    try:
        limits = (_container(job["spec"]["template"]).get("resources") or {}).get("limits") or {}
    except (KeyError, TypeError):
        return 1
    counts = [int(value) for key, value in limits.items() if key.endswith("/gpu") and str(value).isdecimal()]
    return max(1, sum(counts))
