"""The trainer's side of the contract, for training code of your own: read the work order, write the report.

No torch, no numpy: any Python that has pydantic can use it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from nascale.contract import environment
from nascale.contract.document import describe
from nascale.contract.errors import ContractError, ReportTooLongError
from nascale.contract.profile_order import ProfileOrder
from nascale.contract.report import CandidateReport, DeviceReport, Outcome, Report, check_order
from nascale.contract.work_order import MAX_CANDIDATES_PER_ORDER, WorkOrder, parse_work_order
from nascale_trainer.durable_file import write_termination_message

MAX_ORDER_BYTES: Final = 1 << 20
"""A ConfigMap holds at most 1 MiB, so no honest work order is larger."""


def load_work_order(environ: Mapping[str, str] | None = None) -> WorkOrder:
    """Read the work order that this container was started for.

    It stands in ``NASCALE_WORK_ORDER`` or in the file that ``NASCALE_WORK_ORDER_FILE`` names.

    Args:
        environ: The environment; ``None`` means that of the process.

    Raises:
        ContractError: there is none, the file can't be read, the document is not a work order of the
            version that this release reads, or it has more candidates than a report can hold.
    """
    order = parse_work_order(read_work_order_text(os.environ if environ is None else environ))
    names = [candidate.trial for candidate in order.candidates]
    if len(set(names)) != len(names):
        raise ContractError(f"work order: candidates: each trial must appear once, not {sorted(names)}")
    check_order(order)
    return order


def read_work_order_text(environ: Mapping[str, str]) -> str:
    """Return the work order's text, unread.

    Raises:
        ContractError: neither variable is set, or the file can't be read.
    """
    text = environ.get(environment.WORK_ORDER)
    if text:
        return text
    name = environ.get(environment.WORK_ORDER_FILE)
    if not name:
        raise ContractError(
            f"environment: {environment.WORK_ORDER} or {environment.WORK_ORDER_FILE} must be set: "
            "this container is started by nascale's operator"
        )
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_ORDER_BYTES + 1)
        if len(content) > MAX_ORDER_BYTES:
            raise ContractError(
                f"{environment.WORK_ORDER_FILE}: {name} must be at most {MAX_ORDER_BYTES} bytes"
            )
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(
            f"{environment.WORK_ORDER_FILE}: must be a readable file of text: {error}"
        ) from error


def report(
    order: WorkOrder | ProfileOrder,
    results: Iterable[CandidateReport] | Mapping[str, Mapping[str, float]],
    *,
    device: DeviceReport | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Write the report, atomically, to the file that ``NASCALE_TERMINATION_LOG`` names.

    Call it once, before the process exits.

    Args:
        order: The work order, or the profile order, that this answers.
        results: One result per candidate; as a short form for candidates that all succeeded, a mapping
            from trial to its metrics.
        device: Where it ran.
        environ: The environment; ``None`` means that of the process.

    Raises:
        ContractError: a trial is not in the order or appears twice, a metric that the order asks for is
            missing from a succeeded candidate, a value is NaN or infinite, or it exceeds 4,096 bytes even
            with nothing but the metrics that the order asks for.
        OSError: the file can't be written.
    """
    listed = _as_results(results)
    names = [result.trial for result in listed]
    known = [candidate.trial for candidate in order.candidates]
    if not names or len(set(names)) != len(names) or set(names) - set(known):
        raise ContractError(f"report: results: must name trials of {known}, each once, not {names}")
    for result in listed:
        missing = sorted(set(order.metrics) - set(result.metrics))
        if result.outcome is Outcome.SUCCEEDED and missing:
            raise ContractError(
                f"report: results: {result.trial}: metrics: must hold {sorted(order.metrics)}, "
                f"but {missing} are missing"
            )
    write_report(_encode(order, listed, device), os.environ if environ is None else environ)


def write_report(encoded: bytes, environ: Mapping[str, str]) -> None:
    """Write an encoded report to the termination message's file."""
    name = environ.get(environment.TERMINATION_LOG) or environment.DEFAULT_TERMINATION_LOG
    write_termination_message(Path(name), encoded)


def report_unusable_order(
    text: str, message: str, environ: Mapping[str, str], reason: str = "UnusableWorkOrder"
) -> bool:
    """Report every trial that an order names as failed although the order itself can't be used.

    An order of another version, or with a field out of range, most often still names its trials.

    Args:
        text: The order's text.
        message: What is wrong with it.
        environ: Where to find the termination message's file.
        reason: What to call it, one word for programs.

    Returns:
        Whether a report was written: not where no trial's name can be found.
    """
    with suppress(ValueError, RecursionError, OSError, AttributeError, LookupError, TypeError):
        raw = json.loads(text)
        attempt = raw.get("attempt", 0)
        results = tuple(
            CandidateReport(
                trial=candidate["trial"],
                outcome=Outcome.FAILED,
                reason=reason,
                message=message[:1024],
            )
            for candidate in raw["candidates"][:MAX_CANDIDATES_PER_ORDER]
            if isinstance(candidate, dict) and "trial" in candidate
        )
        answer = Report(attempt=attempt if isinstance(attempt, int) and attempt >= 0 else 0, results=results)
        write_report(answer.encode(), environ)
        return True
    return False


def _as_results(
    results: Iterable[CandidateReport] | Mapping[str, Mapping[str, float]],
) -> tuple[CandidateReport, ...]:
    if not isinstance(results, Mapping):
        return tuple(results)
    try:
        return tuple(
            CandidateReport(trial=trial, outcome=Outcome.SUCCEEDED, metrics=dict(metrics))
            for trial, metrics in results.items()
        )
    except ValidationError as error:
        raise ContractError(f"report: {describe(error)}") from error


def _encode(
    order: WorkOrder | ProfileOrder, results: tuple[CandidateReport, ...], device: DeviceReport | None
) -> bytes:
    try:
        return Report(attempt=order.attempt, results=results, device=device).encode()
    except ReportTooLongError:
        # The bound on candidates per pod counts the metrics that the order asks for: these always fit.
        wanted = set(order.metrics)
        reduced = tuple(
            result.model_copy(
                update={"metrics": {name: value for name, value in result.metrics.items() if name in wanted}}
            )
            for result in results
        )
        return Report(attempt=order.attempt, results=reduced, device=device).encode()
