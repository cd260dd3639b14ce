"""One trial on its way: what each stage of its attempt writes, tells and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from nascale.api.trial import TrialOutcome
from nascale.reconcile import trial_status
from nascale.reconcile.actions import Reading, ReadMetrics
from nascale.reconcile.conditions import TrialCondition, find
from nascale.reconcile.draft import Draft
from nascale.reconcile.job_manifest import devices_per_pod
from nascale.reconcile.naming import backoff_seconds
from nascale.reconcile.owner_context import OwnerContext
from nascale.reconcile.prometheus_queries import queries_for
from nascale.reconcile.snapshot import JobView, PodView, TrialView
from nascale.reconcile.trial_progress import Progress, Stage
from nascale.reconcile.verdict import Cause, Verdict, judge

RUNNING_SHOWN_AFTER: Final = timedelta(seconds=2)
"""A trial that ends sooner is never shown as running: that saves two of its six writes."""
_SHORT_DEADLINE_SECONDS: Final = 10
"""Below it every run is shown at once: a deadline that passes must find out whether the trial had begun."""
BLOCKED_SHOWN_AFTER: Final = timedelta(seconds=60)
"""Autoscalers and slow registries get that long before a blocked trial is called so."""
_REPORT_PATIENCE_SECONDS: Final = 5.0
"""Where the report has the value too, an unreachable Prometheus holds up its owner no longer than that."""


@dataclass(frozen=True)
class Attempt:
    """A trial that has not ended.

    Attributes:
        view: The trial, as it will be.
        job: The Job of its present attempt; ``None``: it waits for one.
        progress: Where the attempt stands.
    """

    view: TrialView
    job: JobView | None
    progress: Progress


@dataclass(frozen=True)
class Circumstances:
    """What an observation says beside the objects themselves.

    Attributes:
        readings: What Prometheus said, by trial and metric.
        problems: Warnings about Jobs without pods, by Job.
    """

    readings: Mapping[str, Mapping[str, Reading]]
    problems: Mapping[str, str]


WAITING: Final = Progress(Stage.ABSENT, "AwaitingJob")


def end_foreign(context: OwnerContext, view: TrialView, draft: Draft) -> None:
    """End a trial whose parameters another version of the operator, or somebody else, has written."""
    message = f"the parameters must be of the {context.noun}'s space, and are not"
    verdict = Verdict(TrialOutcome.FAILED, None, "ForeignParameters", message)
    status = trial_status.ended(
        view.status,
        verdict,
        TrialOutcome.FAILED,
        job=None,
        pod=None,
        objectives=(),
        device_seconds=0,
        now=context.now,
    )
    draft.write(view, status)
    draft.count("trials_finished", {"outcome": TrialOutcome.FAILED.value})
    draft.tell("TrialFailed", f"{view.name}: {message}", warning=True)


@dataclass(frozen=True)
class TrialCourse:
    """One trial on its way: what each stage of its attempt leads to."""

    context: OwnerContext
    draft: Draft
    view: TrialView
    job: JobView | None
    pods: Sequence[PodView]
    circumstances: Circumstances

    def take(self, progress: Progress) -> Attempt | None:
        """Write what follows from the progress; ``None``: the trial has ended."""
        self.draft.look_again(progress.look_again_seconds)
        if progress.stage in (Stage.QUEUED, Stage.PENDING, Stage.BLOCKED, Stage.RUNNING):
            return self._without_lost_pod(progress).go_on(progress)
        match progress.stage:
            case Stage.ABSENT:
                return self._absent(progress)
            case Stage.INTERRUPTED:
                return self._repeat(Cause.INFRASTRUCTURE, progress.reason, progress.message)
            case Stage.OUT_OF_TIME:
                return self._out_of_time(progress)
            case Stage.ENDED:
                return self._ended(progress)
            case _:
                return Attempt(self.view, self.job, progress)

    def go_on(self, progress: Progress) -> Attempt:
        """Write what follows for an attempt that has not ended."""
        if progress.stage is Stage.RUNNING:
            return self._running(progress)
        if progress.stage is Stage.BLOCKED:
            return self._blocked(progress)
        return Attempt(self.view, self.job, progress)

    def _absent(self, progress: Progress) -> Attempt | None:
        lost = self.view.status.job_name
        if lost is None:
            return Attempt(self.view, None, progress)
        return self._repeat(Cause.INFRASTRUCTURE, "JobLost", f"Job {lost} is gone, and with it its report")

    def _running(self, progress: Progress) -> Attempt:
        pod, view = progress.pod, self.view
        if pod is not None and self.job is not None and pod.started is not None:
            short = self.context.owner.spec.budget.trial_deadline_seconds < _SHORT_DEADLINE_SECONDS
            shown_from = pod.started + (timedelta() if short else RUNNING_SHOWN_AFTER)
            if self.context.now < shown_from:
                self.draft.look_again_at(shown_from, self.context.now)
            elif view.status.pod_name != pod.name or view.status.start_time != pod.started:
                status = trial_status.running(view.status, self.job.name, progress, self.context.now)
                view = self.draft.write(view, status)
        return Attempt(view, self.job, progress)

    def _without_lost_pod(self, progress: Progress) -> TrialCourse:
        """Record that the pod which was seen running is not any more, and that its Job goes on without it."""
        name, status = self.view.status.pod_name, self.view.status
        lost = next((pod for pod in self.pods if pod.name == name), None)
        if name is None or (lost is not None and not lost.over):
            return self
        disrupted = lost is not None and lost.interrupted not in (None, "PodDeleted")
        awaits_verdict = progress.stage is Stage.PENDING and (progress.pod is None or progress.pod is lost)
        if not disrupted and awaits_verdict:
            return self
        reason, message = progress.reason, progress.message
        if disrupted and lost is not None:
            reason = lost.interrupted or reason
            message = f"pod {lost.name}: {lost.interruption or 'interrupted'}; its Job replaces it"
            text = f"{self.view.name}: {message} (not counted as a failure)"
            self.draft.tell("TrialRetried", text, trial=self.view.name, warning=True)
            self.draft.count("trial_retries", {"cause": Cause.INFRASTRUCTURE.value})
        after = trial_status.not_running(status, reason, message, self.context.now)
        return replace(self, view=self.draft.write(self.view, after))

    def _blocked(self, progress: Progress) -> Attempt:
        shown_from = (progress.since or self.context.now) + BLOCKED_SHOWN_AFTER
        if self.context.now < shown_from:
            self.draft.look_again_at(shown_from, self.context.now)
            return Attempt(self.view, self.job, progress)
        said = find(self.view.status.conditions, TrialCondition.RUNNING)
        if said is not None and said.reason == progress.reason:
            # The message alone may change with every pull: that is no news.
            return Attempt(self.view, self.job, progress)
        status = trial_status.not_running(
            self.view.status, progress.reason, progress.message, self.context.now
        )
        message = f"{self.view.name}: {progress.message}; it starts as soon as that is solved"
        self.draft.tell("TrialBlocked", message, trial=self.view.name, warning=True)
        return Attempt(self.draft.write(self.view, status), self.job, progress)

    def _ended(self, progress: Progress) -> Attempt | None:
        pod, job = progress.pod, self.job
        if pod is None or job is None:
            return Attempt(self.view, job, progress)
        verdict = judge(
            self.view.name,
            pod,
            carried=job.trials,
            objectives=self.context.objectives_of(self.view),
            readings=self.circumstances.readings.get(self.view.name),
        )
        if verdict.awaits_readings:
            self._ask_prometheus(pod, verdict)
            return Attempt(self.view, job, progress)
        if verdict.cause is Cause.INFRASTRUCTURE:
            if not job.finished:
                # The Job controller replaces the pod by itself.
                message = f"pod {pod.name}: {verdict.message}; its Job replaces it"
                return self.take(Progress(Stage.PENDING, verdict.reason, message, pod=pod))
            return self._repeat(verdict.cause, verdict.reason, verdict.message)
        if verdict.cause is Cause.OWN_ERROR and self._may_repeat:
            return self._repeat(verdict.cause, verdict.reason, verdict.message)
        self._end(verdict, pod)
        return None

    def _out_of_time(self, progress: Progress) -> Attempt | None:
        seconds = self.context.owner.spec.budget.trial_deadline_seconds
        message = f"must end within trialDeadlineSeconds ({seconds} s)"
        shared = self.job is not None and len(self.job.trials) > 1
        if shared and self._may_repeat:
            # Alone it may well end in time.
            return self._repeat(Cause.OWN_ERROR, "DeadlineExceeded", message)
        self._end(Verdict(None, Cause.OWN_ERROR, "DeadlineExceeded", message), progress.pod)
        return None

    @property
    def _may_repeat(self) -> bool:
        return self.view.status.own_failures < self.context.owner.spec.budget.trial_retries

    def _ask_prometheus(self, pod: PodView, verdict: Verdict) -> None:
        end = pod.finished or self.context.now
        start = pod.started or end
        queries = queries_for(
            self.context.objectives_of(self.view),
            trial=self.view.name,
            pod=pod.name,
            namespace=self.context.owner.metadata.namespace,
            lifetime_seconds=(self.context.now - start).total_seconds(),
        )
        patience = float(self.context.owner.spec.metrics_collection.timeout_seconds)
        if verdict.holds_all:
            patience = min(patience, _REPORT_PATIENCE_SECONDS)
        self.draft.act(
            ReadMetrics(
                self.view.name,
                pod.name,
                queries,
                start.timestamp(),
                end.timestamp(),
                patience_seconds=patience,
            )
        )

    def _repeat(self, cause: Cause, reason: str, message: str) -> Attempt:
        status, now = self.view.status, self.context.now
        own = cause is Cause.OWN_ERROR
        interruptions = status.attempt - status.own_failures
        key = self.job.name if self.job is not None else self.view.name
        wait = timedelta() if own else timedelta(seconds=round(backoff_seconds(key, interruptions)))
        left = self.context.owner.spec.budget.trial_retries - status.own_failures - 1
        following = (
            f"{left} more may follow" if own else f"not counted as a failure; next in {wait.seconds} s"
        )
        text = f"{self.view.name}: attempt {status.attempt} gave no result: {message} ({following})"
        self.draft.tell("TrialRetried", text, trial=self.view.name, warning=True)
        self.draft.count("trial_retries", {"cause": cause.value})
        after = trial_status.repeated(
            status,
            reason=reason,
            message=message,
            own_failure=own,
            wait=wait,
            device_seconds=self._device_seconds(),
            now=now,
        )
        return Attempt(self.draft.write(self.view, after), None, WAITING)

    def _end(self, verdict: Verdict, pod: PodView | None) -> None:
        outcome = verdict.outcome or verdict.at_last
        verdict = replace(verdict, outcome=outcome)
        status = trial_status.ended(
            self.view.status,
            verdict,
            outcome,
            job=None if self.job is None else self.job.name,
            pod=pod,
            objectives=[entry.metric for entry in self.context.objectives],
            device_seconds=self._device_seconds(),
            now=self.context.now,
        )
        self.draft.write(self.view, status)
        self.draft.count("trials_finished", {"outcome": outcome.value})
        if pod is not None and pod.started is not None:
            if self.view.status.attempt == 0:
                waited = (pod.started - self.view.created).total_seconds()
                self.draft.count("trial_wait_seconds", amount=max(0.0, waited))
            ran = ((pod.finished or self.context.now) - pod.started).total_seconds()
            self.draft.count("trial_run_seconds", amount=max(0.0, ran))
        for fallback in verdict.fallbacks:
            if fallback.replaced:
                self.draft.count("prometheus_fallbacks", {"reason": fallback.problem.value})
        if outcome is TrialOutcome.FAILED:
            self.draft.tell(
                "TrialFailed", f"{self.view.name}: {verdict.reason}: {verdict.message}", warning=True
            )
        elif outcome is TrialOutcome.METRICS_UNAVAILABLE:
            self.draft.tell("MetricsUnavailable", f"{self.view.name}: {verdict.message}", warning=True)

    def _device_seconds(self) -> int:
        return 0 if self.job is None else device_share(self.context, self.view.name, self.job, self.pods)


def device_share(context: OwnerContext, trial: str, job: JobView, pods: Sequence[PodView]) -> int:
    """Return a trial's part of the seconds that its Job's pods have held their devices so far.

    The parts of the trials that share a pod differ by at most one second, and add up to the whole.
    """
    held = sum(
        max(0.0, ((pod.finished or context.now) - pod.started).total_seconds())
        for pod in pods
        if pod.started is not None
    )
    whole, remainder = divmod(int(held) * devices_per_pod(context.owner), max(1, len(job.trials)))
    return whole + int(trial in job.trials[:remainder])
