"""A container that was given a profile order: reads it, works, reports. No torch before the order is read.

Exit codes: those for work orders (``nascale_trainer.__main__``).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Final

from nascale.contract.document import is_of_family
from nascale.contract.errors import ContractError
from nascale.contract.profile_order import PROFILE_ORDER_VERSION
from nascale_trainer.allocation import keep_freed_memory
from nascale_trainer.answering import hand_in, report_unusable
from nascale_trainer.progressive import launcher, processes, profile_worker
from nascale_trainer.progressive.container import own_command
from nascale_trainer.progressive.processes import EXIT_TERMINATED, EXIT_UNUSABLE_ORDER
from nascale_trainer.progressive.usable_profile import load_profile_order
from nascale_trainer.sdk import read_work_order_text
from nascale_trainer.stop_request import StopRequest

if TYPE_CHECKING:  # torch reads its variables when it is imported
    from nascale_trainer.progressive.profile_bench import TaskMaker

UNUSABLE_ORDER: Final = "UnusableProfileOrder"
SPARE_MEETINGS: Final = 8
"""Meetings beyond one for each candidate: a pod in the place of another that is gone."""
_PREPARED: Final = "NASCALE_PROFILE_PROCESS"
"""Set in a process that has begun anew, with its variables set before torch was imported."""

log = logging.getLogger("nascale_trainer")


def is_profile_order(environ: Mapping[str, str]) -> bool:
    """Say whether this container was given a profile order, of whatever version."""
    try:
        return is_of_family(read_work_order_text(environ), PROFILE_ORDER_VERSION)
    except ContractError:
        return False


def main(
    make_task: TaskMaker | None = None,
    *,
    stop: StopRequest | None = None,
    environ: MutableMapping[str, str] | None = None,
) -> int:
    """Do what the order asks for, and report; return the exit code.

    Args:
        make_task: Brings model, data and loss; ``None``: those of the built-in trainer.
        stop: Remembers SIGTERM, where that is installed already.
        environ: The container's environment; ``None`` means that of the process.
    """
    environ = os.environ if environ is None else environ
    if stop is None:
        stop = StopRequest()
        stop.install()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked by begin_anew
    try:
        order = load_profile_order(environ)
        profile_worker.check_place(order, environ)
        if make_task is None:
            _check_built_in(order.architecture is None, order.data is None)
    except ContractError as error:
        log.error("%s", error)  # noqa: TRY400  # the message says all, a trace would hide it
        report_unusable(str(error), environ, UNUSABLE_ORDER)
        return EXIT_UNUSABLE_ORDER
    if order.world > 1:
        if not processes.is_training_process(environ):
            # A candidate that fails in one process makes all of them begin anew.
            limits = launcher.Limits(crashes=1, meetings=len(order.candidates) + SPARE_MEETINGS)
            prepared = {**environ, **profile_worker.variables(order, environ), _PREPARED: "1"}
            return launcher.main(own_command(), order, prepared, limits=limits)
        return profile_worker.main(order, make_task, stop, environ)
    # As the launcher does for training processes: see ``processes.stage_environment``.
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory(environ)
    from nascale_trainer.exporter import Metrics  # noqa: PLC0415  # a bad order needs neither

    metrics = Metrics()
    from nascale_trainer.outcomes import Stopped  # noqa: PLC0415  # see above
    from nascale_trainer.progressive.profiling import profile  # noqa: PLC0415  # see above

    try:
        answer = profile(order, make_task, observer=metrics, stop=stop, environ=environ)
    except Stopped:
        log.warning("asked to end: stopped after the step, without a report")
        return EXIT_TERMINATED
    hand_in(order, answer.results, answer.device, metrics, stop=stop, environ=environ)
    return 0


def begin_anew() -> None:
    """Begin this process anew where torch has been imported: its variables must be set before.

    A training process gets them from the launcher. The process stays the same for the kernel and the
    container.
    """
    if "torch" not in sys.modules or _PREPARED in os.environ or _only_launches(os.environ):
        return
    # A signal that comes between the two programs waits until the second one has its handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    variables = {**os.environ, _PREPARED: "1"}
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.execve(sys.executable, own_command(), variables)  # noqa: S606  # the program that already runs


def _only_launches(environ: Mapping[str, str]) -> bool:
    """Say whether this process starts others, which measure."""
    try:
        order = load_profile_order(environ)
    except ContractError:
        return False
    return order.world > 1 and not processes.is_training_process(environ)


def _check_built_in(no_architecture: bool, no_data: bool) -> None:  # noqa: FBT001  # two facts
    for field, missing in (("architecture", no_architecture), ("data", no_data)):
        if missing:
            raise ContractError(
                f"profile order: {field}: must be given for the built-in trainer; a model of your own needs "
                "a container of your own"
            )
