"""The first process of a training's container: reads the run order, then launches. No torch."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from nascale.contract.document import is_of_family
from nascale.contract.errors import ContractError
from nascale.contract.run_order import RUN_ORDER_VERSION, RunOrder, parse_run_order
from nascale.contract.run_report import RunOutcome, RunReport
from nascale_trainer.progressive import launcher
from nascale_trainer.progressive.processes import EXIT_UNUSABLE_ORDER
from nascale_trainer.sdk import read_work_order_text, write_report

UNUSABLE_ORDER: Final = "UnusableRunOrder"
_MOST_MESSAGE: Final = 1024

log = logging.getLogger(__name__)


def load_run_order(environ: Mapping[str, str]) -> RunOrder:
    """Read the run order that this container was started for.

    Raises:
        ContractError: there is none, or it can't be used; every fault is named.
    """
    order = parse_run_order(read_work_order_text(environ))
    names = [stage.name for stage in order.stages]
    if len(set(names)) != len(names):
        raise ContractError(f"run order: stages: each name must appear once, not {names}")
    return order


def is_run_order(text: str) -> bool:
    """Say whether a document is a run order, of whatever version."""
    return is_of_family(text, RUN_ORDER_VERSION)


def main(command: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run this pod's part of a generation; return the container's exit code.

    Args:
        command: Starts one training process.
        environ: The container's environment; ``None`` means that of the process.
    """
    environ = os.environ if environ is None else environ
    try:
        order = load_run_order(environ)
    except ContractError as error:
        log.error("%s", error)  # noqa: TRY400  # the message says all, a trace would hide it
        report_unusable(str(error), environ)
        return EXIT_UNUSABLE_ORDER
    return launcher.main(command, order, environ)


def own_command() -> list[str]:
    """Return the command that this process was started with, for more processes like it."""
    return [sys.executable, *sys.orig_argv[1:]]


def report_unusable(message: str, environ: Mapping[str, str]) -> None:
    """Report that the order can't be used, where it still names its generation."""
    try:
        generation = json.loads(read_work_order_text(environ))["generation"]
        report = RunReport(
            generation=generation,
            outcome=RunOutcome.FAILED,
            reason=UNUSABLE_ORDER,
            message=message[:_MOST_MESSAGE],
        )
        write_report(report.encode(), environ)
    except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
        log.warning("no report: %s", error)
