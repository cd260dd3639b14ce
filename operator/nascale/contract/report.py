"""The report: what a trial's container writes into its termination message before it exits.

The kubelet keeps at most 4,096 bytes of it in the pod's status, so a report never exceeds that. How
many candidates a pod may carry follows from it: see ``max_candidates``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from nascale.contract.document import Document, parse_document
from nascale.contract.errors import ContractError, ReportTooLongError
from nascale.contract.profile_order import ProfileOrder
from nascale.contract.work_order import MAX_CANDIDATES_PER_ORDER, MetricName, ObjectName, WorkOrder

REPORT_VERSION: Final = "nascale.io/report/v1"
MAX_REPORT_BYTES: Final = 4096
MAX_OBJECT_NAME: Final = 63
SHORT_MESSAGE: Final = 80
"""Characters of a candidate's message that always fit; a longer one is cut where the report is full."""

NOISY_MEASUREMENT: Final = "NoisyMeasurement"
"""The reason of a failure that is not the candidate's: its values could not be measured well enough."""

_LONGEST_NUMBER: Final = -2.2250738585072014e-308


class Outcome(StrEnum):
    """How a candidate's work ended, as its container saw it."""

    SUCCEEDED = "Succeeded"
    INFEASIBLE = "Infeasible"
    """A hard constraint is broken, or the network can't be built at this resolution."""
    EARLY_STOPPED = "EarlyStopped"
    """Ended before its fidelity's end because going on could not pay."""
    FAILED = "Failed"
    """The candidate's own error."""


class CandidateReport(Document):
    """One candidate's result."""

    trial: ObjectName
    """Name of the Trial, as the work order gives it."""
    outcome: Outcome
    """How the work ended."""
    reason: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9]{0,39}$")
    """Why, as one word for programs."""
    message: str | None = Field(default=None, max_length=1024)
    """Why, as a sentence for people; cut where the report would be too long."""
    metrics: dict[MetricName, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        default_factory=dict, max_length=16
    )
    """Measured values by metric, each in its metric's unit."""
    device_seconds: float = Field(default=0.0, ge=0)
    """Time that the work held its device, seconds."""


class DeviceReport(Document):
    """Where it ran: a measurement without this is worth little."""

    type: str = Field(max_length=16)
    """``cpu`` or ``cuda``."""
    name: str = Field(max_length=64)
    """A GPU's name as its driver gives it; a processor's model, and its fastest instructions."""
    software: str = Field(default="", max_length=64)
    """For example ``torch 2.15.0``."""
    clock_megahertz: int | None = Field(default=None, ge=0)
    """Clock of the device when it was measured, MHz."""


class Report(Document):
    """One result per candidate of the work order."""

    version: Literal["nascale.io/report/v1"] = REPORT_VERSION
    """Version of the document."""
    attempt: int = Field(default=0, ge=0)
    """Attempt of the work order."""
    results: tuple[CandidateReport, ...] = Field(min_length=1, max_length=MAX_CANDIDATES_PER_ORDER)
    """One result per candidate of the work order."""
    device: DeviceReport | None = None
    """Where it ran."""

    def encode(self) -> bytes:
        """Return the bytes for the termination message; messages are cut where it would be too long.

        Raises:
            ReportTooLongError: it does not fit even without messages.
        """
        for limit in (1024, 256, SHORT_MESSAGE, 0):
            encoded = self._with_messages(limit).to_json().encode()
            if len(encoded) <= MAX_REPORT_BYTES:
                return encoded
        raise ReportTooLongError(
            f"report: must be at most {MAX_REPORT_BYTES} bytes, not {len(encoded)}: "
            f"{len(self.results)} candidates in one pod are too many"
        )

    def _with_messages(self, limit: int) -> Report:
        results = tuple(
            result.model_copy(update={"message": (result.message or "")[:limit] or None})
            for result in self.results
        )
        return self.model_copy(update={"results": results})


def parse_report(text: str, order_trials: Sequence[str] | None = None) -> Report:
    """Read a report, and check that it answers the work order.

    Args:
        text: The pod's termination message.
        order_trials: Names of the trials that the pod was given; ``None`` skips that check.

    Raises:
        UnknownVersionError: the report states another version.
        ReportTooLongError: it exceeds 4,096 bytes (the kubelet would have cut it).
        ContractError: it is not JSON, holds NaN, names another trial or one trial twice.
    """
    size = len(text.encode())
    if size > MAX_REPORT_BYTES:
        raise ReportTooLongError(f"report: must be at most {MAX_REPORT_BYTES} bytes, not {size}")
    report = parse_document(text, Report, REPORT_VERSION, "report")
    names = [result.trial for result in report.results]
    if len(set(names)) != len(names):
        raise ContractError(f"report: results: each trial must appear once, not {sorted(names)}")
    if order_trials is not None:
        foreign = sorted(set(names) - set(order_trials))
        if foreign:
            raise ContractError(
                f"report: results: trial must be one of {sorted(order_trials)}, not {foreign}"
            )
    return report


def max_candidates(metrics: Sequence[str]) -> int:
    """Say how many candidates one pod may carry so that its report always fits 4,096 bytes.

    It is the worst case: names of 63 characters, the longest numbers, a reason and a short message
    for each candidate.
    """
    for count in range(MAX_CANDIDATES_PER_ORDER, 0, -1):
        if _worst_case_bytes(metrics, count) <= MAX_REPORT_BYTES:
            return count
    raise ContractError(
        f"metrics: a report of one candidate with {len(metrics)} metrics must fit {MAX_REPORT_BYTES} bytes"
    )


def check_order(order: WorkOrder | ProfileOrder) -> None:
    """Refuse an order whose report could be too long.

    Raises:
        ContractError: more candidates than ``max_candidates`` allows.
    """
    allowed = max_candidates(order.metrics)
    if len(order.candidates) > allowed:
        raise ContractError(
            f"order: candidates: must be at most {allowed} with {len(order.metrics)} metrics, "
            f"not {len(order.candidates)}"
        )


def _worst_case_bytes(metrics: Sequence[str], count: int) -> int:
    results = tuple(
        CandidateReport.model_construct(
            trial=f"{number:x}" * MAX_OBJECT_NAME,
            outcome=Outcome.EARLY_STOPPED,
            reason="R" * 40,
            message="\\" * SHORT_MESSAGE,
            metrics=dict.fromkeys(metrics, _LONGEST_NUMBER),
            device_seconds=1234567.123456,
        )
        for number in range(count)
    )
    device = DeviceReport(type="x" * 16, name="x" * 64, software="x" * 64, clock_megahertz=10**6)
    report = Report.model_construct(version=REPORT_VERSION, attempt=10**6, results=results, device=device)
    return len(report.to_json().encode())
