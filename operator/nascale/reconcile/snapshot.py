"""An observation, read: typed views of an owner's trials, their Jobs and pods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from sys import intern
from typing import Any, Final

from nascale.api import names
from nascale.api.training import FidelityLevel
from nascale.api.trial import TrialOutcome, TrialPurpose, TrialStatus
from nascale.reconcile.actions import Manifest
from nascale.reconcile.naming import trial_name
from nascale.reconcile.recent import Recent

_PARSED: Final[Recent[TrialView | None]] = Recent(100_000)
"""Ended trials never change: reading thousands of them anew at each look would be most of its time."""


@dataclass(frozen=True)
class TrialView:
    """A Trial; all attributes but its status and version are those of its spec and never change."""

    name: str
    uid: str
    resource_version: str
    created: datetime
    index: int
    candidate: int
    rung: int
    lead: int
    fidelity: FidelityLevel
    parameters: tuple[tuple[str, str], ...]
    status: TrialStatus
    origin: str = ""
    purpose: TrialPurpose | None = None
    """Only of a sweep's trials, as the following ones are."""
    member: str = ""
    repeat: int = 0
    remeasures: int | None = None

    @property
    def outcome(self) -> TrialOutcome | None:
        """How it ended; ``None`` while it has not."""
        return self.status.outcome


@dataclass(frozen=True)
class JobView:
    """A Job.

    Attributes:
        trials: Names of the trials that it carries.
        attempt: Which run of them it is, from 0.
        queue: Whether Kueue decides when it may start.
        started: When its pods were first allowed to start (anew after each suspension).
        failed: Reason of its failure, as soon as the Job controller has decided on it.
        failure: Message of its failure.
        complete: Whether its pod succeeded.
        settled: When it failed or completed.
        workers: Pods that work on it together.
    """

    name: str
    uid: str
    trials: tuple[str, ...]
    attempt: int
    created: datetime
    suspended: bool
    queue: bool
    deleting: bool
    started: datetime | None
    failed: str | None
    failure: str
    complete: bool
    settled: datetime | None
    workers: int = 1

    @property
    def finished(self) -> bool:
        """Whether it starts no further pod."""
        return self.complete or self.failed is not None


@dataclass(frozen=True)
class PodView:
    """A pod, as far as its one container and its end matter.

    Attributes:
        over: Whether it has ended, or never will start.
        interrupted: Why somebody else than its container ended it; ``None``: nobody did.
        interruption: Message about that.
        exit_code: Of the container; ``None``: it has not ended.
        exit_reason: Kubernetes' word for the end (``Completed``, ``Error``, ``OOMKilled``).
        message: The termination message.
        waiting: Why the container does not start yet (``ImagePullBackOff``, ``Unschedulable``).
        waiting_message: Message about that.
    """

    name: str
    created: datetime
    node: str | None
    started: datetime | None
    finished: datetime | None
    over: bool
    interrupted: str | None
    interruption: str
    exit_code: int | None
    exit_reason: str
    message: str
    waiting: str | None
    waiting_message: str
    uid: str = ""
    index: int | None = None
    """Place among the workers, of an Indexed Job's pod only."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    deleting: bool = False

    @property
    def running(self) -> bool:
        """Whether the container runs."""
        return self.started is not None and not self.over


@dataclass(frozen=True)
class Children:
    """Everything that belongs to a search or sweep."""

    trials: tuple[TrialView, ...]
    """By index."""
    jobs: Mapping[str, JobView]
    """By name."""
    pods: Mapping[str, tuple[PodView, ...]]
    """By the Job's name, oldest first."""


def moment(text: object) -> datetime | None:
    """Read an API server's timestamp."""
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def read_children(trials: Iterable[Manifest], jobs: Iterable[Manifest], pods: Iterable[Manifest]) -> Children:
    """Read children. A Trial that can't be read (its schema was bypassed) is left out."""
    views = [view for view in map(_trial, trials) if view is not None]
    job_views = [read_job(job) for job in jobs]
    names_by_uid = {job.uid: job.name for job in job_views}
    by_job: dict[str, list[PodView]] = {}
    for pod in pods:
        owner = controller_uid(pod)
        if owner in names_by_uid:
            by_job.setdefault(names_by_uid[owner], []).append(read_pod(pod))
    return Children(
        trials=tuple(sorted(views, key=lambda view: view.index)),
        jobs={job.name: job for job in job_views},
        pods={
            name: tuple(sorted(group, key=lambda pod: (pod.created, pod.name)))
            for name, group in by_job.items()
        },
    )


def _trial(document: Manifest) -> TrialView | None:
    metadata = document["metadata"]
    # Without a resourceVersion there is nothing to tell two versions apart by.
    key = (str(metadata.get("uid", "")), str(metadata.get("resourceVersion", "")))
    if not all(key):
        return _parsed_trial(document)
    return _PARSED.get(key, lambda: _parsed_trial(document))


def _parsed_trial(document: Manifest) -> TrialView | None:
    try:
        metadata, spec = document["metadata"], document["spec"]
        return TrialView(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            resource_version=metadata.get("resourceVersion", ""),
            created=moment(metadata.get("creationTimestamp")) or _EPOCH,
            index=spec["index"],
            candidate=spec["candidate"],
            rung=spec.get("rung", 0),
            lead=spec["lead"],
            fidelity=FidelityLevel.model_validate(spec["fidelity"]),
            # The same few names and values occur in thousands of trials.
            parameters=tuple((intern(entry["name"]), intern(entry["value"])) for entry in spec["parameters"]),
            status=TrialStatus.model_validate(document.get("status") or {}),
            origin=intern(spec.get("origin") or ""),
            purpose=TrialPurpose(spec["purpose"]) if spec.get("purpose") else None,
            member=intern(spec.get("member") or ""),
            repeat=spec.get("repeat") or 0,
            remeasures=spec.get("remeasures"),
        )
    except (KeyError, TypeError, ValueError):
        return None


def sample_trial(
    prefix: str,
    index: int,
    rung: int,
    level: FidelityLevel,
    parameters: tuple[tuple[str, str], ...],
    *,
    purpose: TrialPurpose | None = None,
) -> TrialView:
    """Return a trial that does not exist, to see what would become of it."""
    return TrialView(
        name=trial_name(prefix, index),
        uid="",
        resource_version="",
        created=_EPOCH,
        index=index,
        candidate=index,
        rung=rung,
        lead=index,
        fidelity=level,
        parameters=parameters,
        status=TrialStatus(),
        purpose=purpose,
    )


def read_job(document: Manifest) -> JobView:
    """Read a Job."""
    metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    conditions = _true_conditions(status)
    # FailureTarget and SuccessCriteriaMet say what the Job controller has decided; Failed and Complete
    # follow when the last pod is gone.
    failure = conditions.get("FailureTarget") or conditions.get("Failed")
    success = conditions.get("Complete") or conditions.get("SuccessCriteriaMet")
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    attempt = str(labels.get(names.LABEL_ATTEMPT, "0"))
    return JobView(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        trials=tuple(name for name in annotations.get(names.ANNOTATION_TRIALS, "").split(",") if name),
        attempt=int(attempt) if attempt.isdecimal() else 0,
        created=moment(metadata.get("creationTimestamp")) or _EPOCH,
        suspended=bool(spec.get("suspend")),
        queue=names.LABEL_QUEUE in labels,
        deleting="deletionTimestamp" in metadata,
        started=moment(status.get("startTime")),
        failed=None if failure is None else str(failure.get("reason") or "Failed"),
        failure="" if failure is None else str(failure.get("message") or ""),
        complete=success is not None and failure is None,
        settled=moment((failure or success or {}).get("lastTransitionTime")),
        workers=int(spec.get("completions") or 1),
    )


def read_pod(document: Manifest) -> PodView:
    """Read a pod."""
    metadata, status = document["metadata"], document.get("status") or {}
    state = _container_state(status)
    ended, running, waiting = state.get("terminated"), state.get("running"), state.get("waiting")
    over = ended is not None or status.get("phase") in ("Succeeded", "Failed")
    interrupted, interruption = _interruption(metadata, status, ended)
    reason, message = _waiting(status, waiting)
    return PodView(
        name=metadata["name"],
        created=moment(metadata.get("creationTimestamp")) or _EPOCH,
        node=(document.get("spec") or {}).get("nodeName"),
        started=moment((ended or running or {}).get("startedAt")),
        finished=moment((ended or {}).get("finishedAt")),
        over=over,
        interrupted=interrupted,
        interruption=interruption,
        exit_code=None if ended is None else int(ended.get("exitCode", 0)),
        exit_reason=str((ended or {}).get("reason") or ""),
        message=str((ended or {}).get("message") or ""),
        waiting=reason,
        waiting_message=message,
        uid=str(metadata.get("uid") or ""),
        index=_completion_index(metadata),
        annotations=metadata.get("annotations") or {},
        deleting="deletionTimestamp" in metadata,
    )


def _completion_index(metadata: Mapping[str, Any]) -> int | None:
    for place in ("annotations", "labels"):
        text = str((metadata.get(place) or {}).get(names.LABEL_COMPLETION_INDEX, ""))
        if text.isdecimal():
            return int(text)
    return None


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = status.get("containerStatuses") or ()
    for entry in statuses:
        if entry.get("name") in (names.TRIAL_CONTAINER, names.TRAINING_CONTAINER):
            state: Mapping[str, Any] = entry.get("state") or {}
            return state
    return {}


def _interruption(
    metadata: Mapping[str, Any], status: Mapping[str, Any], ended: Mapping[str, Any] | None
) -> tuple[str | None, str]:
    disruption = _true_conditions(status).get("DisruptionTarget")
    if disruption is not None:
        return str(disruption.get("reason") or "Disrupted"), str(disruption.get("message") or "")
    if "deletionTimestamp" in metadata:
        return "PodDeleted", f"pod {metadata['name']} was deleted"
    # The kubelet gives a reason to the pod as a whole only where it ended it itself (Evicted, NodeShutdown)
    # or never admitted it (UnexpectedAdmissionError, OutOfcpu).
    if status.get("phase") == "Failed" and (status.get("reason") or ended is None):
        return str(status.get("reason") or "PodFailed"), str(status.get("message") or "")
    if ended is not None and ended.get("reason") == "ContainerStatusUnknown":
        return "ContainerStatusUnknown", str(ended.get("message") or "")
    return None, ""


def _waiting(status: Mapping[str, Any], waiting: Mapping[str, Any] | None) -> tuple[str | None, str]:
    if waiting is not None and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
        return str(waiting["reason"]), str(waiting.get("message") or "")
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "Unschedulable"), str(condition.get("message") or "")
    return None, ""


def _true_conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        str(condition.get("type")): condition
        for condition in status.get("conditions") or ()
        if condition.get("status") == "True"
    }


def controller_uid(document: Manifest) -> str | None:
    """Uid of the owner that controls an object; ``None`` without one."""
    for reference in document["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference.get("uid"))
    return None


_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00Z")
