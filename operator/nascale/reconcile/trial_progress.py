"""How far a trial's Job has come: from the Job and its pods, by cause.

A container that ended by itself counts at once: the Job controller's word comes about a second later.
Where somebody else ended the pod (eviction, suspension, deletion, deadline), that word is awaited,
because only it says whether the Job goes on with another pod.

Of several pods that work together the first one reports; the others count where they fail, and where they
are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from nascale.contract import exit_codes
from nascale.reconcile.snapshot import JobView, PodView

SETTLING_SECONDS: Final = 10.0
"""How long the pod of a finished Job may still be missing, or look alive: its own watch may lag behind."""
_STUCK_PODS_SECONDS: Final = 60.0
"""After that a pod that should be gone (its node is lost, say) is waited for no longer."""

IMAGE_PROBLEMS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)

_AFTER_OTHERS: Final = frozenset({exit_codes.PEER_LOST, exit_codes.TERMINATED})
"""Exit codes of a pod that has lost another, or was asked to end."""


class Stage(StrEnum):
    """Stages of one attempt."""

    ABSENT = "Absent"
    """There is no Job."""
    QUEUED = "Queued"
    """The Job is suspended: by the search, or because a queue has not admitted it."""
    PENDING = "Pending"
    """No container runs yet."""
    BLOCKED = "Blocked"
    """No container can run until somebody does something: image, quota, no node that fits."""
    RUNNING = "Running"
    SETTLING = "Settling"
    """Something has ended; what it means will be seen shortly."""
    ENDED = "Ended"
    """The container ended by itself; its termination message counts."""
    INTERRUPTED = "Interrupted"
    """The infrastructure ended it, and the Job does not go on."""
    OUT_OF_TIME = "OutOfTime"
    """The deadline of one pod passed while the container ran."""


@dataclass(frozen=True)
class Progress:
    """Where an attempt stands.

    Attributes:
        stage: Its stage.
        reason: CamelCase word for it.
        message: What to tell people.
        pod: The pod that this was seen on.
        since: Since when it is blocked.
        look_again_seconds: When to look again without any event.
    """

    stage: Stage
    reason: str
    message: str = ""
    pod: PodView | None = None
    since: datetime | None = None
    look_again_seconds: float | None = None


def follow(  # noqa: PLR0911 - a decision list: the first answer that fits
    job: JobView | None,
    pods: Sequence[PodView],
    *,
    problem: str | None,
    was_running: bool,
    now: datetime,
) -> Progress:
    """Say how far one attempt has come.

    Args:
        job: The attempt's Job.
        pods: Its pods, oldest first.
        problem: Latest warning about pods that the Job can't create (quota, admission).
        was_running: Whether the attempt has been seen running before.
        now: The clock.
    """
    if job is None:
        return Progress(Stage.ABSENT, "NoJob")
    ended = _telling_end(pods)
    if ended is not None:
        return Progress(Stage.ENDED, "PodEnded", pod=ended)
    if job.finished:
        return _after_job(job, pods, was_running=was_running, now=now)
    if job.deleting:
        return Progress(Stage.SETTLING, "JobIsBeingDeleted", f"Job {job.name} is being deleted")
    if job.suspended:
        return Progress(Stage.QUEUED, "JobSuspended", f"Job {job.name} is suspended")
    live = [pod for pod in reversed(pods) if not pod.over and pod.interrupted is None]
    if not live:
        return _without_pod(job, pods, problem)
    live.sort(key=_place)
    starting = next((pod for pod in live if not pod.running), None)
    if starting is not None:
        return _starting(starting)
    if job.workers > 1 and (missing := _missing(job, pods, live)):
        if problem is not None:
            return Progress(Stage.BLOCKED, "PodsNotCreated", problem, since=job.created)
        message = f"Job {job.name} lacks {missing} of {job.workers} pods"
        return Progress(Stage.PENDING, "AwaitingPods", message, pod=live[0])
    return Progress(Stage.RUNNING, "PodRunning", f"pod {live[0].name} runs", pod=live[0])


def _telling_end(pods: Sequence[PodView]) -> PodView | None:
    """Return the pod whose end says what has become of the attempt; ``None``: it has not ended."""
    counted = [pod for pod in reversed(pods) if _counts(pod)]
    first = [pod for pod in counted if _place(pod) == 0][:1]
    failed = [pod for pod in counted if _place(pod) > 0 and pod.exit_code != 0]
    return max((*first, *failed), key=_tells, default=None)


def _tells(pod: PodView) -> int:
    """Rank how much a pod's end says: a report, memory, an error; that a peer was lost says nothing."""
    if pod.exit_code == 0:
        return 3
    if pod.exit_reason == "OOMKilled":
        return 2
    return int(pod.exit_code not in _AFTER_OTHERS)


def _place(pod: PodView) -> int:
    return pod.index or 0


def _missing(job: JobView, pods: Sequence[PodView], live: Sequence[PodView]) -> int:
    there = {_place(pod) for pod in live} | {_place(pod) for pod in pods if pod.exit_code == 0}
    return job.workers - len(there)


def _counts(pod: PodView) -> bool:
    # A pod that was told to stop may have finished its work first: then it exits with 0 and a report.
    return pod.exit_code is not None and (
        pod.interrupted is None or (pod.exit_code == 0 and bool(pod.message))
    )


def _after_job(job: JobView, pods: Sequence[PodView], *, was_running: bool, now: datetime) -> Progress:
    age = (now - (job.settled or now)).total_seconds()
    last = pods[-1] if pods else None
    # The pod's own end may not have been seen yet, and it may hold a report.
    patience = SETTLING_SECONDS if last is None or last.over else _STUCK_PODS_SECONDS
    surely_over = last is not None and last.over
    if age < patience and not surely_over:
        wait = patience - age
        return Progress(Stage.SETTLING, "AwaitingPod", pod=last, look_again_seconds=max(0.1, wait))
    # The deadline deletes the pod; a pod that was disrupted before is the infrastructure's matter.
    disrupted = last is not None and last.interrupted not in (None, "PodDeleted")
    if job.failed == "DeadlineExceeded" and not disrupted:
        started = was_running or any(pod.started is not None for pod in pods)
        if started:
            return Progress(Stage.OUT_OF_TIME, "DeadlineExceeded", job.failure, pod=last)
        message = f"Job {job.name} reached its deadline before its container could start"
        return Progress(Stage.INTERRUPTED, "NeverStarted", message, pod=last)
    interrupted = next((pod for pod in reversed(pods) if pod.interrupted is not None), None)
    if interrupted is not None and interrupted.interrupted is not None:
        message = interrupted.interruption or f"pod {interrupted.name} was interrupted"
        return Progress(Stage.INTERRUPTED, interrupted.interrupted, message, pod=interrupted)
    message = f"the pod of Job {job.name} is gone, and with it its report"
    return Progress(Stage.INTERRUPTED, "PodLost", message, pod=last)


def _without_pod(job: JobView, pods: Sequence[PodView], problem: str | None) -> Progress:
    if pods:
        last = pods[-1]
        message = f"pod {last.name}: {last.interruption or 'interrupted'}; its Job replaces it"
        return Progress(Stage.PENDING, last.interrupted or "AwaitingReplacement", message, pod=last)
    if problem is not None:
        return Progress(Stage.BLOCKED, "PodsNotCreated", problem, since=job.created)
    return Progress(Stage.PENDING, "AwaitingPod", f"Job {job.name} has no pod yet")


def _starting(pod: PodView) -> Progress:
    if pod.waiting is None:
        return Progress(Stage.PENDING, "ContainerCreating", f"pod {pod.name} starts", pod=pod)
    reason = "ImagePullFailed" if pod.waiting in IMAGE_PROBLEMS else pod.waiting
    message = f"pod {pod.name}: {pod.waiting}: {pod.waiting_message}".rstrip(": ")
    return Progress(Stage.BLOCKED, reason, message, pod=pod, since=pod.created)


def blocked_for(progress: Progress, now: datetime) -> timedelta:
    """Return how long an attempt has been blocked."""
    return timedelta() if progress.since is None else max(timedelta(), now - progress.since)
