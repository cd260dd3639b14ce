"""How far a generation has come: from its Job and pods, by cause.

Rank 0's pod decides: its report ends the generation, seconds before the Job controller's own word. Without
a report that word is awaited, because only it says whether another pod follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from nascale.contract import exit_codes
from nascale.contract.errors import ContractError
from nascale.contract.run_report import RunOutcome, RunReport, parse_run_report
from nascale.reconcile.snapshot import PodView
from nascale.reconcile.training_generations import Generation
from nascale.reconcile.trial_progress import IMAGE_PROBLEMS, SETTLING_SECONDS
from nascale.reconcile.verdict import LONGEST_TAIL

REFUSED_EXIT_CODE: Final = exit_codes.UNUSABLE_ORDER
"""A container that can't use its order ends so; the Job does not start it again."""


class RunStage(StrEnum):
    """Stages of one generation."""

    QUEUED = "Queued"
    """Its Job is suspended: by us, or because a queue has not admitted it."""
    PENDING = "Pending"
    """Not all of its containers run yet."""
    BLOCKED = "Blocked"
    """A container can't run until somebody does something: image, quota, no node that fits."""
    RUNNING = "Running"
    SETTLING = "Settling"
    """Something has ended; what it means will be seen shortly."""
    REPORTED = "Reported"
    """Rank 0 has reported the generation's end."""
    DIED = "Died"
    """It ended by an error of its own, without a report."""
    INTERRUPTED = "Interrupted"
    """The infrastructure ended it, and its Job does not go on."""


@dataclass(frozen=True)
class RunProgress:
    """Where a generation stands.

    Attributes:
        stage: Its stage.
        reason: CamelCase word for it.
        message: What to tell people.
        report: Rank 0's report.
        pod: The pod that this was seen on.
        look_again_seconds: When to look again without any event.
    """

    stage: RunStage
    reason: str
    message: str = ""
    report: RunReport | None = None
    pod: PodView | None = None
    look_again_seconds: float | None = None


def follow_generation(generation: Generation, *, problem: str | None, now: datetime) -> RunProgress:
    """Say how far a generation has come.

    Args:
        generation: Its Job and pods.
        problem: Latest warning about pods that the Job can't create (quota, admission).
        now: The clock.
    """
    job = generation.job
    found = _reported(generation)
    if found is not None:
        return found
    if job.finished:
        return _after_job(generation, now)
    if job.deleting:
        return RunProgress(RunStage.SETTLING, "JobIsBeingDeleted", f"Job {job.name} is being deleted")
    if job.suspended:
        return RunProgress(RunStage.QUEUED, "JobSuspended", f"Job {job.name} is suspended")
    return _alive(generation, problem)


def _reported(generation: Generation) -> RunProgress | None:
    for pod in generation.leaders:
        report = report_of(pod, generation.number)
        if report is not None:
            said = report.message or f"generation {generation.number} ended as {report.outcome.value}"
            reason = report.reason or report.outcome.value
            return RunProgress(RunStage.REPORTED, reason, said, report=report, pod=pod)
    return None


def report_of(pod: PodView, number: int) -> RunReport | None:
    """Return the report that a pod has left, if it is one of this generation."""
    if not pod.over or not pod.message.lstrip().startswith("{"):
        return None
    try:
        report = parse_run_report(pod.message)
    except ContractError:
        return None
    return report if report.generation == number else None


def _after_job(generation: Generation, now: datetime) -> RunProgress:
    job = generation.job
    age = (now - (job.settled or now)).total_seconds()
    leader_over = bool(generation.leaders) and all(pod.over for pod in generation.leaders)
    if age < SETTLING_SECONDS and not leader_over:
        # The pod's own end may not have been seen yet, and it may hold a report.
        wait = max(0.1, SETTLING_SECONDS - age)
        return RunProgress(RunStage.SETTLING, "AwaitingPod", look_again_seconds=wait)
    failures = [pod for pod in generation.pods if pod.over and pod.interrupted is None and pod.exit_code]
    other = _report_of_others(generation)
    if other is not None:
        return other
    if not failures:
        return _without_failure(generation)
    # Rank 0's word first; the others' errors mostly follow from its own.
    first = min(failures, key=lambda pod: (pod.exit_reason != "OOMKilled", pod.index or 0, -_age(pod)))
    return RunProgress(RunStage.DIED, *_cause(first, job.failure), pod=first)


def _age(pod: PodView) -> float:
    return pod.created.timestamp()


def _report_of_others(generation: Generation) -> RunProgress | None:
    for pod in reversed(generation.pods):
        report = report_of(pod, generation.number)
        if report is not None and report.outcome in (RunOutcome.REFUSED, RunOutcome.FAILED):
            said = report.message or f"pod {pod.name} ended as {report.outcome.value}"
            return RunProgress(
                RunStage.REPORTED, report.reason or report.outcome.value, said, report=report, pod=pod
            )
    return None


def _without_failure(generation: Generation) -> RunProgress:
    job = generation.job
    last = next((pod for pod in reversed(generation.pods) if pod.interrupted is not None), None)
    if last is not None and last.interrupted is not None:
        said = last.interruption or f"pod {last.name} was interrupted"
        return RunProgress(RunStage.INTERRUPTED, last.interrupted, said, pod=last)
    leader = next(iter(generation.leaders), None)
    if job.complete and leader is not None:
        said = f"pod {leader.name} ended without a run report: {_tail(leader) or 'it left no message'}"
        return RunProgress(RunStage.DIED, "InvalidReport", said, pod=leader)
    said = f"the pods of Job {job.name} are gone, and with them their report"
    return RunProgress(RunStage.INTERRUPTED, "PodLost", said)


def _cause(pod: PodView, failure: str) -> tuple[str, str]:
    if pod.exit_reason == "OOMKilled":
        return "OutOfMemory", f"pod {pod.name} was killed for exceeding its memory limit"
    tail = _tail(pod)
    said = f"pod {pod.name} ended with exit code {pod.exit_code}{': ' + tail if tail else ''}"
    if pod.exit_code == REFUSED_EXIT_CODE:
        return "Refused", said
    reason = pod.exit_reason if pod.exit_reason not in ("", "Error") else "NonZeroExit"
    return reason, f"{said}; {failure}" if failure else said


def _tail(pod: PodView) -> str:
    return " ".join(pod.message.split())[-LONGEST_TAIL:]


def _alive(generation: Generation, problem: str | None) -> RunProgress:
    job, live = generation.job, generation.live
    workers = 1 if generation.order is None else generation.order.workers
    running = [pod for pod in live if pod.running]
    if len(running) >= workers:
        leader = generation.leader
        return RunProgress(RunStage.RUNNING, "PodsRunning", f"{workers} workers run", pod=leader)
    for pod in live:
        if pod.waiting is not None:
            reason = "ImagePullFailed" if pod.waiting in IMAGE_PROBLEMS else pod.waiting
            said = f"pod {pod.name}: {pod.waiting}: {pod.waiting_message}".rstrip(": ")
            return RunProgress(RunStage.BLOCKED, reason, said, pod=pod)
    if len(live) < workers and problem is not None:
        return RunProgress(RunStage.BLOCKED, "PodsNotCreated", problem)
    replaced = next((pod for pod in reversed(generation.pods) if pod.over), None)
    if replaced is not None:
        said = f"{len(running)} of {workers} workers run; pod {replaced.name} is replaced"
        return RunProgress(RunStage.PENDING, "Restarting", said, pod=replaced)
    said = f"{len(running)} of {workers} workers of Job {job.name} run"
    return RunProgress(RunStage.PENDING, "Starting", said)
