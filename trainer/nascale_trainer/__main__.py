"""The built-in trainer: ``nascale-trainer`` or ``python -m nascale_trainer``, started in a trial's pod.

Exit codes: 0 when a report holds a result for every candidate, whatever it is, for the report says it;
2 for a work order that can't be used; 143 when SIGTERM ended the work before its end (no report: another
pod takes over). Anything else is a fault of the trainer itself. A profile order instead of a work order goes
to ``progressive.profile_container``, which has the same exit codes, a run order to ``progressive.container``,
which has its own.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Final

from nascale.contract.errors import ContractError
from nascale.contract.work_order import WorkOrder
from nascale_trainer import retention
from nascale_trainer.answering import hand_in, report_unusable
from nascale_trainer.postponed import postpone
from nascale_trainer.progressive import container, profile_container
from nascale_trainer.progressive.processes import EXIT_TERMINATED, EXIT_UNUSABLE_ORDER
from nascale_trainer.sdk import load_work_order, read_work_order_text
from nascale_trainer.stop_request import StopRequest
from nascale_trainer.usable_order import check_usable

UNUSABLE_ORDER: Final = "UnusableWorkOrder"

log = logging.getLogger("nascale_trainer")


def main() -> int:
    """Read the order, do the work, write the report; return the exit code.

    With the argument ``keep-checkpoints`` it only drops the folders of trials that are not named.
    """
    stop = StopRequest()
    stop.install()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if sys.argv[1:2] == [retention.COMMAND]:
        return retention.run(sys.argv[2:])
    if _is_training(os.environ):
        return container.main([sys.executable, "-m", "nascale_trainer.progressive.worker"])
    if profile_container.is_profile_order(os.environ):
        return profile_container.main(stop=stop)
    try:
        order = load_work_order()
        check_usable(order)
    except ContractError as error:
        log.error("%s", error)  # noqa: TRY400  # the message says all, a trace would hide it
        report_unusable(str(error), os.environ, UNUSABLE_ORDER)
        return EXIT_UNUSABLE_ORDER
    return run_order(order, stop)


def run_order(order: WorkOrder, stop: StopRequest) -> int:
    """Do the work of a usable order; return the exit code."""
    # Threads that wait for each other by spinning keep the processor from the very one they wait for, as soon
    # as a node has fewer idle processors than threads: calls of 1 ms then take 30 ms. OpenMP reads it once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Later than the order's checks: torch and timm take seconds to import, and a bad order needs neither.
    postpone()
    from nascale_trainer.exporter import Metrics  # noqa: PLC0415

    metrics = Metrics()
    from nascale_trainer.outcomes import Stopped  # noqa: PLC0415
    from nascale_trainer.trial import TrialRun  # noqa: PLC0415

    try:
        run = TrialRun(order, metrics, stop)
        results = run.run()
    except Stopped:
        log.warning("asked to end: stopped after the step, without a report")
        return EXIT_TERMINATED
    hand_in(order, results, run.device, metrics, stop=stop)
    return 0


def _is_training(environ: Mapping[str, str]) -> bool:
    try:
        return container.is_run_order(read_work_order_text(environ))
    except ContractError:
        return False


if __name__ == "__main__":
    sys.exit(main())
