"""What an ended attempt means for one trial: its report and its readings, by cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from nascale.api.architecture_search import MetricValue, Objective
from nascale.api.trial import TrialOutcome
from nascale.contract.errors import ContractError, ReportTooLongError, UnknownVersionError
from nascale.contract.report import (
    NOISY_MEASUREMENT,
    CandidateReport,
    DeviceReport,
    Outcome,
    Report,
    parse_report,
)
from nascale.contract.work_order import MetricSource
from nascale.reconcile.actions import Reading, ReadingProblem
from nascale.reconcile.decimals import decimal_text
from nascale.reconcile.objectives import constraint_text, search_objective
from nascale.reconcile.snapshot import PodView

LONGEST_TAIL: Final = 256
"""Characters of a failed container's last words that are kept."""
MOST_METRICS: Final = 24
"""Bound of ``Trial.status.metrics``."""

_TRUSTED_OF_INTERRUPTED: Final = frozenset({Outcome.SUCCEEDED, Outcome.INFEASIBLE})


class Cause(StrEnum):
    """Whose doing it was that an attempt gave no result."""

    OWN_ERROR = "OwnError"
    INFRASTRUCTURE = "Infrastructure"


@dataclass(frozen=True)
class Fallback:
    """A value that Prometheus should have given and did not.

    Attributes:
        metric: Name of the metric.
        problem: What was wrong.
        message: Query and answer, for people.
        replaced: Whether the report's value was taken instead.
    """

    metric: str
    problem: ReadingProblem
    message: str
    replaced: bool


@dataclass(frozen=True)
class Verdict:
    """What an ended attempt means for one trial.

    Attributes:
        outcome: How the trial ended; ``None`` where the attempt gave no result, or readings are missing.
        cause: Whose doing it was that there is no result; ``None`` where there is one.
        reason: CamelCase word.
        message: For people.
        metrics: Measured values.
        fallbacks: Values that Prometheus did not give.
        device: Where it ran.
        awaits_readings: Prometheus has not been asked yet.
        measured: The values were looked for where the objectives say.
        holds_all: The report alone has a value for every objective.
        at_last: How the trial ends where there is no result and no further attempt.
    """

    outcome: TrialOutcome | None
    cause: Cause | None
    reason: str
    message: str = ""
    metrics: tuple[MetricValue, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    device: DeviceReport | None = None
    awaits_readings: bool = False
    measured: bool = False
    holds_all: bool = False
    at_last: TrialOutcome = TrialOutcome.FAILED


def judge(
    trial: str,
    pod: PodView,
    *,
    carried: Sequence[str],
    objectives: Sequence[Objective],
    readings: Mapping[str, Reading] | None,
) -> Verdict:
    """Say what an ended pod means for one of its trials.

    Args:
        trial: Name of the trial.
        pod: Its pod, whose container has ended.
        carried: Names of all trials that the pod was given.
        objectives: Those that the trial must have values for.
        readings: What Prometheus said about this trial, by metric; ``None``: it has not been asked.
    """
    report: Report | None = None
    if pod.message.strip() or pod.exit_code != 0:
        try:
            report = parse_report(pod.message, carried)
        except ContractError as error:
            return _without_report(pod, error)
    # A container that ends well without a report may have shown all its values to Prometheus.
    result = _result_of(trial, report) if report is not None else _EMPTY
    if result is None:
        return _own_error("MissingResult", f"the report of pod {pod.name} holds no result of this trial")
    if pod.interrupted is not None and result.outcome not in _TRUSTED_OF_INTERRUPTED:
        return _interrupted(pod)
    device = None if report is None else report.device
    match result.outcome:
        case Outcome.FAILED:
            return _reported_failure(result)
        case Outcome.SUCCEEDED:
            return _measured(result, device, objectives, readings)
        case Outcome.INFEASIBLE | Outcome.EARLY_STOPPED:
            return _ended_early(result, device)


_EMPTY: Final = CandidateReport(trial="none", outcome=Outcome.SUCCEEDED)


def _result_of(trial: str, report: Report) -> CandidateReport | None:
    return next((result for result in report.results if result.trial == trial), None)


def _without_report(pod: PodView, error: ContractError) -> Verdict:
    if pod.interrupted is not None:
        return _interrupted(pod)
    if pod.exit_reason == "OOMKilled":
        return _own_error("OutOfMemory", f"pod {pod.name} was killed for exceeding its memory limit")
    if pod.exit_code != 0:
        tail = " ".join(pod.message.split())[-LONGEST_TAIL:]
        said = f": {tail}" if tail else ""
        reason = pod.exit_reason if pod.exit_reason not in ("", "Error") else "NonZeroExit"
        return _own_error(reason, f"pod {pod.name} ended with exit code {pod.exit_code}{said}")
    if isinstance(error, ReportTooLongError):
        return _own_error("ReportTooLong", str(error))
    if isinstance(error, UnknownVersionError):
        return _own_error("UnknownReportVersion", str(error))
    return _own_error("InvalidReport", str(error))


def _own_error(reason: str, message: str) -> Verdict:
    return Verdict(outcome=None, cause=Cause.OWN_ERROR, reason=reason, message=message)


def _reported_failure(result: CandidateReport) -> Verdict:
    failure = _own_error(result.reason or "Failed", result.message or "the trial reports its failure")
    if result.reason != NOISY_MEASUREMENT:
        return failure
    # Nothing is wrong with the candidate: it must not count against maxFailedTrials.
    return replace(failure, at_last=TrialOutcome.METRICS_UNAVAILABLE, measured=True)


def _interrupted(pod: PodView) -> Verdict:
    message = pod.interruption or f"pod {pod.name} was interrupted"
    return Verdict(None, Cause.INFRASTRUCTURE, pod.interrupted or "Interrupted", message)


def _ended_early(result: CandidateReport, device: DeviceReport | None) -> Verdict:
    metrics, fault = _texts(result.metrics, {})
    outcome = TrialOutcome(result.outcome.value)
    message = result.message or fault or ""
    return Verdict(outcome, None, result.reason or outcome.value, message, metrics, device=device)


def _measured(
    result: CandidateReport,
    device: DeviceReport | None,
    objectives: Sequence[Objective],
    readings: Mapping[str, Reading] | None,
) -> Verdict:
    asked = [entry for entry in objectives if entry.source is MetricSource.PROMETHEUS]
    if asked and readings is None:
        holds_all = all(entry.metric in result.metrics for entry in objectives)
        return Verdict(None, None, "AwaitingReadings", awaits_readings=True, holds_all=holds_all)
    read: dict[str, float] = {}
    fallbacks: list[Fallback] = []
    for entry in asked:
        reading = (readings or {}).get(entry.metric) or Reading(
            problem=ReadingProblem.UNREACHABLE, message="there was no answer"
        )
        if reading.value is not None and reading.problem is None:
            read[entry.metric] = reading.value
        else:
            fallbacks.append(_fallback(entry, reading, replaced=entry.metric in result.metrics))
    metrics, fault = _texts(result.metrics, read)
    if fault:
        return _own_error("InvalidReport", fault)
    values = {**result.metrics, **read}
    verdict = Verdict(None, None, "", "", metrics, tuple(fallbacks), device)
    return _with_outcome(verdict, values, objectives)


def _with_outcome(verdict: Verdict, values: Mapping[str, float], objectives: Sequence[Objective]) -> Verdict:
    broken = list(_broken_bounds(values, objectives))
    missing = [entry.metric for entry in objectives if entry.metric not in values]
    outcome, reason, message = TrialOutcome.SUCCEEDED, "Measured", ""
    if broken:
        outcome, reason, message = TrialOutcome.INFEASIBLE, "ConstraintBroken", "; ".join(broken)
    elif missing:
        outcome = TrialOutcome.METRICS_UNAVAILABLE
        lost = [fallback for fallback in verdict.fallbacks if not fallback.replaced]
        reason = f"Prometheus{lost[0].problem.value}" if lost else "NotReported"
        unreported = [name for name in missing if name not in {fallback.metric for fallback in lost}]
        parts = [f"{fallback.metric}: {fallback.message}" for fallback in lost]
        parts += [f"{name}: must be in the report, and is not" for name in unreported]
        message = "; ".join(parts)
    return replace(verdict, outcome=outcome, reason=reason, message=message, measured=True)


def _fallback(objective: Objective, reading: Reading, *, replaced: bool) -> Fallback:
    problem = reading.problem or ReadingProblem.NOT_A_NUMBER
    query = f" (query: {objective.query})" if objective.query is not None else ""
    instead = "the report's value was taken" if replaced else "the report has no value either"
    return Fallback(objective.metric, problem, f"{reading.message}{query}; {instead}", replaced=replaced)


def _broken_bounds(values: Mapping[str, float], objectives: Sequence[Objective]) -> Iterator[str]:
    for entry in objectives:
        rule = search_objective(entry)
        value = values.get(entry.metric)
        if rule.hard and value is not None and rule.violation(value) > 0:
            yield f"{entry.metric} {constraint_text(entry)}, not {value:.6g}"


def _texts(
    reported: Mapping[str, float], read: Mapping[str, float]
) -> tuple[tuple[MetricValue, ...], str | None]:
    """Write values as text; say which can't be written."""
    entries: list[MetricValue] = []
    faults: list[str] = []
    # Objectives read from Prometheus come first: the list is bounded.
    sources = [(name, value, MetricSource.PROMETHEUS) for name, value in read.items()]
    sources += [(name, value, MetricSource.REPORT) for name, value in reported.items() if name not in read]
    for name, value, source in sources[:MOST_METRICS]:
        try:
            entries.append(MetricValue(name=name, value=decimal_text(value), source=source))
        except ValueError as error:
            faults.append(f"report: metrics: {name}: {error}")
    return tuple(sorted(entries, key=lambda entry: entry.name)), "; ".join(faults) or None
