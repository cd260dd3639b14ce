"""The status of a Trial: what each step of its course writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from nascale.api.trial import DeviceUsed, TrialOutcome, TrialStatus
from nascale.reconcile.conditions import Assertion, TrialCondition, assertion, shortened, updated
from nascale.reconcile.decimals import short
from nascale.reconcile.snapshot import PodView
from nascale.reconcile.trial_progress import Progress
from nascale.reconcile.verdict import Fallback, Verdict


def changes(old: TrialStatus, new: TrialStatus) -> dict[str, Any]:
    """Return the merge patch from one status to another; empty where they are equal."""
    before, after = old.to_dict(), new.to_dict()
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    patch.update({key: value for key, value in after.items() if before.get(key) != value})
    return patch


def running(status: TrialStatus, job: str, progress: Progress, now: datetime) -> TrialStatus:
    """Record that the container runs."""
    pod = progress.pod
    if pod is None:
        return status
    said = assertion(TrialCondition.RUNNING, True, "PodRunning", f"pod {pod.name} runs")
    update = {
        "conditions": _set(status, [said], now),
        "job_name": job,
        "pod_name": pod.name,
        "start_time": pod.started,
        "next_attempt_time": None,
    }
    return status.model_copy(update=update)


def not_running(status: TrialStatus, reason: str, message: str, now: datetime) -> TrialStatus:
    """Record why no container runs."""
    said = assertion(TrialCondition.RUNNING, False, reason, message)
    return status.model_copy(
        update={
            "conditions": _set(status, [said], now),
            "pod_name": None,
            "start_time": None,
        }
    )


def repeated(
    status: TrialStatus,
    *,
    reason: str,
    message: str,
    own_failure: bool,
    wait: timedelta,
    device_seconds: int,
    now: datetime,
) -> TrialStatus:
    """Record that an attempt gave no result and that there will be another one.

    Args:
        status: As observed.
        reason: Why there is no result.
        message: The same, for people.
        own_failure: Whether the trial itself failed.
        wait: How long until the next attempt may start.
        device_seconds: What the lost attempt cost.
        now: The clock.
    """
    stopped = not_running(status, reason, message, now)
    return stopped.model_copy(
        update={
            "attempt": status.attempt + 1,
            "own_failures": status.own_failures + int(own_failure),
            "next_attempt_time": now + wait if wait else None,
            "job_name": None,
            "device_seconds": status.device_seconds + device_seconds,
        }
    )


def ended(
    status: TrialStatus,
    verdict: Verdict,
    outcome: TrialOutcome,
    *,
    job: str | None,
    pod: PodView | None,
    objectives: Sequence[str],
    device_seconds: int,
    now: datetime,
) -> TrialStatus:
    """Record how a trial ended.

    Args:
        status: As observed.
        verdict: What the last attempt means.
        outcome: How the trial ended.
        job: Name of the last attempt's Job.
        pod: The last attempt's pod.
        objectives: Metrics of the objectives, for the summary.
        device_seconds: What the last attempt cost.
        now: The clock.
    """
    said = [
        assertion(TrialCondition.RUNNING, False, "Ended", ""),
        assertion(TrialCondition.ENDED, True, verdict.reason, verdict.message),
    ]
    if verdict.measured:
        said.append(_metrics_available(verdict))
    values = {entry.name: float(entry.value) for entry in verdict.metrics}
    shown = [f"{metric}={short(values[metric])}" for metric in objectives if metric in values]
    update: dict[str, Any] = {
        "conditions": _set(status, said, now),
        "outcome": outcome,
        "own_failures": status.own_failures + int(outcome is TrialOutcome.FAILED),
        "next_attempt_time": None,
        "completion_time": (pod.finished if pod is not None else None) or now,
        "device_seconds": status.device_seconds + device_seconds,
        "metrics": verdict.metrics,
        "summary": shortened(" ".join(shown), 256) or None,
    }
    if job is not None:
        update["job_name"] = job
    if pod is not None:
        update |= {"pod_name": pod.name, "start_time": pod.started, "device": _device(verdict, pod)}
    return status.model_copy(update=update)


def _metrics_available(verdict: Verdict) -> Assertion:
    kind = TrialCondition.METRICS_AVAILABLE
    if verdict.fallbacks:
        first = verdict.fallbacks[0]
        message = "; ".join(f"{entry.metric}: {entry.message}" for entry in verdict.fallbacks)
        return assertion(kind, False, _reason(first), message)
    if verdict.outcome is TrialOutcome.METRICS_UNAVAILABLE:
        return assertion(kind, False, verdict.reason, verdict.message)
    sources = sorted({entry.source.value for entry in verdict.metrics})
    return assertion(kind, True, "AllRead", f"read from: {', '.join(sources)}")


def _reason(fallback: Fallback) -> str:
    return f"Prometheus{fallback.problem.value}"


def _device(verdict: Verdict, pod: PodView) -> DeviceUsed | None:
    device = verdict.device
    if device is None:
        return None if pod.node is None else DeviceUsed(node=pod.node)
    return DeviceUsed(
        node=pod.node,
        type=device.type,
        name=device.name,
        software=device.software or None,
        clock_megahertz=device.clock_megahertz,
    )


def _set(status: TrialStatus, said: Sequence[Assertion], now: datetime) -> Any:
    return updated(status.conditions, said, generation=None, now=now)
