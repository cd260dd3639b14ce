"""What every container with candidates does with its answer, whatever it was asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nascale.contract.errors import ContractError
from nascale.contract.profile_order import ProfileOrder
from nascale.contract.report import CandidateReport, DeviceReport
from nascale.contract.work_order import WorkOrder
from nascale_trainer.sdk import read_work_order_text, report, report_unusable_order
from nascale_trainer.stop_request import StopRequest

if TYPE_CHECKING:  # it imports torch, which a bad order does not need
    from nascale_trainer.exporter import Metrics

log = logging.getLogger("nascale_trainer")


def log_result(result: CandidateReport) -> None:
    """Log what became of a candidate."""
    log.info(
        "%s: %s%s%s",
        result.trial,
        result.outcome,
        f" ({result.reason})" if result.reason else "",
        f": {result.message}" if result.message else "",
    )


def hand_in(
    order: WorkOrder | ProfileOrder,
    results: Iterable[CandidateReport],
    device: DeviceReport | None,
    metrics: Metrics,
    *,
    stop: StopRequest,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Write the report, and let the final values be scraped for as long as the order says.

    Args:
        order: What this answers.
        results: One result per candidate.
        device: Where it ran.
        metrics: The exporter; it is closed.
        stop: Whether the process was asked to end: nothing is waited for then.
        environ: The container's environment; ``None`` means that of the process.
    """
    report(order, results, device=device, environ=environ)
    if stop():
        metrics.interrupt()
    scraped = metrics.close(order.exporter.wait_for, order.exporter.max_linger_seconds)
    if order.exporter.wait_for and not scraped:
        log.warning("the final values were not scraped; the report holds them")


def report_unusable(message: str, environ: Mapping[str, str], reason: str) -> None:
    """Report that the order can't be used, for every trial that it still names.

    Args:
        message: What is wrong with it.
        environ: The container's environment.
        reason: What to call it, one word for programs.
    """
    try:
        text = read_work_order_text(environ)
    except ContractError:
        return
    if not report_unusable_order(text, message, environ, reason):
        log.warning("no report: the order names no trial")
