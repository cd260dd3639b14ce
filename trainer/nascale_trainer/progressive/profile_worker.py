"""One process of several that measure together: meets the others, measures, and reports if it is the first.

Exit codes: those of ``processes``; 0 when the profile has ended.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from nascale.contract import environment
from nascale.contract.errors import ContractError
from nascale.contract.profile_order import ProfileOrder
from nascale_trainer.allocation import keep_freed_memory
from nascale_trainer.answering import hand_in
from nascale_trainer.progressive import processes
from nascale_trainer.stop_request import StopRequest

if TYPE_CHECKING:  # torch reads its variables when it is imported
    from collections.abc import Iterable

    from nascale.contract.report import CandidateReport, DeviceReport
    from nascale_trainer.exporter import Metrics
    from nascale_trainer.progressive.profile_bench import TaskMaker
    from nascale_trainer.progressive.profile_group import ProfileNotes

log = logging.getLogger("nascale_trainer")


def check_place(order: ProfileOrder, environ: Mapping[str, str]) -> None:
    """Refuse a container whose processes could not meet.

    Raises:
        ContractError: it has no folder that its pods share, or a place that the order does not have.
    """
    if order.world > 1 and not environ.get(environment.RUN_DIRECTORY):
        raise ContractError(
            f"{environment.RUN_DIRECTORY}: must be set where several processes measure together"
        )
    index = environ.get(environment.WORKER_INDEX) or "0"
    if not index.isdecimal() or int(index) >= order.workers:
        raise ContractError(f"{environment.WORKER_INDEX}: must be 0 to {order.workers - 1}, not {index!r}")


def variables(order: ProfileOrder, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the processes of a profile need in their environment before they import torch.

    Threads are none of it: each candidate's are set when its turn comes.
    """
    hardware = order.candidates[0].stages[0].hardware
    wanted = processes.stage_environment(hardware, order.processes_per_worker, environ)
    return {name: value for name, value in wanted.items() if name != processes.OMP_THREADS}


def main(
    order: ProfileOrder, make_task: TaskMaker | None, stop: StopRequest, environ: MutableMapping[str, str]
) -> int:
    """Do this process's part of a profile; return the exit code.

    Args:
        order: What is asked for, of more than one process.
        make_task: Brings model, data and loss; ``None``: those of the built-in trainer.
        stop: Remembers SIGTERM.
        environ: The environment of the process.
    """
    processes.end_with_launcher(environ)
    keep_freed_memory(environ)
    from nascale_trainer.exporter import Metrics  # noqa: PLC0415  # the launcher imports this module, and needs none of these
    from nascale_trainer.outcomes import Stopped  # noqa: PLC0415  # see above
    from nascale_trainer.progressive.ranks import PeerLost  # noqa: PLC0415  # see above

    first = _is_first(environ)
    metrics = Metrics() if first else None
    try:
        _Part(order, make_task, stop, environ, metrics).carry_out()
    except Stopped:
        log.warning("asked to end: stopped after the step, without a report")
        return processes.EXIT_TERMINATED
    except PeerLost as error:
        log.warning("all processes begin anew: %s", error)
        return processes.EXIT_PEER_LOST
    return 0


def _is_first(environ: Mapping[str, str]) -> bool:
    own = (environ.get(environment.WORKER_INDEX) or "0", environ.get(processes.LOCAL_RANK) or "0")
    return own == ("0", "0")


class _Part:
    """What one process does."""

    def __init__(
        self,
        order: ProfileOrder,
        make_task: TaskMaker | None,
        stop: StopRequest,
        environ: MutableMapping[str, str],
        metrics: Metrics | None,
    ) -> None:
        from nascale_trainer.progressive.profile_group import ProfileNotes  # noqa: PLC0415  # see main

        self._order, self._make_task, self._stop = order, make_task, stop
        self._environ, self._metrics = environ, metrics
        self._notes: ProfileNotes = ProfileNotes(Path(environ[environment.RUN_DIRECTORY]))

    def carry_out(self) -> None:
        """Measure what is not known yet, and report.

        Raises:
            PeerLost: another process is gone, or has not come.
            Stopped: the process was asked to end.
        """
        from nascale_trainer.progressive.group import form_ranks, watching_peers  # noqa: PLC0415  # see main
        from nascale_trainer.progressive.profile_bench import run_order_of  # noqa: PLC0415  # see main
        from nascale_trainer.progressive.profile_group import (  # noqa: PLC0415  # see main
            MOST_MISSED_MEETINGS,
            ProfileGroup,
            absent,
        )
        from nascale_trainer.progressive.profiling import profile  # noqa: PLC0415  # see main
        from nascale_trainer.progressive.ranks import PeerLost  # noqa: PLC0415  # see main

        order = self._order
        known = self._notes.results(order)
        if len(known) == len(order.candidates):
            # All began anew after the last candidate, or the first one did after the others had left.
            self._report([known[candidate.trial] for candidate in order.candidates])
            return
        run = run_order_of(order, order.candidates[0].stages, order.seed)
        try:
            ranks = form_ranks(run, self._environ)
        except PeerLost as error:
            if self._metrics is None or self._notes.missed_meeting() < MOST_MISSED_MEETINGS:
                raise
            log.error("%s: nothing can be measured", error)  # noqa: TRY400  # the message says all
            results = [known.get(result.trial, result) for result in absent(order, str(error))]
            for result in results:
                self._notes.keep(result)
            self._report(results)
            return
        try:
            answer = profile(
                order,
                self._make_task,
                observer=self._metrics,
                stop=self._stop,
                environ=self._environ,
                group=ProfileGroup(order, ranks, self._notes),
            )
            with watching_peers():
                # Nobody leaves before the first one knows everything.
                ranks.barrier()
        finally:
            ranks.close()
        self._report(answer.results, answer.device)

    def _report(self, results: Iterable[CandidateReport], device: DeviceReport | None = None) -> None:
        if self._metrics is None:
            return
        if device is None:
            from nascale_trainer.device import describe_device  # noqa: PLC0415  # see main
            from nascale_trainer.progressive.group import device_of  # noqa: PLC0415  # see main

            device = describe_device(device_of(0))
        hand_in(
            self._order,
            results,
            device,
            self._metrics,
            stop=self._stop,
            environ=None if self._environ is os.environ else self._environ,
        )
